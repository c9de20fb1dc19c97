"""The integer reference of a file that another tool quantized.

As `reference` does for files of ours, it walks the graph and leaves values unevaluated until a QuantizeLinear says what
they become. What it computes itself are the operators that the runtime executes in integers (``Executed.integers``);
everything else between codes is an island (`islands`), executed by the runtime alone on the reference's own values.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.code_grids import default_type
from limpq_deploy.export.graph.graph_rules import named
from limpq_deploy.export.graph.onnx_files import attribute, constants
from limpq_deploy.export.reference import layers
from limpq_deploy.export.reference import operators as ops
from limpq_deploy.export.reference.arm import add_table_here
from limpq_deploy.export.reference.elementwise import TABLES
from limpq_deploy.export.reference.islands import Execute, Executed, Island, divided, last_uses
from limpq_deploy.export.reference.moves import MOVES, explicit_pads
from limpq_deploy.export.reference.reals import bounds, parts_of, quantize_along, real_of, shape_of, unsigned
from limpq_deploy.export.reference.values import (
    LAZY,
    Average,
    Bounded,
    Dequantized,
    Joined,
    Mean,
    Moved,
    Product,
    Sum,
    Table,
    Unsigned,
)

Array = NDArray[Any]
ON_CODES_OR_REALS = frozenset((*MOVES, "Relu", "Split", "Dropout", "QuantizeLinear", "DequantizeLinear"))
"""Operators with the same result wherever they are executed: they choose, move or round single values."""


class FileReference:
    """Runs a file in the form of `foreign_form`. Raises ModelError for what it has no meaning for."""

    def __init__(self, model: onnx.ModelProto, executed: Executed, execute: Execute) -> None:
        self._graph, self._executed = model.graph, executed
        self._fixed: dict[str, Array] = dict(constants(self._graph))
        self._makers = {name: node for node in self._graph.node for name in node.output}
        self._layers: dict[str, layers.Layer | None] = {}
        self.computes = {node.name for node in self._graph.node if self._has_rule(node)}
        self._steps, self.islands = divided(model, self.computes, executed, ON_CODES_OR_REALS, execute)
        self.input = next(value.name for value in self._graph.input if value.name not in self._fixed)
        self.outputs = tuple(value.name for value in self._graph.output)
        self._last_use = last_uses(self._steps)
        self.otherwise = tuple(self._differences())

    def run(
        self, images: Array, *, keep: Collection[str] = (), given: Callable[[str, Array], Array] | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The outputs, and the codes of the tensors named in ``keep``. ``given``: codes to go on with behind islands,
        from a tensor's name and what comes out here."""
        values: dict[str, Any] = {self.input: images, "": None}
        kept: dict[str, Array] = {}
        behind = {name for island in self.islands for name in island.codes} if given else set()
        for index, step in enumerate(self._steps):
            made = self._results(step, values)
            kept |= {name: value for name, value in made.items() if name in keep}
            for name, value in made.items():
                values[name] = given(name, value) if given is not None and name in behind else value
            for name in self._last_use.get(index, ()):
                if name not in self.outputs:
                    values.pop(name, None)
        return {name: real_of(self._value(name, values)) for name in self.outputs}, kept

    def _differences(self) -> Iterator[str]:
        """What the runtime is known to compute otherwise than the file says."""
        for name, layer in self._layers.items():
            if layer is not None and layer.otherwise:
                yield f"layer {name!r} {layer.otherwise}: its result is not what the file says"

    def _results(self, step: onnx.NodeProto | Island, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(step, Island):
            return step.run({name: self._fed(step, name, values) for name in step.inputs})
        inputs = [self._value(name, values) for name in step.input] if step.name not in self._layers else []
        if step.name in self._layers:
            inputs = [self._value(name, values) for name in step.input[: 1 if self._layers[step.name] else 2]]
        result = self._execute(step, inputs)
        return dict(zip(step.output, result if isinstance(result, list) else [result], strict=False))

    def _fed(self, island: Island, name: str, values: dict[str, Any]) -> Array:
        value = self._value(name, values)
        return np.asarray(real_of(value))

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if name in values:
            return values[name]
        found = self._constant(name)
        if found is None:
            raise ModelError(f"tensor {name!r} is read before it is made; export the model again")
        return found

    def _constant(self, name: str) -> Any:
        """The value of a tensor that follows from constants alone; None for others."""
        if name not in self._fixed and name in self._makers and self._makers[name].op_type in ON_CODES_OR_REALS:
            node = self._makers[name]
            inputs = [self._constant(entry) if entry else None for entry in node.input]
            if all(value is not None or not entry for value, entry in zip(inputs, node.input, strict=True)):
                self._fixed[name] = self._execute(node, inputs)
        return self._fixed.get(name)

    def _has_rule(self, node: onnx.NodeProto) -> bool:
        if node.name not in self._executed.integers or node.op_type not in RULES:
            return False
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            try:
                layer = layers.read_layer(node, self._makers, self._constant)
            except layers.NotRead:
                return False
            if node.op_type == "Conv" and (layer is None or layer.weight.ndim > 4):
                return False
            self._layers[node.name] = layer
            return True
        if node.op_type == "AveragePool":
            return len(attribute(node, "kernel_shape", [])) == 2
        return True

    def _execute(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        rule = RULES.get(node.op_type) or ANYWHERE.get(node.op_type)
        if rule is not None:
            return rule(self, node, inputs)
        return self._move(node, inputs)

    def _move(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        source, rest = inputs[0], [real_of(value) for value in inputs[1:]]

        def moved(values: Array) -> Array:
            return np.asarray(MOVES[node.op_type](node, [values, *rest]))

        if not isinstance(source, LAZY):
            return moved(source)
        if node.op_type == "Shape":
            return moved(np.empty(shape_of(source), np.uint8))
        if node.op_type == "Pad":
            return self._padded(node, source, rest)
        if isinstance(source, Dequantized):
            return Dequantized(moved(source.codes), source.scale, source.zero_point)
        return Moved(source, moved)

    def _padded(self, node: onnx.NodeProto, source: Any, rest: list[Any]) -> Any:
        """Padding of reals is padding of codes with the code of its value, where that value is on the grid."""
        value = np.float32(0 if len(rest) < 2 or rest[1] is None else rest[1].reshape(()))
        if not isinstance(source, Dequantized):
            raise ModelError(f"{named(node)} pads what no QuantizeLinear rounds before; expected codes")
        code = ops.quantize(value.reshape(1), source.scale, source.zero_point, source.codes.dtype)[0]
        if ops.dequantize(code, source.scale, source.zero_point) != value:
            return MOVES["Pad"](node, [real_of(source), *rest])
        codes = MOVES["Pad"](node, [source.codes, rest[0], code, *rest[2:]])
        return Dequantized(codes, source.scale, source.zero_point)

    def _quantize(self, node: onnx.NodeProto, inputs: list[Any]) -> Array:
        value, scale = inputs[0], inputs[1]
        zero_point = (
            inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros(scale.shape, default_type(node))
        )
        if scale.size > 1 or zero_point.size > 1:
            return quantize_along(real_of(value), scale, zero_point, attribute(node, "axis", 1))
        grid = np.float32(scale.reshape(())), int(zero_point.reshape(())), zero_point.dtype
        if not isinstance(value, LAZY):
            return ops.quantize(real_of(value), *grid)
        codes: Array = value.quantized(*grid)
        return codes

    def _dequantize(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        codes, scale = inputs[0], inputs[1]
        zero_point = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros(scale.shape, codes.dtype)
        if scale.size > 1:
            along = [-1 if index == attribute(node, "axis", 1) % codes.ndim else 1 for index in range(codes.ndim)]
            steps = codes.astype(np.int32) - zero_point.astype(np.int32).reshape(along)
            return steps.astype(np.float32) * scale.reshape(along)
        return Dequantized(codes, np.float32(scale.reshape(())), int(zero_point.reshape(())))

    def _layer(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        layer = self._layers[node.name]
        source = self._codes(node, inputs[0])
        if layer is None:
            found = layers.multiplied_tensors(source, self._codes(node, inputs[1]))
        elif node.op_type == "Conv":
            found = layers.convolved(node, layer, source)
        else:
            found = layers.multiplied(layer, source)
        return found.real() if node.name in self._executed.to_reals else found

    def _codes(self, node: onnx.NodeProto, value: Any) -> Dequantized:
        if not isinstance(value, Dequantized):
            raise ModelError(f"{named(node)} reads no codes; expected its inputs from DequantizeLinear")
        return value

    def _two(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        flip = self._computed_unsigned(node, inputs)
        first, second = (self._codes(node, unsigned(value) if flip else value) for value in inputs)
        shape = np.broadcast_shapes(first.codes.shape, second.codes.shape)
        first, second = (
            Dequantized(np.broadcast_to(value.codes, shape), value.scale, value.zero_point) for value in (first, second)
        )
        result = Product(first, second) if node.op_type == "Mul" else Sum(first, second, add=add_table_here())
        return Unsigned(result) if flip else result

    def _computed_unsigned(self, node: onnx.NodeProto, inputs: list[Any]) -> bool:
        signed = all(isinstance(value, Dequantized) and value.codes.dtype == np.int8 for value in inputs)
        return signed and node.name in self._executed.unsigned

    def _table(self, node: onnx.NodeProto, inputs: list[Any]) -> Table:
        source = self._codes(node, inputs[0])
        values = ops.all_values(source.scale, source.zero_point, source.codes.dtype)
        return Table(source.codes, TABLES[node.op_type](node, values))

    def _mean(self, node: onnx.NodeProto, inputs: list[Any]) -> Mean:
        return Mean(self._codes(node, inputs[0]))

    def _average(self, node: onnx.NodeProto, inputs: list[Any]) -> Average | Unsigned:
        flip = self._computed_unsigned(node, inputs)
        source = self._codes(node, unsigned(inputs[0]) if flip else inputs[0])
        kernel, strides = attribute(node, "kernel_shape"), attribute(node, "strides", [1, 1])
        pads = explicit_pads(node, source.codes.shape[2:], kernel, strides, [1, 1])
        counted = bool(attribute(node, "count_include_pad", 0))
        result = Average(source, tuple(kernel), tuple(strides), tuple(pads), counted)  # type: ignore[arg-type]
        return Unsigned(result) if flip else result

    def _bounded(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        low, high = bounds(node, inputs)
        source = inputs[0]
        if not isinstance(source, LAZY):
            return MOVES["Clip"](node, [source, low, high]) if node.op_type == "Clip" else np.maximum(source, 0)
        if isinstance(source, Dequantized):
            real: Array = np.clip(real_of(source), low, high)
            return real
        ends = (np.float32(-np.inf if low is None else low), np.float32(np.inf if high is None else high))
        return Bounded(source, *ends)

    def _concat(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        axis = attribute(node, "axis", 0)
        if all(isinstance(value, LAZY) for value in inputs):
            return Joined(tuple(inputs), axis)
        return np.concatenate([real_of(value) for value in inputs], axis=axis)

    def _split(self, node: onnx.NodeProto, inputs: list[Any]) -> list[Any]:
        sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attribute(node, "split")
        return parts_of(inputs[0], len(node.output), attribute(node, "axis", 0), sizes)

    def _same(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        return inputs[0]


Rule = Callable[[FileReference, onnx.NodeProto, list[Any]], Any]

RULES: Mapping[str, Rule] = {
    "Conv": FileReference._layer,
    "Gemm": FileReference._layer,
    "MatMul": FileReference._layer,
    "Add": FileReference._two,
    "Mul": FileReference._two,
    "LeakyRelu": FileReference._table,
    "Sigmoid": FileReference._table,
    "GlobalAveragePool": FileReference._mean,
    "AveragePool": FileReference._average,
}
"""Operators that are computed here where the runtime executes them in integers."""

ANYWHERE: Mapping[str, Rule] = {
    "QuantizeLinear": FileReference._quantize,
    "DequantizeLinear": FileReference._dequantize,
    "Relu": FileReference._bounded,
    "Clip": FileReference._bounded,
    "Concat": FileReference._concat,
    "Split": FileReference._split,
    "Dropout": FileReference._same,
    "Identity": FileReference._same,
}
