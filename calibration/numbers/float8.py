"""FP8 (E4M3) in NumPy, exactly: the nearest number of the format, ties to even, saturating.

OCP 8-bit Floating Point Specification (2023): 4 bits of exponent with bias 7, 3 of mantissa, no infinities. Numbers are
held as the float32 that they are.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.numbers.formats import LARGEST_FP8, LEAST_EXPONENT

MANTISSA = 3

LAST_PLACE = 126
"""Of the largest number, counted from 0."""


def nearest_fp8(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """The nearest number of E4M3, ties to an even mantissa; beyond 448 it is 448, as QuantizeLinear does with
    ``saturate`` = 1. NaN stays NaN."""
    kept = np.clip(np.asarray(values, np.float32), -LARGEST_FP8, LARGEST_FP8)
    exponent = np.maximum(np.frexp(kept)[1] - 1, LEAST_EXPONENT)
    step = np.ldexp(np.float32(1), exponent - MANTISSA).astype(np.float32)
    rounded: NDArray[np.float32] = np.rint(kept / step) * step
    return rounded


def fp8_bytes(numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The byte of each number of E4M3: sign, exponent, mantissa, as ONNX stores them."""
    size = np.abs(numbers)
    exponent = np.where(size > 0, np.maximum(np.frexp(size)[1] - 1, LEAST_EXPONENT), LEAST_EXPONENT)
    steps = np.rint(np.ldexp(size, MANTISSA - exponent)).astype(np.int64)  # 8 to 15, below 8 where subnormal
    code = steps + ((exponent - LEAST_EXPONENT) << MANTISSA)
    return np.where(np.signbit(numbers), code + 128, code).astype(np.uint8)


def fp8_numbers(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The number of each byte; the two bytes of NaN give NaN."""
    return FP8_OF_BYTE[codes]


def fp8_places(numbers: NDArray[np.float32]) -> NDArray[np.int16]:
    """The place of each number among all of the format, up to `LAST_PLACE` both ways; neighbours are one apart."""
    size = fp8_bytes(np.abs(numbers)).astype(np.int16)
    return np.where(numbers < 0, -size, size).astype(np.int16)


def _all() -> NDArray[np.float32]:
    code = np.arange(256)
    exponent, mantissa = (code >> MANTISSA) & 15, code & 7
    size = np.where(
        exponent == 0,
        np.ldexp(mantissa.astype(np.float32), LEAST_EXPONENT - MANTISSA),
        np.ldexp((8 + mantissa).astype(np.float32), exponent - 7 - MANTISSA),
    )
    size[(code & 127) == 127] = np.nan
    return np.where(code < 128, size, -size).astype(np.float32)


FP8_OF_BYTE = _all()
"""The number of each of the 256 bytes."""

FP8_NUMBERS = np.unique(FP8_OF_BYTE[np.isfinite(FP8_OF_BYTE)])
"""All 253 numbers, ascending."""
