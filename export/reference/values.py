"""What a tensor of a Q/DQ graph is before a QuantizeLinear says what it becomes.

Each has ``quantized(scale, zero_point, dtype)``: its codes, by the arithmetic of `operators`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.graph.code_grids import flipped
from limpq_deploy.export.reference import operators as ops
from limpq_deploy.export.reference.arm import AddTable

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Dequantized:
    """Codes with the meaning ``(code - zero_point) * scale``."""

    codes: Array
    scale: np.float32
    zero_point: int

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        if self.codes.itemsize > 1:  # of 16 bits and more: each by itself
            return ops.quantize(ops.dequantize(self.codes, self.scale, self.zero_point), scale, zero_point, dtype)
        return Table(self.codes, ops.all_values(self.scale, self.zero_point, self.codes.dtype)).quantized(
            scale, zero_point, dtype
        )


@dataclass(frozen=True, slots=True)
class Table:
    """A function of single codes: the real value for each of the 256."""

    codes: Array
    values: NDArray[np.float32]

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        return ops.quantize(self.values, scale, zero_point, dtype)[ops.byte(self.codes)]


@dataclass(frozen=True, slots=True)
class Accumulator:
    """Integer sums of products with a scale per channel along ``axis``."""

    sums: Array
    scale: NDArray[np.float32]
    axis: int
    relu: bool = False

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        _require_absorbed(self.relu, zero_point, dtype)
        return ops.requantize(self.sums, self.scale, scale, zero_point, dtype, self.axis)

    def real(self) -> NDArray[np.float32]:
        values = ops.real(self.sums, self.scale, self.axis)
        return np.maximum(values, np.float32(0)) if self.relu else values


@dataclass(frozen=True, slots=True)
class Sum:
    """Two dequantized tensors whose shapes are broadcast, to be added in the way of a machine's kernels."""

    first: Dequantized
    second: Dequantized
    relu: bool = False
    add: AddTable = ops.add_table

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        _require_absorbed(self.relu, zero_point, dtype)
        inputs = [(entry.scale, entry.zero_point, entry.codes.dtype) for entry in (self.first, self.second)]
        table = self.add(inputs[0], inputs[1], (scale, zero_point, dtype))
        return _looked_up(table, self.first.codes, self.second.codes)


@dataclass(frozen=True, slots=True)
class Mean:
    """A global average of a dequantized tensor."""

    source: Dequantized

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        return ops.mean_codes(self.source.codes, self.source.scale, self.source.zero_point, scale, zero_point, dtype)


@dataclass(frozen=True, slots=True)
class Product:
    """Two dequantized tensors to be multiplied, their shapes broadcast."""

    first: Dequantized
    second: Dequantized
    relu: bool = False

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        _require_absorbed(self.relu, zero_point, dtype)
        inputs = [(entry.scale, entry.zero_point, entry.codes.dtype) for entry in (self.first, self.second)]
        table = ops.product_table(inputs[0], inputs[1], (scale, zero_point, dtype))
        return _looked_up(table, self.first.codes, self.second.codes)


@dataclass(frozen=True, slots=True)
class Joined:
    """Dequantized tensors (or others of this file) one behind the other along an axis."""

    parts: tuple[Any, ...]
    axis: int

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        return np.concatenate([part.quantized(scale, zero_point, dtype) for part in self.parts], axis=self.axis)


@dataclass(frozen=True, slots=True)
class Average:
    """Averages of a dequantized tensor over windows (`operators.average_codes`)."""

    source: Dequantized
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    with_padding: bool

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        values = ops.all_values(self.source.scale, self.source.zero_point, self.source.codes.dtype)
        real = values[ops.byte(self.source.codes)]
        means = ops.window_means(real, self.kernel, self.strides, self.pads, with_padding=self.with_padding)
        return ops.to_codes((means / scale + np.float32(zero_point)).astype(np.float32), 0, dtype)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A tensor cut at reals; quantizing keeps order, so its codes are cut at the bounds' codes."""

    source: Any
    low: np.float32
    high: np.float32

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        low, high = ops.quantize(np.array([self.low, self.high]), scale, zero_point, dtype)
        codes: Array = np.clip(self.source.quantized(scale, zero_point, dtype), low, high)
        return codes


@dataclass(frozen=True, slots=True)
class Moved:
    """A tensor whose elements are moved or chosen by order; its codes are moved the same way."""

    source: Any
    move: Callable[[Array], Array]

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        return self.move(self.source.quantized(scale, zero_point, dtype))


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A tensor of int8 codes that a runtime computes as uint8 ones, 128 higher: where a zero-point enters float
    arithmetic, this decides ties."""

    source: Any

    def quantized(self, scale: np.float32, zero_point: int, dtype: ops.CodeType) -> Array:
        if dtype != np.int8:
            codes: Array = self.source.quantized(scale, zero_point, dtype)
            return codes
        return flipped(self.source.quantized(scale, zero_point + 128, np.dtype(np.uint8)))


LAZY = (Dequantized, Table, Accumulator, Sum, Mean, Product, Joined, Average, Bounded, Moved, Unsigned)


def _looked_up(table: Array, first: Array, second: Array) -> Array:
    """Entries of a table [256, 256] for each pair of codes."""
    both: Array = table.reshape(-1)[ops.byte(first).astype(np.uint16) << 8 | ops.byte(second)]
    return both


def _require_absorbed(relu: bool, zero_point: int, dtype: ops.CodeType) -> None:
    if relu and zero_point != np.iinfo(dtype).min:
        raise ValueError("behind a Relu the zero-point has to be the lowest code, so that the clamp is the Relu")
