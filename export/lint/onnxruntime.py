"""ONNX Runtime's rules: why a layer of a Q/DQ file does not run in integers on its CPU kernels, as the file shows it.

Where ONNX Runtime is installed these are explanations: what runs in float is then read from its own optimised graph
(`judged`). Where it is not, they are all there is.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from limpq_deploy.export.graph.float_layers import computes_in_floats, planned_float
from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.export.lint.graph import DEQUANTIZE, QUANTIZE, LintGraph, name_of
from limpq_deploy.export.lint.rules import finding
from limpq_deploy.export.lint.well_formed import LAYERS, scale_length, types_agree, zero_point_count
from limpq_deploy.export.records.targets import FileForm

POOLS = ("GlobalAveragePool", "AveragePool")
JOINS = ("Mul", "Concat")
MOVERS = ("MaxPool", "Reshape", "Slice", "Pad", "Identity", "Dropout", "Transpose", "Squeeze", "Unsqueeze", "Expand")
"""Operators that ONNX Runtime takes between DequantizeLinear and a convolution, putting a pair behind them. Flatten,
Gather, Concat and Split are none."""

ACTIVATIONS = ("Relu", "Clip")
BYTES = (TensorProto.INT8, TensorProto.UINT8)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
BIAS_SCALE_TOLERANCE = 1e-3
"""Relative; a bias scale computed in float32 or float64 agrees far better, one calibrated by itself does not."""


def findings(model: onnx.ModelProto, form: FileForm) -> Iterator[Finding]:
    """Codes of 8 bits from one quantizer on each float tensor; layers quantized in, out and weight; both inputs of an
    Add, all of a Mul or Concat or none; grids cut on codes; ReLUs that a quantizer absorbs. A layer that is left in
    float by plan breaks no rule, unless ONNX Runtime would quantize its weight by itself."""
    planned = planned_float(model)
    if computes_in_floats(model):
        return
    graph = LintGraph(model)
    for node in graph.nodes:
        yield from types_agree(node, graph)
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            yield from _quantizer(node, graph)
        elif node.op_type == "Add":
            yield from _add(node, graph)
        elif node.op_type in JOINS:
            yield from _join(node, graph)
        elif node.op_type in POOLS and graph.quantized:
            yield from _pool(node, graph)
        elif node.op_type in LAYERS and node.name not in planned:
            yield from _layer(node, graph)
        elif node.op_type in LAYERS:
            yield from _rounded(node, graph)


def _quantizer(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    kinds = [graph.types.get(name) for name in node.input[:2]]
    if node.op_type == QUANTIZE and None not in kinds and kinds[0] != kinds[1] and kinds[0] in FLOATS:
        yield finding("input-types", name_of(node), "its scale has another type: ONNX Runtime refuses the model")
    yield from zero_point_count(node, graph)
    yield from scale_length(node, graph)
    scale = graph.value(node.input[1])
    if scale is not None and not np.isfinite(scale).all():
        yield finding("scale-finite", name_of(node), "codes of this tensor mean nothing")


def _add(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    if any(graph.from_constants(tensor) for tensor in node.input):
        return  # a bias, which the layer before it takes in
    for tensor in node.input:
        if graph.maker(tensor, DEQUANTIZE) is None and graph.types.get(tensor) in (None, *FLOATS):
            yield finding("add-float", name_of(node), f"input {tensor!r} is float, so this Add runs in float")
    readers = graph.readers[node.output[0]]
    if [reader.op_type for reader in readers] == [QUANTIZE]:
        yield from _absorbed(name_of(node), None, readers[0], graph)


def _join(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    bare = [tensor for tensor in node.input if graph.maker(tensor, DEQUANTIZE) is None]
    if len(bare) == len(node.input):
        return  # arithmetic on shapes, or a float part of the model
    for tensor in bare:
        yield finding("join-float", name_of(node), f"input {tensor!r} is float, so this {node.op_type} runs in float")


def _layer(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    name, source, weight = name_of(node), _codes(node.input[0], graph), graph.maker(node.input[1], DEQUANTIZE)
    if source is None and weight is None:
        yield finding("not-quantized", name, "neither its input nor its weight is, so this layer runs in float")
        return
    if node.op_type == "ConvTranspose":
        yield finding("deconvolution", name, "ONNX Runtime has no integer kernel for it: it runs in float")
        return
    if source is None:
        yield finding("input-float", name, f"input {node.input[0]!r} is float, so this layer stays float")
    else:
        yield from _activation(node, source, graph)
    if weight is None:
        yield from _float_weight(node, source, graph)
    else:
        yield from _weight(node, weight, graph)
        if source is not None and graph.given(node, 2):
            yield from _bias(node, source, weight, graph)
    yield from _result(node, graph)


def _activation(node: onnx.NodeProto, source: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    scale, kind = graph.value(source.input[1]), graph.types.get(source.input[0])
    if scale is not None and scale.size > 1:
        yield finding("activation-scale", name_of(node), f"its input has {scale.size}, which no integer kernel takes")
    if kind is not None and kind not in BYTES:
        yield _wide(name_of(node), kind)


def _wide(name: str, kind: int) -> Finding:
    return finding("codes-16-bit", name, f"there is no kernel for {TensorProto.DataType.Name(kind).lower()} codes")


def _float_weight(node: onnx.NodeProto, source: onnx.NodeProto | None, graph: LintGraph) -> Iterator[Finding]:
    if not list(_rounded(node, graph)):
        yield finding("weight-form", name_of(node), f"{node.input[1]!r} is float, so this layer stays float")
        return
    yield from _rounded(node, graph)


def _rounded(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """A float layer between one scale and a QuantizeLinear."""
    source = graph.maker(node.input[0], DEQUANTIZE)
    scale = graph.value(source.input[1]) if source is not None else None
    if scale is not None and scale.size == 1 and node.input[1] in graph.fixed and not list(_result(node, graph)):
        yield finding(
            "weight-rounded", name_of(node), "ONNX Runtime quantizes its float weight to 8 bits and runs it in integers"
        )


def _weight(node: onnx.NodeProto, weight: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    kind, scale = graph.types.get(weight.input[0]), graph.value(weight.input[1])
    if not graph.from_constants(weight.input[0]) or kind not in BYTES:
        found = "computed" if kind in BYTES or kind is None else TensorProto.DataType.Name(kind).lower()
        yield finding("weight-form", name_of(node), f"its weight is {found}; this layer is not fused and stays float")
    if node.op_type == "Conv" and scale is not None and scale.size > 1 and np.ptp(scale) > 0:
        shape = graph.shape(weight.input[0])
        axis = attribute(weight, "axis", 1)
        if axis not in (0, -len(shape) if shape is not None else 0):
            yield finding(
                "weight-axis-0", name_of(node), f"they stand along axis {axis} and are read along 0: other sums"
            )


def _bias(node: onnx.NodeProto, source: onnx.NodeProto, weight: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """A float bias is rounded to that scale by ONNX Runtime itself, which is no finding: at most half a step of the
    accumulator."""
    bias = graph.maker(node.input[2], DEQUANTIZE)
    if bias is None:
        return
    scales = [graph.value(one.input[1]) for one in (source, weight, bias)]
    zero_point = graph.value(bias.input[2]) if graph.given(bias, 2) else None
    of_input, of_weight, of_bias = (None if scale is None else np.ravel(scale).astype(np.float64) for scale in scales)
    if of_input is None or of_weight is None or of_bias is None:
        return
    fit = len({of_input.size, of_weight.size, of_bias.size} - {1}) < 2
    shifted = zero_point is not None and np.any(zero_point)
    if shifted or not fit or not np.allclose(of_bias, of_input * of_weight, rtol=BIAS_SCALE_TOLERANCE, atol=0):
        yield finding("bias-scale", name_of(node), "integer kernels add its codes to sums as they are: it stays float")


def _result(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    """One QuantizeLinear alone behind the layer or its activation; a product may end in float without a bias."""
    name, tensor, activation = name_of(node), node.output[0], None
    while len(graph.readers[tensor]) == 1 and tensor not in graph.outputs:
        reader = graph.readers[tensor][0]
        if reader.op_type == "Add" and any(graph.from_constants(one) for one in reader.input):
            pass  # the bias behind a product
        elif reader.op_type in ACTIVATIONS:
            activation = reader
        else:
            break
        tensor = reader.output[0]
    readers = graph.readers[tensor]
    if [reader.op_type for reader in readers] == [QUANTIZE] and tensor not in graph.outputs:
        yield from _absorbed(name, activation, readers[0], graph)
    elif node.op_type not in ("MatMul", "Gemm") or (graph.given(node, 2) and graph.maker(node.input[2]) is None):
        found = ", ".join(sorted({reader.op_type for reader in readers})) or "the model's output"
        several = "two quantizers read" if found == QUANTIZE else f"{found} takes"
        yield finding("result-float", name, f"{several} {tensor!r} in float, so this layer stays float")


def _absorbed(
    name: str, activation: onnx.NodeProto | None, quantize: onnx.NodeProto, graph: LintGraph
) -> Iterator[Finding]:
    """Whether an activation between a layer and its quantizer is no more than the end of the grid."""
    scale = graph.value(quantize.input[1])
    kind = graph.types.get(quantize.output[0], TensorProto.UINT8)
    if kind not in BYTES:
        yield _wide(name, kind)
        return
    if scale is None or scale.size != 1:
        return
    activation = activation or _behind(quantize, graph)
    if activation is None:
        return
    zero = graph.value(quantize.input[2]) if graph.given(quantize, 2) else None
    zero_point = 0 if zero is None or zero.size != 1 else int(np.ravel(zero)[0])
    lowest, highest = (0, 255) if kind == TensorProto.UINT8 else (-128, 127)
    if activation.op_type == "Relu":
        if zero_point != lowest:
            yield finding(
                "relu-zero-point",
                name,
                f"it is {zero_point - lowest} above: the ReLU is no clamp of codes, and its layer stays float",
            )
        return
    ends = [graph.value(one) if one else None for one in (*activation.input[1:], "", "")[:2]]
    low, high = (
        bound if end is None or end.size != 1 else float(np.ravel(end)[0])
        for end, bound in zip(ends, (-np.inf, np.inf), strict=True)
    )
    step = float(np.ravel(scale)[0])
    reach = (step * (lowest - zero_point), step * (highest - zero_point))
    if reach[0] < low - 1e-6 or reach[1] > high * (1 + 1e-6):
        yield finding(
            "clip-float",
            name,
            f"a Clip of floats to {low:g}..{high:g} is not absorbed by a quantizer that reaches from {reach[0]:g} to "
            f"{reach[1]:g}: this layer stays float",
        )


def _behind(quantize: onnx.NodeProto, graph: LintGraph) -> onnx.NodeProto | None:
    """A ReLU behind a pair of int8 codes: the pair is taken away, and then it stands before the next quantizer."""
    if graph.types.get(quantize.output[0]) != TensorProto.INT8:
        return None
    pair = next(iter(graph.readers[quantize.output[0]]), quantize)
    readers = graph.readers[pair.output[0]] if pair.op_type == DEQUANTIZE else []
    return readers[0] if [reader.op_type for reader in readers] == ["Relu"] else None


def _pool(node: onnx.NodeProto, graph: LintGraph) -> Iterator[Finding]:
    before = _codes(node.input[0], graph) is not None
    tensor = node.output[0]
    while len(graph.readers[tensor]) == 1 and graph.readers[tensor][0].op_type in MOVERS:
        tensor = graph.readers[tensor][0].output[0]
    behind = any(reader.op_type == QUANTIZE for reader in graph.readers[tensor])
    if not before or not behind:
        where = "its input is float" if behind else "its result is float" if before else "neither side is quantized"
        yield finding("pool-float", name_of(node), f"{where}, so this pool runs in float32")


def _codes(tensor: str, graph: LintGraph) -> onnx.NodeProto | None:
    """The DequantizeLinear that a tensor comes from, behind nodes that only move numbers."""
    node = graph.maker(tensor)
    while node is not None and node.op_type in MOVERS:
        node = graph.maker(node.input[0])
    return node if node is not None and node.op_type == DEQUANTIZE else None
