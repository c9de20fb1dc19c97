"""Quantization parameters of one tensor: ``real = code * scale`` (containers with a zero-point are the target's
affair)."""

import math
from dataclasses import dataclass
from typing import Literal

from limpq_deploy.calibration.numbers.grid import QuantGrid

Scales = Literal["free", "pow2"]
"""Whether scales are any positive numbers or powers of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantParams:
    """A grid with its scale: one number per tensor (``axis`` None), or one per channel along ``axis``."""

    grid: QuantGrid
    scale: tuple[float, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.axis is None and len(self.scale) != 1:
            raise ValueError(f"a per-tensor quantizer has one scale, not {len(self.scale)}")
        for value in self.scale:
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"a scale must be positive and finite, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorQuant:
    """The quantizer of one named tensor: a weight (the layer's name) or an activation (the quantizer's name)."""

    tensor: str
    params: QuantParams
