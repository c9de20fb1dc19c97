"""First scales of a quantizer, from a tensor. Each returns one positive Python float."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from limpq_deploy.calibration.numbers.entropy import entropy_threshold
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.rounding import to_codes

DEAD = 1e-8
"""A tensor of zeros still gets a positive scale: any one represents it."""

SMALLEST = 1e-26
"""A tensor that is not all zeros has no smaller scale; a learned one goes no farther down either."""


def lsq_mean_abs(values: torch.Tensor, grid: QuantGrid) -> float:
    """``2 * mean(|x|) / sqrt(qmax)`` (Esser et al., LSQ, ICLR 2020): the start of a learned activation scale."""
    return _positive(2 * values.abs().mean().item() / math.sqrt(grid.qmax))


def three_sigma(values: torch.Tensor, grid: QuantGrid) -> float:
    """``max(|mean - 3 std|, |mean + 3 std|) / 2^(b-1)`` (Tang et al., LIMPQ, ECCV 2022): first weight scale. Of FP8,
    whose steps are as fine as its numbers small, `min_max`."""
    if grid.fp8:
        return min_max(values, grid)
    exponent = math.frexp(values.abs().max().item())[1]
    values = torch.ldexp(values, torch.tensor(-exponent))  # exact; squares neither overflow nor vanish
    mean, std = values.mean().item(), values.std(unbiased=False).item()
    return _positive(math.ldexp(max(abs(mean - 3 * std), abs(mean + 3 * std)), exponent) / 2 ** (grid.bits - 1))


def min_max(values: torch.Tensor, grid: QuantGrid) -> float:
    """The smallest scale that clips nothing."""
    low, high = values.min().item(), values.max().item()
    return _positive(max(high / grid.qmax, low / grid.qmin if grid.signed else 0.0))


def least_squares(values: torch.Tensor, grid: QuantGrid, *, candidates: int = 64) -> float:
    """The scale with the least mean squared quantization error, among fractions 1/candidates..1 of `min_max`.

    At most about 200,000 evenly spaced elements are looked at.
    """
    flat = _some(values)
    widest = min_max(values, grid)
    best, least = widest, math.inf
    for step in range(candidates, candidates // 16, -1):
        scale = widest * step / candidates
        error = _squared_error(flat, grid, scale)
        if error < least:
            best, least = scale, error
    return best


def _some(values: torch.Tensor) -> torch.Tensor:
    flat = values.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // 200_000)].float()


def _squared_error(flat: torch.Tensor, grid: QuantGrid, scale: float) -> float:
    exponent = max(-100, min(100, math.frexp(scale)[1]))
    flat, scale = flat * 2.0**-exponent, math.ldexp(scale, -exponent)  # exact; squares neither overflow nor vanish
    error = (flat - to_codes(flat / scale, grid) * scale).square_().mean().item()
    return math.ldexp(error, 2 * exponent)


def percentile(values: torch.Tensor, grid: QuantGrid, *, share: float = 99.99) -> float:
    """The smallest scale that leaves ``share`` percent of the values unclipped (McKinstry et al., 2018; 99.99 as in
    Wu et al., Integer Quantization for Deep Learning Inference, 2020).

    The ``share`` percentile, linearly interpolated, of the scale that each value asks for: ``x / qmax`` above 0,
    ``x / qmin`` below.
    """
    asked = values.detach().reshape(-1).double() / grid.qmax
    if grid.qmin < 0:
        asked = torch.where(asked < 0, asked * (grid.qmax / grid.qmin), asked)
    ordered = asked.clamp_min(0).sort().values
    position = (len(ordered) - 1) * share / 100
    below = int(position)
    low, high = ordered[below].item(), ordered[min(below + 1, len(ordered) - 1)].item()
    return _positive(low + (high - low) * (position - below))


def entropy(values: torch.Tensor, grid: QuantGrid) -> float:
    """``T / qmax`` with the threshold T of least divergence for the codes 0..qmax (`entropy_threshold`); that is about
    codes of one distance, so FP8 takes `least_squares`."""
    if grid.fp8:
        return least_squares(values, grid)
    threshold = entropy_threshold(values.detach().abs().reshape(-1).cpu().numpy(), grid.qmax + 1)
    return _positive(threshold / grid.qmax)


def _positive(scale: float) -> float:
    return max(scale, SMALLEST) if scale > 0 else DEAD


def power_of_two(values: torch.Tensor, grid: QuantGrid, scale: float) -> float:
    """Of the two powers of two around a scale, the one with the smaller squared quantization error."""
    below = 2.0 ** math.floor(math.log2(scale))
    return min((below, 2 * below), key=lambda power: _squared_error(_some(values), grid, power))


RangeMethod = Callable[[torch.Tensor, QuantGrid], float]

RANGES: Mapping[str, RangeMethod] = MappingProxyType(
    {"mse": least_squares, "minmax": min_max, "percentile": percentile, "entropy": entropy}
)
"""Ways to a scale that nothing will train, by name."""
