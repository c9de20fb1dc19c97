"""TensorRT-RTX's dialect: that of TensorRT, its layers in half precision around exact integers.

The compiler of TensorRT-RTX ends an int8 convolution in FP32 where its weight has a scale for each channel, and in FP16
where it has one for the tensor and both inputs are FP16: half the bytes (`benchmarks/compiler_forms.md`). So a layer in
integers, codes q_x and q_w[c], is written

    sum[c]    = f16(2^-p * (q_x . q_w[c]))       a Conv or Gemm without bias: DequantizeLinear by 1 and by 2^-p, in FP16
    result[c] = f32(sum[c]) * factor[c] + bias[c]         Cast, Mul, Add in FP32; factor = f32(s_x * s_w[c]) * 2^p

Its inputs are integers and a power of two, and ``p`` is the least with which no sum can pass 2^15 (`graph.half_sums`):
nothing overflows, nothing is subnormal, no scale is rounded. What differs from TensorRT's file is one rounding, of the
sum to the 11 bits of FP16; a sum of 11 bits or less stays as it is, and the trained model rounds like that where it
stands for the file (`quant.half_sums`). All else is as there: quantizers, sums of streams,
ReLUs and their bounds are in FP32, with the very numbers that were trained.

A layer in FP8 is written the same way. Its codes are numbers of E4M3 (type float8e4m3fn) with zero-point 0, saturating
as QuantizeLinear does by itself; so they need no Clip, and a ReLU in front of one stays.

Around layers of 16 bits tensors stay in FP16: a residual stream that such layers alone read is no codes but FP16, one
tensor for them and for the sum: read in FP32 by the sum, it would be written twice. So a sum of anything in FP16 is in
FP16.

A MaxPool behind a layer and its ReLU is written straight behind the layer: factors are positive, so that what follows
keeps order, and the pool reads FP16 and leaves less to read.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from limpq_deploy.calibration.numbers.float8 import fp8_bytes
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.fp8_layers import Fp8Layer
from limpq_deploy.export.graph.half_sums import sum_factor, sum_step
from limpq_deploy.export.qdq.base import LAYER_OPS, AnyLayer
from limpq_deploy.export.qdq.tensorrt import TensorRtDialect
from limpq_deploy.export.records.placement import ActQuantizer

FP8 = TensorProto.FLOAT8E4M3FN

JOINS = ("Add", "Concat")
"""Operators that are in FP16 where anything that they read is."""


class TensorRtRtxDialect(TensorRtDialect):
    """Codes are dequantized twice: to reals in FP32, and to integers in FP16 for layers alone."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.codes: dict[str, tuple[str, str]] = {}
        self.moved: dict[str, onnx.NodeProto] = {}
        self.integers: dict[str, str] = {}
        self.pooled: set[str] = set()
        self.reader = {name: node for node in self.template.graph.node for name in node.input}

    def quantize(self, source: str, result: str, name: str, suffix: str, params: QuantParams) -> None:
        if params.grid.fp8:
            self._quantize_to_fp8(source, result, name, suffix, params)
        else:
            super().quantize(source, result, name, suffix, params)
        self.codes[self.dequantized[result]] = (f"{name}_codes{suffix}", f"{name}_zero_point")

    def _quantize_to_fp8(self, source: str, result: str, name: str, suffix: str, params: QuantParams) -> None:
        real = self.real(source)
        if source in self.params:
            real = self.add("LeakyRelu", [real], f"{name}_again{suffix}", alpha=1.0)
        scale = self.constant(f"{name}_scale", np.array(params.scale[0], np.float32))
        grid = [scale, self._fp8(f"{name}_zero_point", np.array(0, np.float32))]
        codes = self.add("QuantizeLinear", [real, *grid], f"{name}_codes{suffix}")
        self.dequantized[result] = self.add("DequantizeLinear", [codes, *grid], f"{name}_dequantized{suffix}")
        self.params[result] = params

    def _fp8(self, name: str, numbers: NDArray[np.float32]) -> str:
        """An initializer of numbers of E4M3."""
        raw = fp8_bytes(numbers).tobytes()
        self.initializers.setdefault(name, helper.make_tensor(name, FP8, numbers.shape, raw, raw=True))
        return name

    def pass_on(self, source: str, result: str, quantizer: ActQuantizer) -> None:
        deciding = [self.layers.get(name) for name in self.placement.deciding(quantizer)]
        if source in self.params or source in self.half or not all(one and self._in_half(one) for one in deciding):
            super().pass_on(source, result, quantizer)
        else:
            self.half[result] = self._cast(self.real(source), TensorProto.FLOAT16)

    def move(self, node: onnx.NodeProto) -> None:
        super().move(node)
        self.moved[node.output[0]] = node

    def layer_input(self, node: onnx.NodeProto, layer: AnyLayer) -> str:
        if isinstance(layer, FloatLayer):
            return super().layer_input(node, layer)
        return self._integers(self.real(node.input[0]))

    def _integers(self, real: str) -> str:
        """Codes as integers in FP16, by the tensor of their reals."""
        if real in self.integers:
            return self.integers[real]
        name = f"{real}.integers"
        if real in self.codes:
            codes, zero_point = self.codes[real]
            self.add("DequantizeLinear", [codes, self.constant("one", np.array(1, np.float16)), zero_point], name)
        else:
            node = onnx.NodeProto()
            node.CopyFrom(self.moved[real])
            node.output[0] = name
            numbers = (
                [self._half_constant(one) for one in node.input[2:3]] if node.op_type == "Pad" else node.input[2:3]
            )
            self.copy(node, [self._integers(self.real(node.input[0])), *node.input[1:2], *numbers, *node.input[3:]])
        self.integers[real] = name
        return name

    def layer_constants(self, layer: IntegerLayer | Fp8Layer) -> tuple[str, str]:
        name = f"{layer.name}.weight"
        write: Callable[[str, Any], str] = self._fp8 if isinstance(layer, Fp8Layer) else self.constant
        zero: NDArray[Any] = np.zeros((), layer.codes.dtype)
        grid = [
            self.constant(f"{name}_scale", np.array(sum_step(layer), np.float16)),
            write(f"{name}_zero_point", zero),
        ]
        written = write(f"{name}_codes", layer.codes)
        return self.add("DequantizeLinear", [written, *grid], f"{name}_dequantized"), ""

    def copy(self, node: onnx.NodeProto, inputs: list[str], name: str | None = None) -> None:
        layer = self.layers.get(name) if name is not None else None
        if not isinstance(layer, IntegerLayer | Fp8Layer):
            super().copy(node, inputs, name)
            return
        assert node.op_type in LAYER_OPS
        result = node.output[0]
        product = onnx.NodeProto()
        product.CopyFrom(node)
        product.output[0] = f"{result}.sum"
        super().copy(product, inputs[:2], name)
        column = (1, -1) + (1,) * (layer.codes.ndim - 2)
        factor = self.constant(f"{name}.factor", sum_factor(layer).reshape(column))
        bias = self.constant(f"{name}.bias", layer.float_bias.reshape(column))
        total = self.add("Cast", [self._early_pool(node, product.output[0])], f"{result}.float", to=TensorProto.FLOAT)
        scaled = self.add("Mul", [total, factor], f"{result}.scaled")
        self.add("Add", [scaled, bias], result, name=f"{result}.biased")

    def _early_pool(self, node: onnx.NodeProto, total: str) -> str:
        """The sums, pooled where the layer's ReLU is all that stands between it and a MaxPool."""
        relu = self._only_reader(node.output[0])
        pool = self._only_reader(relu.output[0]) if relu is not None and relu.op_type in ("Relu", "Clip") else None
        if relu is None or pool is None or pool.op_type != "MaxPool":
            return total
        early = onnx.NodeProto()
        early.CopyFrom(pool)
        early.output[0] = f"{total}.pool"
        self.copy(early, [total])
        self.pooled.add(pool.output[0])
        self.readers[relu.output[0]] = self.readers[pool.output[0]]
        return early.output[0]

    def _only_reader(self, tensor: str) -> onnx.NodeProto | None:
        return self.reader.get(tensor) if self.readers[tensor] == 1 else None

    def other(self, node: onnx.NodeProto) -> None:
        if node.output[0] in self.pooled:
            self.dequantized[node.output[0]] = self.real(node.input[0])
        elif node.op_type in JOINS and any(name in self.half for name in node.input):
            self.copy(
                node, [self.half.get(one) or self._cast(self.real(one), TensorProto.FLOAT16) for one in node.input]
            )
            self.half[node.output[0]] = node.output[0]
        else:
            super().other(node)

    def finish(self) -> None:
        super().finish()
        read, kept = {output.name for output in self.template.graph.output}, []
        for node in reversed(self.nodes):  # reals of codes that layers alone read have no reader
            if read.intersection(node.output):
                read.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]


DIALECT = TensorRtRtxDialect
