"""What ONNX Runtime's Arm kernels add: fixed point of 22 bits where x86 computes in float32.

Written after the arithmetic of MLAS's QLinearAdd for NEON (qladd.cpp of ONNX Runtime); it was never compared with an
Arm machine. No other operator has a form of its own there.
"""

import platform
from collections.abc import Callable

import numpy as np

from limpq_deploy.export.reference.operators import Codes, CodeType, add_table, to_codes

Grid = tuple[np.float32, int, CodeType]
"""(scale, zero-point, dtype) of a tensor."""

AddTable = Callable[[Grid, Grid, Grid], Codes]

BITS = 22
SMALLEST, LARGEST = np.float32(2.0**-14), np.float32(2.0**8)
"""Ratios of scales outside these are added in float32."""


def add_table_here() -> AddTable:
    """The Add of the machine that this process runs on."""
    return arm_add_table if platform.machine().lower() in ("aarch64", "arm64") else add_table


def arm_add_table(first: Grid, second: Grid, out: Grid) -> Codes:
    """All results of a quantized Add, [256, 256] by the two inputs' codes as unsigned bytes.

    rA = sA / sC and rB = sB / sC in float32; shift = 21 - exponent of the larger; mA = round(rA * 2^shift) has at most
    22 bits; round(((a - zA) mA + (b - zB) mB) / 2^shift) + zC in integers, ties away from 0. Ratios below 2^-14 or from
    2^8 on: ((a - zA) sA + (b - zB) sB) / sC in float32, ties to even.
    """
    (scale_a, zero_a, type_a), (scale_b, zero_b, type_b), (scale_c, zero_c, type_c) = first, second, out
    steps_a, steps_b = _steps(zero_a, type_a)[:, None], _steps(zero_b, type_b)
    fixed = multipliers(np.float32(scale_a / scale_c), np.float32(scale_b / scale_c))
    if fixed is None:
        total = (steps_a.astype(np.float32) * scale_a + steps_b.astype(np.float32) * scale_b) / scale_c
        ends = np.iinfo(type_c)
        bounded = np.clip(total, np.float32(ends.min - zero_c), np.float32(ends.max - zero_c)) + np.float32(zero_c)
        return to_codes(bounded.astype(np.float32), 0, type_c)
    shift, factor_a, factor_b = fixed
    sums = steps_a * factor_a + steps_b * factor_b
    rounded = np.sign(sums) * ((np.abs(sums) + (1 << (shift - 1))) >> shift)
    ends = np.iinfo(type_c)
    codes: Codes = np.clip(rounded + zero_c, ends.min, ends.max).astype(type_c)
    return codes


def multipliers(ratio_a: np.float32, ratio_b: np.float32) -> tuple[int, int, int] | None:
    """(shift, mA, mB); None where the kernel falls back to float32."""
    if not all(SMALLEST <= ratio < LARGEST for ratio in (ratio_a, ratio_b)):
        return None
    exponent = int(np.frexp(max(ratio_a, ratio_b))[1]) - 1
    shift = BITS - 1 - exponent
    factor_a, factor_b = (int(np.rint(np.ldexp(ratio, shift))) for ratio in (ratio_a, ratio_b))
    if not 13 <= shift <= 31 or max(factor_a, factor_b) >= 1 << BITS:
        return None
    return shift, factor_a, factor_b


def _steps(zero_point: int, dtype: CodeType) -> Codes:
    """code - zero-point of all 256 codes, by their unsigned byte."""
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.int64) - zero_point
