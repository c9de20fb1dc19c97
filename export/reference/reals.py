"""Unevaluated values of the reference where a graph asks for more than their codes: reals, shapes, bounds and parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.code_grids import flipped
from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.reference import operators as ops
from limpq_deploy.export.reference.values import (
    LAZY,
    Accumulator,
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


def real_of(value: Any) -> Any:
    """Reals of dequantized codes; arrays as they are. Raises ModelError for results that only a quantizer evaluates."""
    if isinstance(value, Dequantized):
        return ops.dequantize(value.codes, value.scale, value.zero_point)
    if isinstance(value, Joined):
        return np.concatenate([real_of(part) for part in value.parts], axis=value.axis)
    if isinstance(value, LAZY):
        raise ModelError(
            "the runtime computes integers where the file goes on in reals, without a QuantizeLinear behind; the "
            "integer reference has no meaning for that"
        )
    return value


def parts_of(value: Any, count: int, axis: int, sizes: Sequence[int] | None) -> list[Any]:
    """A tensor cut along an axis, into parts of these sizes or (None) of one size but for the last."""

    def part(values: Array, index: int) -> Array:
        total = values.shape[axis]
        even = np.minimum(-(-total // count) * np.arange(1, count + 1), total)
        ends = [0, *(even if sizes is None else np.cumsum(sizes))]
        return values.take(np.arange(int(ends[index]), int(ends[index + 1])), axis=axis)

    if isinstance(value, Dequantized):
        return [Dequantized(part(value.codes, index), value.scale, value.zero_point) for index in range(count)]
    if isinstance(value, LAZY):
        return [Moved(value, lambda values, index=index: part(values, index)) for index in range(count)]  # type: ignore[misc]
    return [part(value, index) for index in range(count)]


def unsigned(value: Dequantized) -> Dequantized:
    """int8 codes as uint8 ones of the same meaning."""
    return Dequantized(flipped(value.codes), value.scale, value.zero_point + 128)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an unevaluated tensor; a move is made once on numbers of no meaning."""
    match value:
        case Dequantized() | Table():
            shape: tuple[int, ...] = value.codes.shape
        case Accumulator():
            shape = value.sums.shape
        case Mean():
            shape = (*value.source.codes.shape[:2], 1, 1)
        case Sum() | Product():
            shape = value.first.codes.shape
        case Bounded() | Unsigned():
            shape = shape_of(value.source)
        case _:
            shape = value.quantized(np.float32(1), 0, np.dtype(np.uint8)).shape
    return shape


def bounds(node: onnx.NodeProto, inputs: list[Any]) -> tuple[Any, Any]:
    if node.op_type == "Relu":
        return np.float32(0), None
    given = [*inputs[1:], None, None][:2]
    low, high = (None if value is None else value.reshape(()) for value in given)
    old = attribute(node, "min"), attribute(node, "max")  # attributes before opset 11
    return low if low is not None else old[0], high if high is not None else old[1]


def quantize_along(values: Array, scale: Array, zero_point: Array, axis: int) -> Array:
    along = [-1 if index == axis % values.ndim else 1 for index in range(values.ndim)]
    ends = np.iinfo(zero_point.dtype)
    rounded = np.rint(values / scale.reshape(along)) + zero_point.astype(np.float32).reshape(along)
    codes: Array = np.clip(rounded, ends.min, ends.max).astype(zero_point.dtype)
    return codes
