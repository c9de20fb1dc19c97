"""A file of TensorRT-RTX's dialect in NumPy: exact products of int8 and FP8 codes, sums rounded once to FP16.

ONNX's own reference evaluator walks the graph. Some operators are ours: Conv and Gemm in FP16 sum in float64, where
products of E4M3 numbers (multiples of 2^-18 up to 2^18) and of int8 are exact, and round once; QuantizeLinear to FP8
gives the nearest number of the format, saturating. What is left to the machine is float32 behind the sums, and the
order in which pools add.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import _conv_implementation

from limpq_deploy.calibration.numbers.float8 import fp8_bytes, fp8_numbers, fp8_places, nearest_fp8

Array = NDArray[Any]

IMAGES = 8
"""Of a batch that are executed: NumPy takes its time."""


class _Conv(OpRun):
    op_domain = ""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, **attributes: Any) -> tuple[Array]:
        names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
        given = [attributes.get(name) for name in names]
        exact = _conv_implementation(x.astype(np.float64), weight.astype(np.float64), None, *given)
        column = 0 if bias is None else bias.astype(np.float64).reshape(1, -1, *(1,) * (x.ndim - 2))
        return ((exact + column).astype(x.dtype),)


class _Gemm(OpRun):
    op_domain = ""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, transB: int = 0, **_: Any) -> tuple[Array]:
        right = weight.T if transB else weight
        exact = x.astype(np.float64) @ right.astype(np.float64)
        return ((exact + (0 if bias is None else bias.astype(np.float64))).astype(x.dtype),)


class _Quantize(OpRun):
    """Codes of FP8 are kept as bytes, here and in `_Dequantize`. One scale for the tensor."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, zero_point: Array, **_: Any) -> tuple[Array]:
        if _is_fp8(zero_point):
            return (fp8_bytes(nearest_fp8(x / scale)).view(zero_point.dtype),)
        ends = np.iinfo(zero_point.dtype)
        codes = np.rint(x / scale) + zero_point.astype(np.float32)
        return (np.clip(codes, ends.min, ends.max).astype(zero_point.dtype),)


class _Dequantize(OpRun):
    op_domain = ""

    def _run(
        self, x: Array, scale: Array, zero_point: Array | None = None, axis: int = 1, block_size: int = 0, **_: Any
    ) -> tuple[Array]:
        if block_size:
            column = np.repeat(scale.astype(np.float32), block_size, axis)
            return ((x.astype(np.float32) * column).astype(scale.dtype),)
        assert zero_point is not None, "files of this dialect have one"
        shape = [-1 if place == axis else 1 for place in range(x.ndim)] if scale.ndim else []
        numbers = fp8_numbers(x.view(np.uint8)) if _is_fp8(x) else x.astype(np.float32)
        zeros = 0 if _is_fp8(x) else zero_point.astype(np.float32).reshape(shape)
        return (((numbers - zeros) * scale.astype(np.float32).reshape(shape)).astype(scale.dtype),)


for _operator in (_Conv, _Gemm, _Quantize, _Dequantize):
    _operator.__name__ = {"_Quantize": "QuantizeLinear", "_Dequantize": "DequantizeLinear"}.get(
        _operator.__name__, _operator.__name__[1:]
    )


def codes_in_numpy(model: onnx.ModelProto, images_NCHW: NDArray[np.float32], keep: Collection[str]) -> dict[str, Array]:
    """Codes of the tensors named in ``keep`` (of FP8 the places) and results, by name."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    results = [output.name for output in model.graph.output]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in keep)
    evaluator = ReferenceEvaluator(shown, new_ops=[_Conv, _Gemm, _Quantize, _Dequantize])
    names = [*results, *keep]
    found: Any = evaluator.run(names, {model.graph.input[0].name: images_NCHW})
    return {
        name: fp8_places(fp8_numbers(value.view(np.uint8))) if _is_fp8(value) else value
        for name, value in zip(names, found, strict=True)
    }


def _is_fp8(values: Array) -> bool:
    return values.dtype.name == "float8_e4m3fn"
