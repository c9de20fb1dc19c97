"""What any reader of Q/DQ files asks of them: counts, lengths and types that fit.

Files that break these were refused by NVIDIA's parser and by ONNX Runtime 1.32, by the latter some only when they ran.
"""

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.export.lint.graph import DEQUANTIZE, QUANTIZE, LintGraph, name_of
from limpq_deploy.export.lint.rules import finding

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OF_ONE_TYPE = (*LAYERS, "Add", "Sub", "Mul", "Div", "Concat")
"""Operators whose inputs have to be of one type."""


def zero_point_count(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """A zero-point for each scale."""
    scale = graph.value(node.input[1])
    zero_point = graph.value(node.input[2]) if graph.given(node, 2) else None
    if scale is not None and zero_point is not None and zero_point.size != scale.size:
        yield finding(
            "zero-point-count", name_of(node), f"it has {zero_point.size} for {scale.size} scales, which is refused"
        )


def types_agree(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """One type for all inputs of a layer, sum, product or concatenation."""
    if node.op_type not in OF_ONE_TYPE:
        return
    found = [graph.types[name] for name in node.input if name in graph.types]
    if len(found) == sum(1 for name in node.input if name) and len(set(found)) > 1:
        kinds = " and ".join(TensorProto.DataType.Name(kind).lower() for kind in dict.fromkeys(found))
        yield finding("types-agree", name_of(node), f"this {node.op_type} reads {kinds}, which is refused")


def scale_length(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """Scales along an axis, or in blocks of its last two axes."""
    scale = graph.value(node.input[1])
    if scale is None:
        return
    name, axis = name_of(node), attribute(node, "axis", 1)
    shape = graph.shape(node.input[0]) or (_channels_of(node.input[0], graph) if axis == 1 else None)
    if attribute(node, "block_size", 0):
        if shape is not None and axis % len(shape) < len(shape) - 2:
            yield finding("scale-length", name, "its blocks stand along another axis than the last two: refused")
    elif scale.ndim > 1:
        yield finding("scale-length", name, f"its scale has the shape {list(scale.shape)}: refused")
    elif scale.size > 1 and shape is not None and -len(shape) <= axis < len(shape) and shape[axis] != scale.size:
        yield finding("scale-length", name, f"it has {scale.size} for {shape[axis]} channels: refused")


def _channels_of(tensor: str, graph: LintGraph) -> tuple[int, ...] | None:
    """(1, channels, 1, 1) of a convolution's result, as far as its weight is in the file."""
    node = graph.maker(tensor)
    while node is not None and node.op_type in ("Relu", "Clip", QUANTIZE, DEQUANTIZE):
        node = graph.maker(node.input[0])
    weight = graph.shape(node.input[1]) if node is not None and node.op_type == "Conv" else None
    return None if weight is None else (1, weight[0], 1, 1)
