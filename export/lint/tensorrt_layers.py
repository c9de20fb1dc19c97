"""Which layers of a Q/DQ file TensorRT runs in integers.

Codes are followed from a layer's inputs back to where they are dequantized, through what moves or compares them.

All of it was built (TensorRT-for-RTX 1.7.1): a convolution behind each of these operators read int8, behind any other
(Relu, Clip, Resize, AveragePool, an Add, a Mul for each channel, ...) float.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.export.lint.graph import DEQUANTIZE, FP8_DEQUANTIZE, QUANTIZE, LintGraph, name_of
from limpq_deploy.export.lint.rules import finding
from limpq_deploy.export.records.targets import FileForm

MOVERS = (
    "Abs", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "GlobalMaxPool",
    "Identity", "MaxPool", "Neg", "Pad", "ReduceMax", "ReduceMin", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
JOINS = {"Concat": 0, "Max": 0, "Min": 0, "Where": 1}
"""Operators that take several tensors of one scale, by the first input that is one."""

FP8 = TensorProto.FLOAT8E4M3FN
EIGHT_BITS = (TensorProto.INT8, TensorProto.UINT8, FP8)


@dataclass(frozen=True, slots=True)
class Stop:
    """Where codes end on the way back from a layer, in words."""

    why: str


Source = onnx.NodeProto | Stop
"""The DequantizeLinear that a layer's input comes from, or why there is none."""


def layer_findings(node: onnx.NodeProto, graph: LintGraph, form: FileForm) -> Iterator[Finding]:
    """Why a Conv, ConvTranspose, Gemm or MatMul does not run in integers; nothing where it does."""
    name = name_of(node)
    places = _constant_place(node, graph)
    source = source_of(node.input[1 - places], graph)
    weight = source_of(node.input[places], graph)
    if isinstance(source, Stop) and isinstance(weight, Stop):
        yield finding("not-quantized", name, "neither its input nor its weight is, so this layer runs in float")
        return
    if node.op_type == "ConvTranspose":
        yield finding("deconvolution", name, "TensorRT has no int8 kernel that takes this one: it runs in float")
        return
    if isinstance(source, Stop):
        yield finding("input-float", name, f"{source.why}: this layer stays float")
    elif node.op_type == "Conv" or not isinstance(weight, Stop):
        yield from _activation(node, source, graph)
    if isinstance(weight, Stop):
        yield finding("weight-form", name, f"{weight.why}: this layer stays float")
        return
    yield from _weight(node, places, weight, graph, form)
    if not isinstance(source, Stop):
        yield from _pair(node, source, weight, graph, form)


def source_of(tensor: str, graph: LintGraph) -> Source:
    """The DequantizeLinear whose codes reach a tensor as they are."""
    node = graph.maker(tensor)
    if node is None:
        return Stop(f"{tensor!r} is a float constant" if tensor in graph.fixed else f"input {tensor!r} is float")
    if node.op_type in (DEQUANTIZE, FP8_DEQUANTIZE):
        return node
    if node.op_type in JOINS:
        return _joined(node, graph)
    if node.op_type in MOVERS:
        value = graph.value(node.input[2]) if node.op_type == "Pad" and graph.given(node, 2) else None
        if value is not None and np.any(value):
            return Stop(f"Pad {name_of(node)!r} adds {np.ravel(value)[0]:g} in float")
        return source_of(node.input[0], graph)
    if node.op_type == "Cast" and not _widens(node, graph):
        return source_of(node.input[0], graph)
    if node.op_type in ("Mul", "Div"):
        sides = [at for at in (0, 1) if (one := graph.value(node.input[at])) is not None and one.size == 1]
        if sides and (node.op_type == "Mul" or sides == [1]):
            return source_of(node.input[1 - sides[0]], graph)
    return Stop(f"{node.op_type} {name_of(node)!r} makes it in float")


def _joined(node: onnx.NodeProto, graph: LintGraph) -> Source:
    sources = [source_of(tensor, graph) for tensor in node.input[JOINS[node.op_type] :]]
    scales: set[float] = set()
    for source in sources:
        if isinstance(source, Stop):
            return source
        scale = graph.value(source.input[1])
        if scale is None or scale.size != 1:
            return Stop(f"{node.op_type} {name_of(node)!r} takes scales of several numbers")
        scales.add(float(np.ravel(scale)[0]))
    if len(scales) > 1:
        several = ", ".join(f"{scale:g}" for scale in sorted(scales))
        return Stop(f"{node.op_type} {name_of(node)!r} takes codes of several scales ({several})")
    return sources[0]


