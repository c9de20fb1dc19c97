"""BatchNorm folded into integer codes: the integers of a trained layer as the runtime executes them.

Weights below 7 bits are written as multiples of a power of two, in 7 bits: ``codes * 2^k`` with ``scale / 2^k`` are the
same real weights, bit for bit. The bias is what gains: it is an integer of ``input scale * weight scale``, and with
4-bit weights and activations that step can be as coarse as a whole step of the 8-bit output. Seven bits, because
products of u8 with such weights never saturate, whatever the CPU.

A channel next to nothing beside its bias (gamma 1e-9 and beta not, weights of 0 or 1e-9, an input that was 0 on all
images) is the other way round: its bias is beyond int32 in steps of so small a scale. Its scale is made coarser by a
power of two and its codes are rounded, to 0 where the channel is dead. What is lost is less than 2^-30 of the bias for
each product of an input of 8 bits with half a step.

Scales that are powers of two are for sums that float32 holds exactly, whatever their order: biases stay below 2^22
steps, and weights are written as wide as leaves products and bias together below 2^24, where that is possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.grid import QuantGrid

WRITTEN_BITS = 7
"""Weights of fewer bits are written this wide."""

LARGEST_BIAS = 2.0**30
"""Largest bias code; the other half of int32 is left to the products."""

LARGEST_EXACT_BIAS = 2.0**22
"""Largest bias code beside scales that are powers of two."""

FLOAT32_EXACT = 2**24
"""float32 holds every integer up to this."""

SMALLEST_STEP = 2.0**-100
"""Smallest step of a weight and of an accumulator: float32 still holds it, and its ratio to the step of the output,
with all bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormParams:
    """Inference-time BatchNorm over O channels: ``y = gamma * (x - mean) / sqrt(var + eps) + beta``; all float64
    [O]."""

    gamma: NDArray[np.float64]
    beta: NDArray[np.float64]
    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLayer:
    """A layer's integers.

    ``bits``: width of the grid; ``step``: the codes are multiples of it (a power of two, see above), but for channels
    next to nothing. ``codes`` int8, OIHW or OI; ``scale`` float32 [O], so that real weight = codes * scale.
    ``bias_codes`` int32 [O] with ``bias_scale`` float32 [O] = float32(input scale * scale).
    ``bias`` float64 [O]: the bias before rounding, for reports on what the rounding changed.
    """

    name: str
    bits: int
    step: int
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias_codes: NDArray[np.int32]
    bias_scale: NDArray[np.float32]
    bias: NDArray[np.float64]

    @property
    def pow2(self) -> bool:
        """Whether all its scales are powers of two."""
        return bool((np.frexp(np.concatenate([self.scale, self.bias_scale]))[0] == 0.5).all())

    @property
    def rounded_bias(self) -> NDArray[np.float32]:
        """The bias as its integer codes mean it."""
        return self.bias_codes.astype(np.float32) * self.bias_scale

    @property
    def float_bias(self) -> NDArray[np.float32]:
        """The bias where a target takes floats: unrounded, but for scales that are powers of two."""
        return self.rounded_bias if self.pow2 else self.bias.astype(np.float32)

    def largest_sum(self, input_grid: QuantGrid) -> int:
        """What the absolute value of no partial sum of products and bias exceeds, whatever the order, in steps of
        ``bias_scale``."""
        return int((_largest_sums(self.codes, input_grid) + np.abs(self.bias_codes.astype(np.int64))).max(initial=0))


