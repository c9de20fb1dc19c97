"""Numeric formats beside bit-widths, by name: the one place that knows them.

A policy gives every layer two widths, and a width is an int everywhere: 2 to 8 are integers of so many bits, 16 and 32
floats. FP8 (E4M3: sign, 4 bits of exponent, 3 of mantissa; OCP 8-bit Floating Point Specification, 2023) has 8 bits and
is no integer. No integer grid has 9 bits, so 9 is its width: behind int8, before FP16. It is never counted with: costs
take `bits_of`, people read `pair_name`, and records say ``"format": "fp8"`` beside 8 bits.
"""

from collections.abc import Mapping

FP8 = 9
"""The width that means FP8 (E4M3), of weights and activations alike."""

FP8_BITS = 8

LARGEST_FP8 = 448.0
"""Largest number of E4M3; what is larger is cut to it."""

LEAST_EXPONENT = -6
"""Of E4M3's normal numbers; below 2^-6 they are multiples of 2^-9."""

FORMATS: Mapping[str, int] = {"int8": 8, "fp8": FP8, "fp16": 16}
"""Widths by the names under which users ask for formats of whole layers."""


def bits_of(width: int) -> int:
    """How many bits a number of this width has."""
    return FP8_BITS if width == FP8 else width


def width_name(width: int) -> str:
    """``4``, ``16``, ``fp8``."""
    return "fp8" if width == FP8 else str(width)


def pair_name(pair: tuple[int, int]) -> str:
    """``w4a8``; ``fp8`` where both are."""
    return "fp8" if pair == (FP8, FP8) else f"w{width_name(pair[0])}a{width_name(pair[1])}"


def whole(pair: tuple[int, int]) -> bool:
    """Whether a pair is of one kind: no hardware multiplies FP8 by integers."""
    return (pair[0] == FP8) == (pair[1] == FP8)
