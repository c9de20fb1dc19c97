"""ONNX Runtime's dialect: everything in integers, grids cut on the codes.

Each marker with a grid becomes

    QuantizeLinear -> (Clip on the codes, where the grid has fewer than 8 bits) -> codes -> DequantizeLinear

A marker that re-quantizes codes reads them through ``DequantizeLinear -> LeakyRelu(alpha = 1)``: that is the identity,
and ONNX Runtime turns the chain into one table of 256 entries (QLinearLeakyRelu); without the LeakyRelu the same codes
come out of two float nodes. A ReLU6 becomes a Relu, and its upper end a Clip on the codes: rounding keeps order, so
``round(min(x, 6) / s) = min(round(x / s), round(6 / s))``, whatever the scale; where no codes follow it stays.
MaxPool, Slice, Pad, Flatten and the like run on codes, between Clip and DequantizeLinear. Weights are int8 with one
scale per output channel, biases int32 at scale ``input scale * weight scale``.

A layer that the policy keeps in float, or an operator that has no integer form, reads the reals of what is there; its
weight and bias are floats. Between two such layers nothing is quantized. Codes that a float product reads are
dequantized for it alone, by scales written once for each channel, all equal: ONNX Runtime (1.31) quantizes the float
weight of any layer between a DequantizeLinear with one scale and a QuantizeLinear to 8 bits, by itself and silently
(its WeightBiasQuantization), and passes over this form.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.float_nodes import PRODUCTS
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.fp8_layers import Fp8Layer
from limpq_deploy.export.graph.markers import is_marker, marker_name
from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.qdq.base import AnyLayer, Dialect
from limpq_deploy.export.qdq.tables import OPERATORS, evaluated
from limpq_deploy.export.records.placement import ActQuantizer

FUSED = ("Sigmoid", "HardSigmoid")
"""Functions of codes that the runtime, or its float operator, executes as the reference does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codes:
    """A tensor that travels as codes: where they are, and the names of their scale and zero-point."""

    tensor: str
    scale: str
    zero_point: str
    params: QuantParams