def _widens(node: onnx.NodeProto, graph: LintGraph) -> bool:
    """Whether a Cast makes the numbers wider: to FP32 from FP16; then the layer behind it reads floats."""
    return graph.types.get(node.input[0]) != TensorProto.FLOAT and attribute(node, "to") == TensorProto.FLOAT


def _constant_place(node: onnx.NodeProto, graph: LintGraph) -> int:
    """Which input is the weight: the second, but the first of a product that has its constant there."""
    left = node.op_type == "MatMul" and graph.from_constants(node.input[0])
    return 0 if left and not graph.from_constants(node.input[1]) else 1


def _activation(node: onnx.NodeProto, source: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    scale = graph.value(source.input[1])
    if scale is not None and (scale.size > 1 or (scale.ndim and node.op_type == "Conv")):
        found = f"{scale.size} scales" if scale.size > 1 else f"a scale of shape {list(scale.shape)}"
        yield finding(
            "activation-scale", name_of(node), f"{name_of(source)!r} has {found}, which no integer kernel takes"
        )


def _weight(
    node: onnx.NodeProto, place: int, weight: onnx.NodeProto, graph: LintGraph, form: FileForm
) -> Iterator[Finding]:
    name, scale = name_of(node), graph.value(weight.input[1])
    quantize = graph.maker(weight.input[0], QUANTIZE)
    if form.weights == "float32" and (quantize is None or quantize.input[0] not in graph.fixed):
        yield finding("weight-for-8.6", name, f"TensorRT {form.parser} does not read other forms reliably")
    if scale is None or scale.size == 1 or attribute(weight, "block_size", 0):
        return
    shape, wanted = graph.shape(node.input[place]), _channels(node, place)
    axis = _axis_behind(weight, node.input[place], graph)
    rank = len(shape) if shape is not None else 4 if node.op_type == "Conv" else 2
    if axis is None or axis % rank != wanted % rank:
        yield finding(
            "weight-axis",
            name,
            f"the scales of {name_of(weight)!r} stand along axis {attribute(weight, 'axis', 1)}, where the sums of one "
            "output have several scales: this layer stays float",
        )


def _channels(node: onnx.NodeProto, place: int) -> int:
    """Axis of a weight along which its outputs stand."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return -2 if place == 0 else -1


def _axis_behind(weight: onnx.NodeProto, tensor: str, graph: LintGraph) -> int | None:
    """Where the axis of a weight's scales lies in the tensor that the layer reads; None where it was mixed up."""
    chain: list[onnx.NodeProto] = []
    while (node := graph.maker(tensor)) is not None and node.output[0] != weight.output[0]:
        chain.insert(0, node)
        tensor = next((name for name in node.input if graph.maker(name) is not None), node.input[0])
    axis = attribute(weight, "axis", 1)
    for node in chain:
        before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
        if node.op_type == "Transpose" and before is not None:
            order = attribute(node, "perm", list(range(len(before)))[::-1])
            axis = order.index(axis % len(before))
        elif node.op_type in ("Reshape", "Unsqueeze", "Squeeze", "Flatten"):
            moved = None if before is None or after is None else _same_axis(before, after, axis % len(before))
            if moved is None:
                return None
            axis = moved
    return int(axis)


def _same_axis(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """The axis of a reshaped tensor that counts the same things."""
    for at, size in enumerate(after):
        if size == before[axis] and math.prod(after[:at]) == math.prod(before[:axis]):
            return at
    return None


def _pair(
    node: onnx.NodeProto, source: onnx.NodeProto, weight: onnx.NodeProto, graph: LintGraph, form: FileForm
) -> Iterator[Finding]:
    """Types of the codes of both inputs. Where FP8 is a format of the target it is no finding by itself."""
    kinds = [graph.types.get(one.input[0]) for one in (source, weight)]
    if None in kinds:
        return
    if node.op_type == "Conv" and (kinds[1] not in EIGHT_BITS or (kinds[0] == FP8) != (kinds[1] == FP8)):
        found = " and ".join(TensorProto.DataType.Name(kind).lower() for kind in kinds if kind is not None)
        yield finding("convolution-codes", name_of(node), f"they are {found}, and the builder refuses the model")
        return
    if FP8 in kinds and not form.fp8:
        yield finding("fp8", name_of(node), "it runs in FP8 (E4M3), and not before compute capability 8.9")