def fold(
    *,
    name: str,
    codes: NDArray[Any],
    grid: QuantGrid,
    weight_scale: float,
    input_scale: float,
    bias: NDArray[np.float64] | None,
    batchnorm: BatchNormParams | None,
    powers: NDArray[np.float64] | None = None,
    input_grid: QuantGrid | None = None,
) -> IntegerLayer:
    """Fold a BatchNorm into per-channel scales; the codes (whole numbers of any type) stay, and flip their sign where
    gamma is negative.

    ``scale[c] = weight_scale * |gamma[c]| / sqrt(var[c] + eps)``. A channel with gamma 0 gives its beta whatever comes
    in: zero codes at the layer's own scale. ``powers``: the folded scales [O] themselves, where the codes were rounded
    for powers of two; then ``input_grid`` is the grid of what the layer reads. Raises ModelError for a scale that is
    not positive and finite, and for codes outside the grid.
    """
    _require_scale(name, "weight scale", weight_scale)
    _require_scale(name, "input scale", input_scale)
    if not (codes.min() >= grid.qmin and codes.max() <= grid.qmax):
        raise ModelError(
            f"layer {name!r} has weight codes from {codes.min():.0f} to {codes.max():.0f}; "
            f"its {grid.bits}-bit grid holds {grid.qmin} to {grid.qmax}"
        )
    factor, real_bias = channel_factors(len(codes), bias, batchnorm)
    step, largest_bias = 2 ** max(WRITTEN_BITS - grid.bits, 0), LARGEST_BIAS
    if powers is not None:
        assert input_grid is not None
        step, largest_bias = _exact_step(step, codes, input_grid), LARGEST_EXACT_BIAS
    fine = powers / step if powers is not None else folded_scales(weight_scale / step, factor)
    if powers is not None:
        for value in powers[~(np.isfinite(powers) & (powers > 0))]:
            _require_scale(name, "folded weight scale", float(value))
    if not (np.isfinite(real_bias).all() and np.isfinite(fine).all()):
        raise ModelError(f"layer {name!r} has a scale or bias that is not finite after folding BatchNorm")
    wanted = np.maximum(np.abs(real_bias) / largest_bias, SMALLEST_STEP) / input_scale
    coarser = _powers_of_two(np.maximum(wanted, SMALLEST_STEP), fine)
    turned = (step * np.sign(factor) / coarser).astype(np.float32)  # powers of two, so that products are exact
    signed_codes = np.multiply(codes, column(turned, codes.ndim), dtype=np.float32)
    np.rint(signed_codes, out=signed_codes)
    scale = (fine * coarser).astype(np.float32)
    bias_scale = np.float32(input_scale) * scale
    bias_codes = np.rint(real_bias / bias_scale.astype(np.float64))
    return IntegerLayer(
        name=name,
        bits=grid.bits,
        step=step,
        codes=signed_codes.astype(np.int8),
        scale=scale,
        bias_codes=bias_codes.astype(np.int32),
        bias_scale=bias_scale,
        bias=real_bias,
    )


def channel_factors(
    channels: int, bias: NDArray[np.float64] | None, batchnorm: BatchNormParams | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What BatchNorm multiplies each channel with, and the bias behind it; float64 [channels] both."""
    real_bias = np.zeros(channels) if bias is None else np.asarray(bias, np.float64)
    if batchnorm is None:
        return np.ones(channels), real_bias
    factor = batchnorm.gamma / np.sqrt(batchnorm.var + batchnorm.eps)
    return factor, batchnorm.beta + (real_bias - batchnorm.mean) * factor


def column(values: NDArray[Any], ndim: int) -> NDArray[Any]:
    """One number for each channel, in a shape that broadcasts along axis 0."""
    return values[(slice(None),) + (None,) * (ndim - 1)]


def folded_scales(weight_scale: float, factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales of the channels whose codes take the sign of ``factor``: a channel whose factor is 0 has zero codes at the
    layer's own scale."""
    scales: NDArray[np.float64] = weight_scale * np.where(factor == 0, 1.0, np.abs(factor))
    return scales


def _exact_step(step: int, codes: NDArray[Any], input_grid: QuantGrid) -> int:
    """The largest power of two up to ``step`` that leaves room for a bias in sums that float32 holds exactly, or 1."""
    largest = int(_largest_sums(codes, input_grid).max(initial=0))
    while step > 1 and largest * step > FLOAT32_EXACT - LARGEST_EXACT_BIAS:
        step //= 2
    return step


def _largest_sums(codes: NDArray[Any], input_grid: QuantGrid) -> NDArray[np.int64]:
    """Per channel, what the absolute value of no sum of some of its products exceeds."""
    flat = codes.reshape(len(codes), -1)
    above, below = (half(flat, 0).sum(1, dtype=np.float64) for half in (np.maximum, np.minimum))  # exact below 2^53
    upper = above * input_grid.qmax + below * input_grid.qmin
    lower = above * input_grid.qmin + below * input_grid.qmax
    return np.maximum(upper, -lower).astype(np.int64)


def _powers_of_two(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least 2^k, k >= 0, with ``found * 2^k >= wanted``; ``found`` may be next to 0, but is not 0."""
    result: NDArray[np.float64] = 2.0 ** np.ceil(np.maximum(np.log2(wanted) - np.log2(found), 0))
    return result


def _require_scale(name: str, what: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ModelError(f"layer {name!r} has a {what} of {value}; a scale must be positive and finite")


def require_finite(name: str, *arrays: NDArray[Any], positive: Sequence[NDArray[Any]] = ()) -> None:
    """Raise ModelError for numbers that are not finite, and for scales (``positive``) that are 0."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise ModelError(f"layer {name!r} has a weight, scale or bias that is not finite after folding BatchNorm")
    if not all((array > 0).all() for array in positive):
        raise ModelError(f"layer {name!r} has a weight scale of 0 after folding BatchNorm; a scale must be positive")
