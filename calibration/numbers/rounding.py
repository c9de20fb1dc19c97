"""Tensors rounded to a grid's codes, in torch."""

import torch

from limpq_deploy.calibration.numbers.float8 import FP8_NUMBERS
from limpq_deploy.calibration.numbers.grid import QuantGrid


def to_codes(steps: torch.Tensor, grid: QuantGrid) -> torch.Tensor:
    """The nearest code of each element, ties to even, cut at the grid's ends; of the tensor's own type."""
    clipped = steps.clamp(grid.qmin, grid.qmax)
    return to_fp8(clipped) if grid.fp8 else clipped.round_()


def codes_of(grid: QuantGrid) -> torch.Tensor:
    """All codes of a grid, ascending."""
    return torch.from_numpy(FP8_NUMBERS) if grid.fp8 else torch.arange(grid.qmin, grid.qmax + 1)


def to_fp8(clipped: torch.Tensor) -> torch.Tensor:
    """The nearest numbers of E4M3 for what lies between its ends."""
    return clipped.to(torch.float8_e4m3fn).to(clipped.dtype)
