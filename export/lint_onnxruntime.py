"""ONNX Runtime's placement rules: what keeps its CPU kernels in integers, checked on any Q/DQ file as written."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.export.finding import Finding
from limpq_deploy.export.float_layers import computes_in_floats, planned_float
from limpq_deploy.export.onnx_files import constants
from limpq_deploy.export.qdq_base import CODE_MOVERS
from limpq_deploy.export.targets import TargetSpec

LAYERS = ("Conv", "Gemm")
POOLS = ("GlobalAveragePool", "AveragePool")
JOINS = ("Add", "Mul", "Concat")
ADD_RULE = "both inputs of an Add are quantized"
BYTES = (np.dtype(np.int8), np.dtype(np.uint8))
BIAS_SCALE_TOLERANCE = 1e-3
"""Relative; a bias scale computed in float32 or float64 agrees far better, one calibrated by itself does not."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """Who makes and who reads each tensor, and the constants."""

    producers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, Sequence[onnx.NodeProto]]
    fixed: Mapping[str, NDArray[Any]]
    outputs: frozenset[str]

    def dequantize(self, tensor: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that a tensor comes from, behind nodes that only move numbers."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type in CODE_MOVERS:
            node = self.producers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None


def onnxruntime_findings(model: onnx.ModelProto, target: TargetSpec) -> Iterator[Finding]:
    """uint8 codes, one quantizer on each float tensor, layers quantized in, out, weight and bias, pools in and out;
    both inputs of an Add, all of a Mul or Concat or none; grids cut on codes; ReLUs that a quantizer absorbs. A layer
    that is left in float by plan breaks no rule, unless ONNX Runtime would quantize its weight by itself."""
    planned = planned_float(model)
    if computes_in_floats(model):
        return
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for tensor in node.input:
            readers[tensor].append(node)
    graph = _Graph(
        producers={name: node for node in model.graph.node for name in node.output},
        readers=readers,
        fixed=constants(model.graph),
        outputs=frozenset(value.name for value in model.graph.output),
    )
    seen: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            yield from _quantizer(node, graph, seen)
        if node.op_type in JOINS:
            yield from _join(node, graph)
        if node.op_type in LAYERS and node.name in planned:
            yield from _float_layer(node, graph)
        elif node.op_type in LAYERS:
            yield from _layer(node, graph)
        if node.op_type in POOLS:
            yield from _pool(node, graph)


def _quantizer(node: onnx.NodeProto, graph: _Graph, seen: dict[str, str]) -> Iterator[Finding]:
    if node.input[0] in graph.fixed:
        return  # a weight that is quantized in the file: folded
    first = seen.setdefault(node.input[0], _name(node))
    if first != _name(node):
        yield Finding(
            node=_name(node),
            rule="a float tensor has one QuantizeLinear",
            consequence=f"it follows {first!r} on {node.input[0]!r}; that tensor's producer stays float",
            remedy="quantize once and re-quantize from its DequantizeLinear",
        )
    scale = graph.fixed.get(node.input[1])
    zero_point = graph.fixed.get(node.input[2]) if len(node.input) > 2 else None
    if zero_point is None or scale is None or scale.size != 1 or zero_point.size != 1:
        return
    if zero_point.dtype != np.uint8:
        yield Finding(
            node=_name(node),
            rule="activation codes are uint8",
            consequence="few convolutions of int8 codes are fused (9 of 20 in ResNet-18), the others stay float"
            if zero_point.dtype == np.int8
            else f"there is no kernel for {zero_point.dtype} codes: the layers round it stay float",
            remedy="write uint8 codes: zero-point 0 after a ReLU, 128 where values are negative",
        )
    source = graph.producers.get(node.input[0])
    if source is None or zero_point.dtype not in BYTES:
        return
    lowest, highest = (end - int(zero_point.reshape(-1)[0]) for end in _ends(zero_point))
    if source.op_type == "Relu" and lowest != 0:
        yield Finding(
            node=_name(source),
            rule="the quantizer behind a ReLU has its zero-point at the lowest code",
            consequence=f"the zero-point is {-lowest} above it, so the ReLU is no clamp of codes: it and its "
            "layer stay float",
            remedy="quantize a ReLU's result with zero-point 0 of uint8",
        )
    if source.op_type == "Clip":
        yield from _clip(source, graph, float(scale.reshape(-1)[0]) * np.array([lowest, highest]))


def _clip(node: onnx.NodeProto, graph: _Graph, reach: NDArray[np.float64]) -> Iterator[Finding]:
    """A Clip of floats disappears only where the quantizer behind it, which reaches from..to, cuts no later."""
    ends = [graph.fixed.get(name) if name else None for name in (*node.input[1:], "", "")[:2]]
    low, high = (
        bound if end is None or end.size != 1 else float(end.reshape(-1)[0])
        for end, bound in zip(ends, (-np.inf, np.inf), strict=True)
    )
    if reach[0] < low - 1e-6 or reach[1] > high * (1 + 1e-6):
        yield Finding(
            node=_name(node),
            rule="a grid is cut on its codes",
            consequence=f"this Clip of floats to {low:g}..{high:g} is not absorbed by a quantizer that reaches from "
            f"{reach[0]:g} to {reach[1]:g}: the layer before it stays float",
            remedy="put the Clip behind QuantizeLinear, on the codes",
        )


def _join(node: onnx.NodeProto, graph: _Graph) -> Iterator[Finding]:
    bare = [tensor for tensor in node.input if _op(graph.producers.get(tensor)) != "DequantizeLinear"]
    if node.op_type != "Add" and len(bare) == len(node.input):
        return  # arithmetic on shapes, or a float part of the model
    for tensor in bare:
        yield Finding(
            node=_name(node),
            rule=ADD_RULE if node.op_type == "Add" else f"all inputs of a {node.op_type} are quantized, or none",
            consequence=f"input {tensor!r} is float, so this {node.op_type} and the layer before it stay float",
            remedy="put a quantizer on that input",
        )


def _layer(node: onnx.NodeProto, graph: _Graph) -> Iterator[Finding]:
    source, weight = graph.dequantize(node.input[0]), graph.producers.get(node.input[1])
    if source is None and _op(weight) != "DequantizeLinear":
        yield Finding(
            node=_name(node),
            rule="a layer is quantized",
            consequence="neither its input nor its weight is, so this layer runs in float32",
            remedy="quantize the model for this target",
        )
        return
    if source is None:
        yield Finding(
            node=_name(node),
            rule="a layer's input is quantized",
            consequence=f"input {node.input[0]!r} is float, so this layer stays float",
            remedy="put a quantizer on that input",
        )
    yield from _weight(node, weight, graph)
    if len(node.input) > 2 and node.input[2]:
        yield from _bias(node, source, weight, graph)
    yield from _result(node, graph)


def _float_layer(node: onnx.NodeProto, graph: _Graph) -> Iterator[Finding]:
    source = graph.producers.get(node.input[0])
    scale = graph.fixed.get(source.input[1]) if source is not None and source.op_type == "DequantizeLinear" else None
    if scale is not None and scale.size == 1 and node.input[1] in graph.fixed and not list(_result(node, graph)):
        yield Finding(
            node=_name(node),
            rule="a layer that is left in float does not stand between one scale and a QuantizeLinear",
            consequence="ONNX Runtime quantizes its float weight to 8 bits by itself and runs it in integers",
            remedy="write the scale of its DequantizeLinear once for each channel: export again",
        )


def _weight(node: onnx.NodeProto, weight: onnx.NodeProto | None, graph: _Graph) -> Iterator[Finding]:
    codes = None
    if weight is not None and weight.op_type == "DequantizeLinear":
        quantize = graph.producers.get(weight.input[0])
        if _op(quantize) == "QuantizeLinear" and quantize is not None and quantize.input[0] in graph.fixed:
            return
        codes = graph.fixed.get(weight.input[0])
    if codes is None or codes.dtype not in BYTES:
        found = "it has none" if codes is None else f"they are {codes.dtype}"
        yield Finding(
            node=_name(node),
            rule="a weight is a constant of 8-bit codes with a DequantizeLinear",
            consequence=f"{found}; this layer is not fused and stays float",
            remedy="write int8 codes; narrower types are for storage and are widened before they run here",
        )


def _bias(
    node: onnx.NodeProto, source: onnx.NodeProto | None, weight: onnx.NodeProto | None, graph: _Graph
) -> Iterator[Finding]:
    bias = graph.producers.get(node.input[2])
    codes = graph.fixed.get(bias.input[0]) if bias is not None and bias.op_type == "DequantizeLinear" else None
    if bias is None or codes is None or codes.dtype != np.int32:
        yield Finding(
            node=_name(node),
            rule="a bias is a constant of int32 codes with a DequantizeLinear",
            consequence="ONNX Runtime rounds a float bias by itself, so that its numbers are not the file's",
            remedy="write int32 codes with the scale input scale * weight scale",
        )
        return
    scales = [graph.fixed.get(one.input[1]) for one in (source, weight, bias) if one is not None and len(one.input) > 1]
    if len(scales) < 3 or any(scale is None for scale in scales):
        return
    of_input, of_weight, of_bias = (np.ravel(np.asarray(scale, np.float64)) for scale in scales)
    fit = len({of_input.size, of_weight.size, of_bias.size} - {1}) < 2
    if not fit or not np.allclose(of_bias, of_input * of_weight, rtol=BIAS_SCALE_TOLERANCE, atol=0):
        yield Finding(
            node=_name(node),
            rule="a bias has the scale input scale * weight scale",
            consequence="the fused kernel adds the codes to its sums as they are, which is another bias",
            remedy="round the bias to input scale * weight scale",
        )


def _result(node: onnx.NodeProto, graph: _Graph) -> Iterator[Finding]:
    """A QuantizeLinear behind the layer or its activation; a last Gemm may end in floats, and joins have own rules."""
    tensor = node.output[0]
    while len(graph.readers.get(tensor, ())) == 1 and graph.readers[tensor][0].op_type in ("Relu", "Clip"):
        tensor = graph.readers[tensor][0].output[0]
    readers = graph.readers.get(tensor, ())
    if any(reader.op_type in ("QuantizeLinear", *JOINS) for reader in readers):
        return
    if tensor in graph.outputs and node.op_type == "Gemm":
        return
    found = ", ".join(sorted({reader.op_type for reader in readers})) or "the model's output"
    yield Finding(
        node=_name(node),
        rule="a layer's result is quantized",
        consequence=f"{found} takes {tensor!r} in floats, so this layer stays float",
        remedy="put a quantizer behind this layer (behind its ReLU where it has one)",
    )


def _pool(node: onnx.NodeProto, graph: _Graph) -> Iterator[Finding]:
    before = graph.dequantize(node.input[0]) is not None
    tensor = node.output[0]
    while len(graph.readers.get(tensor, ())) == 1 and graph.readers[tensor][0].op_type in CODE_MOVERS:
        tensor = graph.readers[tensor][0].output[0]
    behind = any(reader.op_type == "QuantizeLinear" for reader in graph.readers.get(tensor, ()))
    if before and behind:
        return
    where = "its input is float" if behind else "its result is float" if before else "neither side is quantized"
    yield Finding(
        node=_name(node),
        rule="a pool that averages is quantized on both sides",
        consequence=f"{where}, so this pool runs in float32",
        remedy="put quantizers on its input and on its result",
    )


def _ends(zero_point: NDArray[Any]) -> tuple[int, int]:
    ends = np.iinfo(zero_point.dtype)
    return int(ends.min), int(ends.max)


def _op(node: onnx.NodeProto | None) -> str | None:
    return None if node is None else node.op_type


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
