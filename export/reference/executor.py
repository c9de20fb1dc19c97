"""The integer executor: what a Q/DQ file means in integers, from the ONNX file alone.

Arithmetic of ONNX Runtime's kernels for the fused graph, written down in `operators` and `arm`; no
runtime is used. The graph is walked in order and values stay unevaluated until a QuantizeLinear says what they become:
an accumulator of integer products, a sum of two dequantized tensors, a mean, or a function of single codes (a table).

Layers that the file says compute in float (`float_layers.planned_float`) have no integers to refer to: sums of floats
depend on their order. Each is handed to whoever executes such layers (`float_execution`), alone, on the reals of the
reference's own codes; what it gives is quantized here again, so that everything between such layers is still compared.
So it is with other nodes that compute in float by plan (`float_nodes.planned_nodes`), which are handed over together,
as far as they hang together: islands.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.float_layers import planned_float
from limpq_deploy.export.graph.float_nodes import planned_nodes
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.onnx_files import attribute, constants
from limpq_deploy.export.graph.runtime_taps import code_tensors
from limpq_deploy.export.reference import operators as ops
from limpq_deploy.export.reference.arm import AddTable, add_table_here
from limpq_deploy.export.reference.elementwise import TABLES
from limpq_deploy.export.reference.float_execution import ExecuteFloats, layer_alone
from limpq_deploy.export.reference.islands import AS_WRITTEN, Execute, Island, divided, last_uses
from limpq_deploy.export.reference.layers import Layer, convolved, multiplied
from limpq_deploy.export.reference.moves import MOVES, explicit_pads, moved_results
from limpq_deploy.export.reference.reals import real_of
from limpq_deploy.export.reference.values import (
    LAZY,
    Accumulator,
    Average,
    Dequantized,
    Joined,
    Mean,
    Product,
    Sum,
    Table,
)

Array = NDArray[Any]


class IntegerReference:
    """Runs a Q/DQ file in integers. Raises ModelError for a graph outside the dialect, when it is made or first run.

    ``floats`` executes the layers that compute in float, ``islands`` the islands; a file without them needs neither.
    ``add``: the Add of an x86 or an Arm machine (`arm`); None: that of this one.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path,
        *,
        floats: ExecuteFloats | None = None,
        islands: Execute | None = None,
        add: AddTable | None = None,
    ) -> None:
        self._add_table = add or add_table_here()
        loaded = model if isinstance(model, onnx.ModelProto) else load_model(model)
        self._graph = loaded.graph
        self._code_tensors = tuple(code_tensors(loaded))
        self._fixed: dict[str, Array] = dict(constants(self._graph))
        self._require_constant_grids()
        self._producers = {name: node for node in self._graph.node for name in node.output}
        planned = planned_float(loaded)
        names = set(planned_nodes(loaded))
        ruled = {node.name for node in self._graph.node} - names
        self._steps, self.islands = divided(loaded, ruled, AS_WRITTEN, (), islands or _nobody)
        self.input, self.outputs = self._graph.input[0].name, tuple(value.name for value in self._graph.output)
        nodes = [step for step in self._steps if not isinstance(step, Island)]  # none of constants alone
        layers = [node for node in nodes if node.op_type in ("Conv", "Gemm") and node.name not in names]
        self._floats = {node.output[0]: _alone(loaded, node, floats) for node in layers if node.name in planned}
        self._layers = {node.output[0]: self._layer(node) for node in layers if node.output[0] not in self._floats}
        self._weights = {name for node in layers for name in node.input[1:]}
        self._float_inputs = {node.input[0] for node in layers if node.output[0] in self._floats}
        self._float_inputs |= {name for node in self._graph.node if node.name in names for name in node.input}
        self._moved = moved_results(self._graph)
        self._last_use = last_uses(self._steps)

    @property
    def code_tensors(self) -> tuple[str, ...]:
        """Outputs of QuantizeLinear, and of Clip on codes, in execution order."""
        return self._code_tensors

    def run(
        self, images_NCHW: NDArray[np.float32], *, keep: Collection[str] = ()
    ) -> tuple[NDArray[np.float32], dict[str, Array]]:
        """The first result (the logits), and the codes of the tensors named in ``keep``."""
        results, kept = self.results(images_NCHW, keep=keep)
        return results[self.outputs[0]], kept

    def results(
        self,
        images_NCHW: NDArray[np.float32],
        *,
        keep: Collection[str] = (),
        given: Callable[[str, Array], Array] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """All results by name, and the codes of the tensors named in ``keep`` (outputs of QuantizeLinear, Clip and the
        like). ``given``: codes to go on with behind islands, from a tensor's name and what comes out here."""
        values: dict[str, Any] = {**self._fixed, self.input: images_NCHW, "": None}
        kept: dict[str, Array] = {}
        behind = {name for island in self.islands for name in island.codes}
        for index, step in enumerate(self._steps):
            if isinstance(step, Island):
                values |= step.run({name: np.asarray(_real(values[name])) for name in step.inputs})
            else:
                name = step.output[0]
                values[name] = self._execute(step, [values[one] for one in step.input if one not in self._weights])
                if name in keep:
                    kept[name] = values[name]
                if given is not None and name in behind:
                    values[name] = given(name, values[name])
            for name in self._last_use.get(index, ()):
                if name not in self.outputs and name not in self._fixed:
                    values.pop(name, None)
        return {name: _real(values[name]) for name in self.outputs}, kept

    def _require_constant_grids(self) -> None:
        for node in self._graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            grid = node.input[1:]
            if any(name not in self._fixed for name in grid) or (len(grid) < 2 and node.input[0] not in self._fixed):
                raise _outside(node, "its scale and zero-point have to be constants, both given")

    def _execute(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        if node.output[0] in self._floats:
            return self._floats[node.output[0]](real_of(inputs[0]))
        if node.output[0] in self._moved and any(isinstance(value, LAZY) for value in inputs):
            return MOVES[node.op_type](node, [_real(value) for value in inputs])
        special = _SPECIAL.get(node.op_type)
        if special is not None:
            return special(self, node, inputs)
        move = MOVES.get(node.op_type)
        if move is None:
            raise _outside(node, f"it executes {', '.join(sorted({*_SPECIAL, *MOVES}))}")
        if any(isinstance(value, LAZY) for value in inputs):
            raise _outside(node, "such a node has to work on codes, between QuantizeLinear and DequantizeLinear")
        return move(node, inputs)

    def _quantize(self, node: onnx.NodeProto, inputs: list[Any]) -> Array:
        value, scale, zero_point = inputs[0], _scalar(node, inputs[1]), inputs[2]
        arguments = np.float32(scale), int(zero_point), zero_point.dtype
        try:
            return value.quantized(*arguments) if isinstance(value, LAZY) else ops.quantize(value, *arguments)
        except ValueError as error:
            raise _outside(node, str(error)) from error

    def _dequantize(self, node: onnx.NodeProto, inputs: list[Any]) -> Dequantized:
        if node.output[0] in self._float_inputs:  # one scale and zero-point, written once for each channel
            return Dequantized(inputs[0], np.float32(_only(node, inputs[1])), int(_only(node, inputs[2])))
        return Dequantized(inputs[0], np.float32(_scalar(node, inputs[1])), int(inputs[2]))

    def _conv(self, node: onnx.NodeProto, inputs: list[Any]) -> Accumulator:
        return convolved(node, self._layers[node.output[0]], inputs[0])

    def _gemm(self, node: onnx.NodeProto, inputs: list[Any]) -> Accumulator:
        return multiplied(self._layers[node.output[0]], inputs[0])

    def _add(self, node: onnx.NodeProto, inputs: list[Any]) -> Sum:
        first, second = inputs
        if not (isinstance(first, Dequantized) and isinstance(second, Dequantized)):
            raise _outside(node, "both inputs of an Add have to come from DequantizeLinear")
        return Sum(first, second, add=self._add_table)

    def _mul(self, node: onnx.NodeProto, inputs: list[Any]) -> Product:
        first, second = inputs
        if not (isinstance(first, Dequantized) and isinstance(second, Dequantized)):
            raise _outside(node, "both inputs of a Mul have to come from DequantizeLinear")
        return Product(first, second)

    def _concat(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        if not any(isinstance(value, LAZY) for value in inputs):
            return MOVES["Concat"](node, inputs)
        if not all(isinstance(value, Dequantized) for value in inputs):
            raise _outside(node, "all inputs of a Concat of reals have to come from DequantizeLinear")
        return Joined(tuple(inputs), attribute(node, "axis", 0))

    def _relu(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        if isinstance(inputs[0], np.ndarray):
            return np.maximum(inputs[0], np.float32(0))
        if not isinstance(inputs[0], Accumulator | Sum | Product):
            raise _outside(node, "a Relu has to follow a Conv, Gemm, Add or Mul")
        return replace(inputs[0], relu=True)

    def _table(self, node: onnx.NodeProto, inputs: list[Any]) -> Table:
        source = inputs[0]
        if not isinstance(source, Dequantized):
            raise _outside(node, f"a {node.op_type} has to follow a DequantizeLinear")
        values = ops.all_values(source.scale, source.zero_point, source.codes.dtype)
        return Table(source.codes, TABLES[node.op_type](node, values))

    def _mean(self, node: onnx.NodeProto, inputs: list[Any]) -> Mean:
        if not isinstance(inputs[0], Dequantized):
            raise _outside(node, "a global pool has to follow a DequantizeLinear")
        return Mean(inputs[0])

    def _average(self, node: onnx.NodeProto, inputs: list[Any]) -> Average:
        source = inputs[0]
        if not isinstance(source, Dequantized):
            raise _outside(node, "an average pool has to follow a DequantizeLinear")
        kernel, strides = attribute(node, "kernel_shape"), attribute(node, "strides", [1, 1])
        pads = explicit_pads(node, source.codes.shape[2:], kernel, strides, [1, 1])
        counted = bool(attribute(node, "count_include_pad", 0))
        return Average(source, tuple(kernel), tuple(strides), tuple(pads), counted)  # type: ignore[arg-type]

    def _same(self, node: onnx.NodeProto, inputs: list[Any]) -> Any:
        return inputs[0]

    def _layer(self, node: onnx.NodeProto) -> Layer:
        """The integers of a Conv or Gemm, read from the DequantizeLinear nodes of its three inputs."""
        name = node.name or node.output[0]
        if len(node.input) != 3:
            raise _outside(node, "a layer needs an int32 bias")
        if node.op_type == "Gemm" and (
            attribute(node, "transB", 0) != 1
            or attribute(node, "transA", 0) != 0
            or attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
        ):
            raise _outside(node, "a Gemm has to be x @ W.T + b")
        source, weight, bias = (self._source_of(node, entry) for entry in node.input)
        codes, bias_codes = self._fixed.get(weight.input[0]), self._fixed.get(bias.input[0])
        if codes is None or bias_codes is None or bias_codes.dtype != np.int32:
            raise _outside(node, "its weight has to be a constant of codes and its bias one of int32")
        for entry in (weight, bias):
            if len(entry.input) > 2 and np.any(self._fixed[entry.input[2]]):
                raise _outside(node, "weights and biases have zero-point 0")
        if attribute(weight, "axis", 1) != 0 and self._fixed[weight.input[1]].ndim:
            raise _outside(node, "weight scales run along axis 0")
        input_scale = np.float32(_scalar(source, self._fixed[source.input[1]]))
        scale = np.broadcast_to(input_scale * self._fixed[weight.input[1]], codes.shape[:1]).astype(np.float32)
        if not np.array_equal(np.broadcast_to(self._fixed[bias.input[1]], scale.shape), scale):
            raise _outside(
                node, "its bias scale is not input scale * weight scale, so that the bias is no accumulator code"
            )
        zero = self._fixed[source.input[2]]
        ends = np.iinfo(zero.dtype)
        dtype = ops.exact_type(codes, bias_codes, max(ends.max - int(zero), int(zero) - ends.min), name)
        return Layer((codes if node.op_type == "Conv" else codes.T).astype(dtype), bias_codes, scale)

    def _source_of(self, node: onnx.NodeProto, tensor: str) -> onnx.NodeProto:
        source = self._producers.get(tensor)
        if source is None or source.op_type != "DequantizeLinear":
            raise _outside(
                node, f"its input {tensor!r} does not come from a DequantizeLinear: the layer is not quantized"
            )
        return source


_SPECIAL: Mapping[str, Callable[[IntegerReference, onnx.NodeProto, list[Any]], Any]] = {
    "QuantizeLinear": IntegerReference._quantize,
    "DequantizeLinear": IntegerReference._dequantize,
    "Conv": IntegerReference._conv,
    "Gemm": IntegerReference._gemm,
    "Add": IntegerReference._add,
    "Relu": IntegerReference._relu,
    "Mul": IntegerReference._mul,
    "Concat": IntegerReference._concat,
    **dict.fromkeys(TABLES, IntegerReference._table),
    "GlobalAveragePool": IntegerReference._mean,
    "AveragePool": IntegerReference._average,
    "Identity": IntegerReference._same,
}


def _outside(node: onnx.NodeProto, why: str) -> ModelError:
    name = node.name or (node.output[0] if node.output else "")
    return ModelError(f"the integer reference cannot execute node {name!r} ({node.op_type}): {why}")


def _alone(
    model: onnx.ModelProto, node: onnx.NodeProto, floats: ExecuteFloats | None
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    if floats is None:
        raise _outside(node, "by plan it computes in float, and nothing was given that executes such layers")
    return floats(layer_alone(model, node))


def _real(value: Any) -> Any:
    return value.real() if isinstance(value, Accumulator) else real_of(value)


def _nobody(model: onnx.ModelProto, *_: Any) -> dict[str, Array]:
    raise _outside(model.graph.node[-1], "by plan it computes in float, and nothing was given that executes islands")


def _only(node: onnx.NodeProto, values: Array) -> Any:
    if values.size == 0 or np.any(values != values.reshape(-1)[0]):
        raise _outside(node, "scales and zero-points of an activation are all equal")
    return values.reshape(-1)[0]


def _scalar(node: onnx.NodeProto, value: Array) -> float:
    if value.ndim != 0:
        raise _outside(node, f"scales of activations are 0-d, not of shape {list(value.shape)}")
    return float(value)