class OnnxRuntimeDialect(Dialect):
    """Template tensors travel as codes; one DequantizeLinear serves all nodes that read the reals."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.codes: dict[str, _Codes] = {}
        self.dequantized: dict[str, str] = {}
        self.passed: dict[str, str] = {}
        self.functions: dict[str, tuple[onnx.NodeProto, str]] = {}
        """Functions of codes that nothing has read as reals: by result, the last node, and the tensor of codes."""

    def params_of(self, tensor: str) -> QuantParams | None:
        codes = self.codes.get(tensor)
        return None if codes is None else codes.params

    def pass_on(self, source: str, result: str, quantizer: ActQuantizer) -> None:
        if quantizer.parent is not None and source in self.codes:
            self.codes[result] = self.codes[source]
        elif source not in self.codes and self.only_floats_read(quantizer):
            self.passed[result] = self.real(source)
        else:
            raise ModelError(f"quantizer {quantizer.name!r} has no grid and scale, and there are no codes to pass on")

    def quantize(self, source: str, result: str, name: str, suffix: str, params: QuantParams) -> None:
        grid = params.grid
        zero = self.spec.zero_point(signed=grid.signed, offset=grid.offset)
        low, high = grid.qmin + zero, self._highest(name, params) + zero
        code = np.dtype(self.spec.act_container)
        widest = np.iinfo(code)
        scale = self.constant(f"{name}_scale", np.array(params.scale[0], np.float32))
        zero_point = self.constant(f"{name}_zero_point", np.array(zero, code))
        codes = f"{name}_codes{suffix}"
        self.codes[result] = _Codes(tensor=codes, scale=scale, zero_point=zero_point, params=params)
        slope = self._slope(source)
        if source in self.codes:
            slope = self.codes[source], 1.0
        if slope is None and source in self.functions:
            self._look_up(source, codes, (low, high), zero, params)
            return
        real = source
        if slope is not None:
            real = self.add("LeakyRelu", [self._dequantized(slope[0])], f"{name}_table{suffix}", alpha=slope[1])
        if (low, high) == (widest.min, widest.max):
            self.add("QuantizeLinear", [real, scale, zero_point], codes)
        else:
            wide = self.add("QuantizeLinear", [real, scale, zero_point], f"{name}_wide{suffix}")
            bounds = [
                self.constant(f"{name}_qmin", np.array(low, code)),
                self.constant(f"{name}_qmax", np.array(high, code)),
            ]
            self.add("Clip", [wide, *bounds], codes)

    def other(self, node: onnx.NodeProto) -> None:
        """A function of single codes waits for who reads it: a quantizer makes a table of it, all others take reals."""
        root = self._root(node)
        if node.op_type in PRODUCTS and node.input[0] in self.codes and node.input[1] in self.fixed:
            axis, channels = _inputs_of(node, self.fixed[node.input[1]].shape)
            real = self._real_by_channel(self.codes[node.input[0]], self.unique_name(node), axis, channels)
            self.copy(node, [real, *map(self.real, node.input[1:])])
        elif root is None or node.op_type in FUSED:
            super().other(node)
        else:
            self.functions[node.output[0]] = node, root

    def _root(self, node: onnx.NodeProto) -> str | None:
        """The one tensor of codes whose single values a node computes its own from."""
        roots = set()
        for name in node.input:
            if name in self.codes:
                roots.add(name)
            elif name in self.functions:
                roots.add(self.functions[name][1])
            elif name and (name not in self.fixed or self.fixed[name].size != 1):
                return None
        return roots.pop() if node.op_type in OPERATORS and len(roots) == 1 else None

    def _slope(self, tensor: str) -> tuple[_Codes, float] | None:
        """Where a function only multiplies negative values by a number from 0 on, for which there is a kernel: the
        codes and the number."""
        node, root = self.functions.get(tensor, (None, ""))
        if node is None or node.input[0] != root:
            return None
        if node.op_type == "Relu":
            return self.codes[root], 0.0
        if node.op_type == "LeakyRelu":
            return self.codes[root], float(attribute(node, "alpha", 0.01))
        return (self.codes[root], float(self.fixed[node.input[1]].reshape(()))) if node.op_type == "PRelu" else None

    def _look_up(self, source: str, codes: str, ends: tuple[int, int], zero: int, params: QuantParams) -> None:
        """Write a function of codes as a table (see `tables`)."""
        root = self.codes[self.functions[source][1]]
        grid = root.params.grid
        container = np.dtype(self.spec.act_container)
        offset = self.spec.zero_point(signed=grid.signed, offset=grid.offset)
        inputs = (np.arange(256) - offset).astype(np.float32) * np.float32(root.params.scale[0])
        nodes = self._chain(source)
        values = evaluated(nodes, self.functions[source][1], source, inputs, self.fixed, self.form.opset)
        steps = np.rint(np.nan_to_num(values) / np.float32(params.scale[0])) + zero
        table = self.constant(f"{codes}_table", np.clip(steps, *ends).astype(container))
        places = self.add("Cast", [root.tensor], f"{codes}_places", to=onnx.TensorProto.INT32)
        self.add("Gather", [table, places], codes)

    def _chain(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes of a function, in order."""
        if tensor not in self.functions:
            return []
        node = self.functions[tensor][0]
        before = [one for name in node.input for one in self._chain(name)]
        return [*(one for at, one in enumerate(before) if one not in before[:at]), node]

    def bounded_relu(self, node: onnx.NodeProto) -> None:
        if not self._cut_on_codes(node.output[0]):
            super().bounded_relu(node)
            return
        if node.input[0] in self.codes:
            relu = helper.make_node("Relu", node.input[:1], node.output, name=node.name)
            self.functions[node.output[0]] = relu, node.input[0]
            return
        self.add("Relu", [self.real(node.input[0])], node.output[0], name=self.unique_name(node))

    def _cut_on_codes(self, tensor: str) -> bool:
        """Whether all that reads a tensor are codes that end where it is cut."""
        if tensor in {output.name for output in self.template.graph.output}:
            return False
        readers = [reader for reader in self.template.graph.node if tensor in reader.input]
        names = [marker_name(reader) for reader in readers if is_marker(reader)]
        ends = [name in self.acts and self.placement.quantizer(name).bound is not None for name in names]
        return len(names) == len(readers) and all(ends)

    def layer_constants(self, layer: IntegerLayer | Fp8Layer) -> tuple[str, str]:
        if isinstance(layer, Fp8Layer):
            raise ModelError(
                f"layer {layer.name!r} is in FP8, which {self.spec.name} does not execute; export for tensorrt_rtx"
            )
        return (
            self._dequantized_constant(f"{layer.name}.weight", layer.codes, layer.scale),
            self._dequantized_constant(f"{layer.name}.bias", layer.bias_codes, layer.bias_scale),
        )

    def layer_input(self, node: onnx.NodeProto, layer: AnyLayer) -> str:
        codes = self.codes.get(node.input[0])
        if codes is None or not isinstance(layer, FloatLayer):
            return self.real(node.input[0])
        return self._real_by_channel(codes, layer.name, *_inputs_of(node, layer.weight.shape))

    def _real_by_channel(self, codes: _Codes, reader: str, axis: int, channels: int) -> str:
        """Reals of codes for one product of floats, by as many scales, all equal, as it has input channels."""
        one = codes.params.grid
        zero = np.array(self.spec.zero_point(signed=one.signed, offset=one.offset), self.spec.act_container)
        grid = [
            self.constant(f"{reader}.input_scales", np.full(channels, codes.params.scale[0], np.float32)),
            self.constant(f"{reader}.input_zero_points", np.full(channels, zero)),
        ]
        return self.add("DequantizeLinear", [codes.tensor, *grid], f"{reader}.input", axis=axis)

    def float_constants(self, layer: FloatLayer) -> tuple[str, str]:
        bias = self.constant(f"{layer.name}.bias", layer.float_bias)
        if layer.codes is None or layer.scale is None:
            return self.constant(f"{layer.name}.weight", layer.weight), bias
        return self._dequantized_constant(f"{layer.name}.weight", layer.codes, layer.scale), bias

    def move(self, node: onnx.NodeProto) -> None:
        codes = self.codes[node.input[0]]
        inputs = [codes.tensor, *node.input[1:]]
        if node.op_type == "Pad" and attribute(node, "mode", "constant") == "constant":
            inputs = [codes.tensor, node.input[1], codes.zero_point, *node.input[3:]]
        self.copy(node, inputs)
        moved = node.output[0]
        if moved in {output.name for output in self.template.graph.output}:
            moved = self.nodes[-1].output[0] = f"{moved}_codes"
        self.codes[node.output[0]] = _Codes(
            tensor=moved, scale=codes.scale, zero_point=codes.zero_point, params=codes.params
        )

    def real(self, tensor: str) -> str:
        codes = self.codes.get(tensor)
        if codes is not None:
            return self._dequantized(codes)
        node, _ = self.functions.pop(tensor, (None, ""))
        if node is not None:
            super().other(node)
        return self.passed.get(tensor, tensor)

    def _dequantized(self, codes: _Codes) -> str:
        if codes.tensor not in self.dequantized:
            name = f"{codes.tensor.removesuffix('_codes')}_dequantized"
            while name in self.dequantized.values():  # of a tensor that was moved on its way to its quantizer
                name += "_moved"
            inputs = [codes.tensor, codes.scale, codes.zero_point]
            self.dequantized[codes.tensor] = self.add("DequantizeLinear", inputs, name)
        return self.dequantized[codes.tensor]

    def finish(self) -> None:
        outputs = {output.name for output in self.template.graph.output}
        for name in outputs & self.functions.keys():
            self.real(name)
        for name in sorted(outputs & self.codes.keys()):
            self.add("Identity", [self.real(name)], name, name=f"{name}_identity")

    def _highest(self, name: str, params: QuantParams) -> int:
        """The largest code; that of the tensor's own bound where it has one that is smaller."""
        bound = self.placement.quantizer(name).bound
        if bound is None:
            return params.grid.qmax
        return min(params.grid.qmax, int(np.rint(np.float32(bound) / np.float32(params.scale[0]))))

    def _dequantized_constant(self, name: str, codes: NDArray[Any], scale: NDArray[np.float32]) -> str:
        inputs = [self.constant(f"{name}_codes", codes), self.constant(f"{name}_scale", scale)]
        if codes.dtype == np.int8:  # without it ONNX Runtime keeps a Gemm in float (seen in 1.31.1)
            inputs.append(self.constant(f"{name}_zero_point", np.zeros(scale.shape, np.int8)))
        return self.add("DequantizeLinear", inputs, f"{name}_dequantized", axis=0)


def _inputs_of(node: onnx.NodeProto, weight: tuple[int, ...]) -> tuple[int, int]:
    """The axis of a product's input along which its sums run, and its length."""
    if node.op_type == "Conv":
        return 1, weight[1] * int(attribute(node, "group", 1))
    if node.op_type == "ConvTranspose":
        return 1, weight[0]
    turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return (1 if node.op_type == "Gemm" else -1), weight[1 if turned else -2]


DIALECT = OnnxRuntimeDialect
