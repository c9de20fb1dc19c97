"""TensorRT's dialect: Q/DQ pairs on floats.

Each marker becomes, on the edge where it stands,

    (Clip on the floats, where the grid is narrower than int8) -> QuantizeLinear -> codes -> DequantizeLinear

with int8 codes and an explicit zero-point 0. Nodes between a DequantizeLinear and the next QuantizeLinear work on
floats; the builder fuses them. A ReLU that such a Clip alone reads is left out, for the Clip cuts at 0 itself: the
parser makes an activation layer of each, and the builder has one to take into the convolution before it, not two.

A marker that re-quantizes codes (the narrower grid of a layer that reads a residual stream) reads the stream's
DequantizeLinear through ``LeakyRelu(alpha = 1)``, the identity. Two quantizers side by side on the floats make NVIDIA's
compiler write those floats for both to read; so does, without the LeakyRelu, the one DequantizeLinear that the Add and
the re-quantizer read (`benchmarks/compiler_forms.md`). With it the stream travels in int8.

What depends on the version is its `FileForm`:

- a weight is an int8 initializer with a DequantizeLinear along axis 0 (10, 11), or an FP32 initializer
  ``codes * scale`` followed by a QuantizeLinear and a DequantizeLinear (8.6 does not read int8 initializers reliably,
  and the builder runs the pair once);
- a layer that the policy keeps in float reads the floats that are there. Where types are taken from the file (10, 11)
  a layer of 16 bits has FP16 constants between Casts, and what only moves or bounds its result (ReLU, pool) stays in
  FP16 with it; else (8.6) it is written in FP32 and the builder's flag FP16 decides. A convolution of 8.6 that reads
  floats has its integer weights as FP32 constants ``codes * scale``: a pair would bring nothing there, and 8.2 and 8.4
  are reported to refuse a convolution's weight whose pair they cannot fuse, which they do together with one on the
  input (NVIDIA/TensorRT#1864, #2131). A Gemm takes computed weights.

Scales stay FP32 beside FP16 layers: rounded to FP16 they would move the grids that were trained by up to 2^-11.

What differs from the integer form: the bias is the float bias of the folded layer, not rounded to the accumulator's
grid, since TensorRT's layers take float biases; the two differ by at most half of ``input scale * weight scale``
(beside scales that are powers of two it is the rounded one). The accumulator is scaled and the bias added in float, in
an order that the builder chooses, so two engines agree to at most one step layer by layer, not bit by bit end to end.
"""

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.fp8_layers import Fp8Layer
from limpq_deploy.export.graph.onnx_files import attribute, int4_tensor
from limpq_deploy.export.qdq.base import CODE_MOVERS, AnyLayer, Dialect
from limpq_deploy.export.records.placement import ActQuantizer

INT8 = np.iinfo(np.int8)

SMALLEST_HALF = float(np.finfo(np.float16).smallest_normal)
"""Smallest scale that FP16 holds with all its bits."""

STAYS = ("Relu", "Clip", *CODE_MOVERS)
"""Operators that give the same numbers in FP16 as in FP32, and so stay in the type of what they read."""


