"""Files of other tools in the form that the integer reference reads: every node named once, integer operators as pairs.

An integer operator of ONNX Runtime (QLinearConv, QGemm, ...) means what its float operator means between
DequantizeLinear and QuantizeLinear, and so it is written here. Its name stays with the float operator, the name of its
result with the codes: what a runtime makes of the file can be found again by both.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.code_grids import default_type
from limpq_deploy.export.graph.graph_rules import named, subgraphs
from limpq_deploy.export.graph.onnx_files import attribute, constants

_MADE_BY_PASSES = re.compile(r"(_nchwc)?(_token_\d+)?$")


def with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no two nodes share a name, and none has one that a layout pass could have given it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        name = _MADE_BY_PASSES.sub("", node.name)
        if not name or name in taken:
            name = f"{name or node.op_type}#{index}"
        taken.add(name)
        node.name = name
    return copy


def require_readable(model: onnx.ModelProto) -> None:
    """Raises ModelError, with the node, for what the reference of a file has no meaning for: one input, no
    subgraphs, float32 scales, integer codes."""
    fixed = constants(model.graph)
    inputs = [value.name for value in model.graph.input if value.name not in fixed]
    if len(inputs) != 1:
        raise ModelError(
            f"the model has {len(inputs)} inputs ({', '.join(inputs)}); parity compares models of one input: make the "
            "others constants"
        )
    for node in model.graph.node:
        if any(subgraphs(node)):
            raise ModelError(f"{named(node)} holds a graph of its own; parity reads graphs without branches and loops")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _require_plain_grid(node, fixed)
    if not any(node.op_type in QUANTIZERS or node.op_type in PAIRS for node in model.graph.node):
        raise ModelError(
            "the model quantizes nothing, so there are no codes to compare; give a quantized model, with "
            "QuantizeLinear and DequantizeLinear nodes"
        )


QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def _require_plain_grid(node: onnx.NodeProto, fixed: Mapping[str, np.ndarray]) -> None:
    grid = [name for name in node.input[1:3] if name]
    if any(name not in fixed for name in grid):
        raise ModelError(f"{named(node)} computes its scale or zero-point; parity needs them as constants of the file")
    scale = fixed[grid[0]]
    if scale.dtype != np.float32:
        raise ModelError(f"{named(node)} has a scale of type {scale.dtype}; parity reads scales of float32")
    if not np.isfinite(scale).all():
        raise ModelError(f"{named(node)} has a scale that is not finite; no integers follow from it")
    kind = fixed[grid[1]].dtype if len(grid) > 1 else default_type(node)
    if kind.name.startswith("float"):
        raise ModelError(f"{named(node)} has codes of type {kind.name}; parity compares integers")
    if node.op_type == "QuantizeLinear" and not np.issubdtype(kind, np.integer):  # int4 and the like: no type of NumPy
        raise ModelError(f"{named(node)} makes codes of type {kind.name}; parity compares codes of 8 bits and more")


def as_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every integer operator written as its float operator between pairs (see the top)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    fixed = constants(model.graph)
    for node in model.graph.node:
        if node.op_type in QUANTIZERS:
            node = _standard(node)
        elif node.op_type in PAIRS:
            _Writer(copy.graph, node, fixed).write()
            continue
        copy.graph.node.append(node)
    return copy


def _standard(node: onnx.NodeProto) -> onnx.NodeProto:
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.domain = ""
    return plain


class _Writer:
    """Writes one integer operator as nodes of a graph."""

    def __init__(self, graph: onnx.GraphProto, node: onnx.NodeProto, fixed: Mapping[str, np.ndarray]) -> None:
        self.graph, self.node, self.fixed = graph, node, fixed
        self.inputs = [*node.input, *([""] * 12)]

    def write(self) -> None:
        if any(item.name == "channels_last" and item.i for item in self.node.attribute):
            raise ModelError(f"{named(self.node)} keeps its channels last, as an optimised graph does; give the model")
        PAIRS[self.node.op_type](self)

    def real(self, codes: int, *, axis: int = 1) -> str:
        """The dequantized input whose codes, scale and zero-point begin at this place."""
        tensor, scale, zero_point = self.inputs[codes : codes + 3]
        output = f"{self.node.name}/real{codes}"
        names = [name for name in (tensor, scale, zero_point) if name]
        self.graph.node.append(helper.make_node("DequantizeLinear", names, [output], name=output, axis=axis))
        return output

    def bias(self, place: int, source_scale: int, weight_scale: int) -> list[str]:
        """A bias of int32 at input scale * weight scale; nothing where there is none."""
        if not self.inputs[place]:
            return []
        scale = self.fixed[self.inputs[source_scale]].reshape(()) * self.fixed[self.inputs[weight_scale]]
        named_scale, output = f"{self.node.name}/bias_scale", f"{self.node.name}/bias"
        values = np.asarray(scale, np.float32)
        self.graph.initializer.append(
            numpy_helper.from_array(values.reshape(()) if values.size == 1 else values, named_scale)
        )
        inputs = [self.inputs[place], named_scale]
        self.graph.node.append(helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=0))
        return [output]

    def operator(self, kind: str, inputs: list[str], scale: int, **more: Any) -> None:
        """The float operator, and the quantizer whose scale stands at this place (none there: its result is real)."""
        kept = [item for item in self.node.attribute if item.name not in ("channels_last", "axis")]
        result = self.node.output[0]
        real = f"{self.node.name}/result" if self.inputs[scale] else result
        made = helper.make_node(kind, inputs, [real], name=self.node.name, **more)
        made.attribute.extend(kept)
        self.graph.node.append(made)
        if self.inputs[scale]:
            grid = [name for name in self.inputs[scale : scale + 2] if name]
            self.graph.node.append(
                helper.make_node("QuantizeLinear", [real, *grid], [result], name=f"{self.node.name}/codes")
            )


def _conv(writer: _Writer) -> None:
    inputs = [writer.real(0), writer.real(3, axis=0), *writer.bias(8, 1, 4)]
    writer.operator("Conv", inputs, 6)


def _gemm(writer: _Writer) -> None:
    axis = 0 if attribute(writer.node, "transB", 0) else 1
    inputs = [writer.real(0), writer.real(3, axis=axis), *writer.bias(6, 1, 4)]
    writer.operator("Gemm", inputs, 7)


def _matmul(writer: _Writer) -> None:
    writer.operator("MatMul", [writer.real(0), writer.real(3)], 6)


def _two(kind: str) -> Callable[[_Writer], None]:
    return lambda writer: writer.operator(kind, [writer.real(0), writer.real(3)], 6)


def _one(kind: str) -> Callable[[_Writer], None]:
    return lambda writer: writer.operator(kind, [writer.real(0)], 3)


def _softmax(writer: _Writer) -> None:
    writer.operator("Softmax", [writer.real(0)], 3, axis=attribute(writer.node, "axis", -1))
    kept = [item for item in writer.graph.node[-2].attribute if item.name != "opset"]
    del writer.graph.node[-2].attribute[:]
    writer.graph.node[-2].attribute.extend(kept)


def _concat(writer: _Writer) -> None:
    parts = [writer.real(place) for place in range(2, len(writer.node.input), 3)]
    writer.operator("Concat", parts, 0, axis=attribute(writer.node, "axis", 0))


PAIRS: Mapping[str, Callable[[_Writer], None]] = {
    "QLinearConv": _conv,
    "QGemm": _gemm,
    "QLinearMatMul": _matmul,
    "QLinearAdd": _two("Add"),
    "QLinearMul": _two("Mul"),
    "QLinearLeakyRelu": _one("LeakyRelu"),
    "QLinearSigmoid": _one("Sigmoid"),
    "QLinearSoftmax": _softmax,
    "QLinearAveragePool": _one("AveragePool"),
    "QLinearGlobalAveragePool": _one("GlobalAveragePool"),
    "QLinearConcat": _concat,
}
"""Integer operators of ONNX and of ONNX Runtime that have a float operator of the same meaning."""
