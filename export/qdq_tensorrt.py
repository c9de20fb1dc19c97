"""TensorRT's dialect: Q/DQ pairs on floats, in the form that all versions from 8.6 on read.

Each marker becomes, on the edge where it stands,

    (Clip on the floats, where the grid is narrower than int8) -> QuantizeLinear -> codes -> DequantizeLinear

with int8 codes and an explicit zero-point 0. A weight is an FP32 initializer ``codes * scale`` followed by a
QuantizeLinear and a DequantizeLinear along axis 0: 8.6 does not read int8 initializers reliably, and the builder runs
the pair once. Nodes between a DequantizeLinear and the next QuantizeLinear work on floats; the builder fuses them.

What differs from the integer form: the bias is the float bias of the folded layer, not rounded to the accumulator's
grid, since TensorRT's layers take float biases; the two differ by at most half of ``input scale * weight scale``.
The accumulator is scaled and the bias added in floats, in an order that the
builder chooses, so two engines agree to at most one step layer by layer, not bit by bit end to end. A layer that the
policy leaves in float reads the floats that are there.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.params import QuantParams
from limpq_deploy.export.float_layers import FloatLayer
from limpq_deploy.export.folding import IntegerLayer
from limpq_deploy.export.placement import ActQuantizer
from limpq_deploy.export.qdq_base import Dialect

INT8 = np.iinfo(np.int8)


class TensorRtDialect(Dialect):
    """Template tensors are floats throughout; behind a quantizer they are known with their grid."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.dequantized: dict[str, str] = {}
        self.params: dict[str, QuantParams] = {}

    def params_of(self, tensor: str) -> QuantParams | None:
        return self.params.get(tensor)

    def pass_on(self, source: str, result: str, quantizer: ActQuantizer) -> None:
        if not self.only_floats_read(quantizer):
            raise ModelError(
                f"quantizer {quantizer.name!r} has no grid and scale; the target {self.spec.name!r} needs one for each"
            )
        self.dequantized[result] = self.real(source)

    def quantize(self, source: str, result: str, name: str, suffix: str, params: QuantParams) -> None:
        grid = params.grid
        if grid.qmin < INT8.min or grid.qmax > INT8.max:
            raise ModelError(
                f"quantizer {name!r} has codes from {grid.qmin} to {grid.qmax}; int8 holds {INT8.min} to {INT8.max}: "
                f"place and train the model for the target {self.spec.name!r}"
            )
        step = np.float32(params.scale[0])
        scale = self.constant(f"{name}_scale", np.array(step))
        zero_point = self.constant(f"{name}_zero_point", np.array(0, np.int8))
        real = self.real(source)
        if grid.qmax < INT8.max or (grid.signed and grid.qmin > INT8.min):
            bounds = [
                self.constant(f"{name}_low", np.array(np.float32(grid.qmin) * step)),
                self.constant(f"{name}_high", np.array(np.float32(grid.qmax) * step)),
            ]
            real = self.add("Clip", [real, *bounds], f"{name}_clipped{suffix}")
        codes = self.add("QuantizeLinear", [real, scale, zero_point], f"{name}_codes{suffix}")
        self.dequantized[result] = self.add(
            "DequantizeLinear", [codes, scale, zero_point], f"{name}{suffix}_dequantized"
        )
        self.params[result] = params

    def layer_constants(self, layer: IntegerLayer) -> tuple[str, str]:
        bias = self.constant(f"{layer.name}.bias", layer.float_bias)
        return self._weight(layer.name, layer.codes, layer.scale), bias

    def float_constants(self, layer: FloatLayer) -> tuple[str, str]:
        bias = self.constant(f"{layer.name}.bias", layer.float_bias)
        if layer.codes is None or layer.scale is None:
            return self.constant(f"{layer.name}.weight", layer.weight), bias
        return self._weight(layer.name, layer.codes, layer.scale), bias

    def _weight(self, layer: str, codes: NDArray[np.int8], scale_O: NDArray[np.float32]) -> str:
        column = scale_O[(slice(None),) + (None,) * (codes.ndim - 1)]
        values = codes.astype(np.float32) * column
        assert np.array_equal(np.rint(values / column), codes), "QuantizeLinear gives back exactly the codes"
        name = f"{layer}.weight"
        grid = [
            self.constant(f"{name}_scale", scale_O),
            self.constant(f"{name}_zero_point", np.zeros(scale_O.shape, np.int8)),
        ]
        quantized = self.add("QuantizeLinear", [self.constant(name, values), *grid], f"{name}_codes", axis=0)
        return self.add("DequantizeLinear", [quantized, *grid], f"{name}_dequantized", axis=0)

    def move(self, node: onnx.NodeProto) -> None:
        self.params[node.output[0]] = self.params[node.input[0]]
        self.copy(node, [self.real(tensor) for tensor in node.input])

    def real(self, tensor: str) -> str:
        return self.dequantized.get(tensor, tensor)

    def finish(self) -> None:
        outputs = {output.name for output in self.template.graph.output}
        for name in sorted(outputs & self.dequantized.keys()):
            self.add("Identity", [self.dequantized[name]], name, name=f"{name}_identity")