class TensorRtDialect(Dialect):
    """Template tensors are floats throughout; behind a quantizer they are known with their grid."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.dequantized: dict[str, str] = {}
        self.params: dict[str, QuantParams] = {}
        self.half: dict[str, str] = {}
        self.casts: dict[str, str] = {}
        graph = self.template.graph
        self.readers = Counter(
            [name for node in graph.node for name in node.input] + [end.name for end in graph.output]
        )

    def params_of(self, tensor: str) -> QuantParams | None:
        return self.params.get(tensor)

    def pass_on(self, source: str, result: str, quantizer: ActQuantizer) -> None:
        if quantizer.parent is not None and source in self.params:
            self.dequantized[result] = self.real(source)
            self.params[result] = self.params[source]
            return
        if not self.only_floats_read(quantizer):
            raise ModelError(
                f"quantizer {quantizer.name!r} has no grid and scale; the target {self.spec.name!r} needs one for each"
            )
        if source in self.half:
            self.half[result] = self.half[source]
        else:
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
        if source in self.params:
            real = self.add("LeakyRelu", [real], f"{name}_again{suffix}", alpha=1.0)
        if grid.qmax < INT8.max or (grid.signed and grid.qmin > INT8.min):
            high = np.float32(grid.qmax) * step
            if grid.qmin == 0:
                real, high = self._before_relu(real, high)
            bounds = [
                self.constant(f"{name}_low", np.array(np.float32(grid.qmin) * step)),
                self.constant(f"{name}_high", np.array(high)),
            ]
            real = self.add("Clip", [real, *bounds], f"{name}_clipped{suffix}")
        codes = self.add("QuantizeLinear", [real, scale, zero_point], f"{name}_codes{suffix}")
        self.dequantized[result] = self.add(
            "DequantizeLinear", [codes, scale, zero_point], f"{name}_dequantized{suffix}"
        )
        self.params[result] = params

    def _before_relu(self, real: str, high: np.float32) -> tuple[str, np.float32]:
        """What a Clip from 0 to ``high`` reads, and its bound: both without the ReLU or ReLU6 that it alone reads.

            min(max(relu6(x), 0), high) = min(max(x, 0), min(6, high))

        Behind a Gemm the ReLU stays: TensorRT 10.12 and 10.13 forget the bound of a Clip from 0 there
        (NVIDIA/TensorRT#4606).
        """
        index = next((at for at, node in enumerate(self.nodes) if real in node.output), None)
        relu = None if index is None else self.nodes[index]
        if index is None or relu is None or self.readers[real] != 1:
            return real, high
        before = next((node for node in self.nodes if relu.input[0] in node.output), None)
        if before is not None and before.op_type == "Gemm":
            return real, high
        if relu.op_type == "Clip" and len(relu.input) == 3 and np.all(self.fixed.get(relu.input[1], 1) == 0):
            bound = self.fixed.get(relu.input[2])
            if bound is None:
                return real, high
            high = np.minimum(high, np.float32(bound))
        elif relu.op_type != "Relu":
            return real, high
        del self.nodes[index]
        return relu.input[0], high

    def layer_constants(self, layer: IntegerLayer | Fp8Layer) -> tuple[str, str]:
        if isinstance(layer, Fp8Layer):
            raise ModelError(
                f"layer {layer.name!r} is in FP8, which files for {self.spec.name} do not have; export for tensorrt_rtx"
            )
        bias = self.constant(f"{layer.name}.bias", layer.float_bias)
        return self._weight(layer.name, layer.codes, layer.scale), bias

    def copy(self, node: onnx.NodeProto, inputs: list[str], name: str | None = None) -> None:
        """The node, a convolution with its ``kernel_shape``: up to TensorRT 10.3 the parser takes it from there alone
        where the weight is no constant of the node (onnx-tensorrt, ``convMultiInput``), and reads no kernel else."""
        super().copy(node, inputs, name)
        if node.op_type == "Conv" and attribute(node, "kernel_shape") is None and node.input[1] in self.fixed:
            sizes = [int(size) for size in self.fixed[node.input[1]].shape[2:]]
            self.nodes[-1].attribute.append(helper.make_attribute("kernel_shape", sizes))

    def layer_input(self, node: onnx.NodeProto, layer: AnyLayer) -> str:
        if not self._in_half(layer):
            return self.real(node.input[0])
        self.half[node.output[0]] = node.output[0]
        return self.half.get(node.input[0]) or self._cast(self.real(node.input[0]), TensorProto.FLOAT16)

    def float_constants(self, layer: FloatLayer) -> tuple[str, str]:
        number = np.float16 if self._in_half(layer) else np.float32
        _require_range(layer, number)
        bias = self.constant(f"{layer.name}.bias", layer.float_bias.astype(number))
        if layer.codes is None or layer.scale is None or (self.form.weights == "float32" and layer.codes.ndim == 4):
            return self.constant(f"{layer.name}.weight", layer.weight.astype(number)), bias
        if number is np.float16 and layer.scale.min() < SMALLEST_HALF:
            return self._cast(self._weight(layer.name, layer.codes, layer.scale), TensorProto.FLOAT16), bias
        return self._weight(layer.name, layer.codes, layer.scale.astype(number)), bias

    def other(self, node: onnx.NodeProto) -> None:
        source = self.half.get(node.input[0])
        if source is None or node.op_type not in STAYS:
            super().other(node)
            return
        first = {"Clip": 1, "Pad": 2}.get(node.op_type, len(node.input))  # from here on inputs are numbers like source
        numbers = [self._half_constant(name) for name in node.input[first:]]
        self.copy(node, [source, *node.input[1:first], *numbers])
        self.half[node.output[0]] = node.output[0]

    def _half_constant(self, name: str) -> str:
        return self.constant(f"{name}.half", self.fixed[name].astype(np.float16)) if name else ""

    def _in_half(self, layer: AnyLayer) -> bool:
        return self.form.typed and isinstance(layer, FloatLayer) and layer.bits == 16

    def _cast(self, tensor: str, kind: int) -> str:
        name = f"{tensor}.{'half' if kind == TensorProto.FLOAT16 else 'float'}"
        if name not in self.casts:
            self.casts[name] = self.add("Cast", [tensor], name, to=kind)
        return name

    def _weight(self, layer: str, codes: NDArray[np.int8], scale_O: NDArray[Any]) -> str:
        """Dequantized weights; of at most 4 bits where blocks of a row have scales of their own, [O, blocks]."""
        name = f"{layer}.weight"
        if scale_O.ndim == 2:
            written = f"{name}_codes"
            self.initializers.setdefault(written, int4_tensor(written, codes))
            return self.add(
                "DequantizeLinear",
                [written, self.constant(f"{name}_scale", scale_O)],
                f"{name}_dequantized",
                axis=1,
                block_size=codes.shape[1] // scale_O.shape[1],
            )
        grid = [
            self.constant(f"{name}_scale", scale_O),
            self.constant(f"{name}_zero_point", np.zeros(scale_O.shape, np.int8)),
        ]
        if self.form.weights == "int8":
            written = self.constant(f"{name}_codes", codes)
        else:
            column = scale_O[(slice(None),) + (None,) * (codes.ndim - 1)]
            values = codes.astype(np.float32) * column
            assert np.array_equal(np.rint(values / column), codes), "QuantizeLinear gives back exactly the codes"
            written = self.add("QuantizeLinear", [self.constant(name, values), *grid], f"{name}_codes", axis=0)
        return self.add("DequantizeLinear", [written, *grid], f"{name}_dequantized", axis=0)

    def move(self, node: onnx.NodeProto) -> None:
        self.params[node.output[0]] = self.params[node.input[0]]
        self.copy(node, [self.real(tensor) for tensor in node.input])

    def real(self, tensor: str) -> str:
        if tensor in self.half:
            return self._cast(self.half[tensor], TensorProto.FLOAT)
        return self.dequantized.get(tensor, tensor)

    def finish(self) -> None:
        outputs = {output.name for output in self.template.graph.output}
        for name in sorted(outputs & {made for node in self.nodes for made in node.output} & self.half.keys()):
            for node in self.nodes:  # results are float32
                for names in (node.input, node.output):
                    names[:] = [f"{name}.half" if one == name else one for one in names]
            self.add("Cast", [f"{name}.half"], name, name=f"{name}_cast", to=TensorProto.FLOAT)
        for name in sorted(outputs & self.dequantized.keys()):
            self.add("Identity", [self.dequantized[name]], name, name=f"{name}_identity")


def _require_range(layer: FloatLayer, number: type[np.floating[Any]]) -> None:
    largest = max(np.abs(layer.weight).max(initial=0.0), np.abs(layer.bias).max(initial=0.0))
    if largest > np.finfo(number).max:
        raise ModelError(
            f"layer {layer.name!r} has a weight or bias of {largest:g}, which FP16 cannot hold; give it 32 bits"
        )


DIALECT = TensorRtDialect
