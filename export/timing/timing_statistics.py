"""Statistics of timed calls: percentiles, intervals from whole turns, and reasons to doubt them. All pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.records.environment import CpuUse

CONFIDENCE = 0.95
RESAMPLES = 500

MIN_SAMPLES = 30
"""Below this a 90th percentile rests on two or three calls."""
MAX_SPREAD = 1.25
"""p90 / p50 of a quiet machine stays well below."""
MAX_DRIFT = 0.05
"""Relative difference between the medians of two halves of one run."""
MAX_OTHER_CPUS = 0.1
"""CPUs that other processes may keep busy without being told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyStats:
    """Milliseconds per call. ``_low`` and ``_high``: 95 % bootstrap interval of the percentile, see
    `percentile_interval`; None in files of older versions, which knew that of the median only."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p90_low_ms: float | None = None
    p90_high_ms: float | None = None
    p99_low_ms: float | None = None
    p99_high_ms: float | None = None


def latency_stats(samples_ms: Sequence[float], turns: Sequence[int], *, seed: int) -> LatencyStats:
    """Percentiles (linear interpolation) with their intervals, and the mean."""
    values = np.asarray(samples_ms, np.float64)
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    draws = _draws(len(turns), seed)
    (low, high), tail90, tail99 = (
        middle(row) for row in _resampled_percentiles(values, turns, draws, (0.5, 0.9, 0.99))
    )
    return LatencyStats(
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        mean_ms=float(values.mean()),
        p50_low_ms=low,
        p50_high_ms=high,
        p90_low_ms=tail90[0],
        p90_high_ms=tail90[1],
        p99_low_ms=tail99[0],
        p99_high_ms=tail99[1],
    )


def percentile_interval(
    samples_ms: NDArray[np.float64], turns: Sequence[int], *, seed: int, share: float = 0.5
) -> tuple[float, float]:
    """Percentile bootstrap interval of the value that ``share`` of the samples do not exceed (0.5: the median),
    resampling whole turns (``turns``: calls in each, in order).

    Calls of one turn share their moment's clock and neighbours; resampling single calls would call them independent
    and give an interval that is too narrow.
    """
    (found,) = _resampled_percentiles(samples_ms, turns, _draws(len(turns), seed), (share,))
    return middle(found)


def ratio_interval(
    numerator_ms: NDArray[np.float64],
    numerator_turns: Sequence[int],
    denominator_ms: NDArray[np.float64],
    denominator_turns: Sequence[int],
    *,
    seed: int,
) -> tuple[float, float]:
    """Interval of median(numerator) / median(denominator).

    Turn k of both was measured in the same round, so both are resampled by the same draws: drift of the machine
    cancels. Raises ValueError when the numbers of turns differ.
    """
    if len(numerator_turns) != len(denominator_turns):
        raise ValueError(f"{len(numerator_turns)} and {len(denominator_turns)} turns were not measured in one run")
    draws = _draws(len(numerator_turns), seed)
    (top,) = _resampled_percentiles(numerator_ms, numerator_turns, draws, (0.5,))
    (bottom,) = _resampled_percentiles(denominator_ms, denominator_turns, draws, (0.5,))
    return middle(top / bottom)


def resampled_medians(samples_ms: NDArray[np.float64], turns: Sequence[int], *, seed: int) -> NDArray[np.float64]:
    """Medians [RESAMPLES] of samples drawn anew by whole turns: those of one run, independent of another's."""
    (found,) = _resampled_percentiles(samples_ms, turns, _draws(len(turns), seed), (0.5,))
    return found


def find_doubts(samples_ms: Sequence[float], turns: Sequence[int], use: CpuUse | None) -> tuple[str, ...]:
    """Reasons not to trust these samples (milliseconds, in time order), each a sentence; empty when there is none."""
    values = np.asarray(samples_ms, np.float64)
    doubts = []
    if len(values) < MIN_SAMPLES:
        doubts.append(f"only {len(values)} samples; at least {MIN_SAMPLES} are needed for percentiles")
    p50, p90 = np.percentile(values, (50, 90))
    if p90 > MAX_SPREAD * p50:
        doubts.append(f"wide spread: p90 is {p90 / p50:.2f} times p50 (more than {MAX_SPREAD})")
    if len(values) >= 2:
        half = len(values) // 2
        drift = float(np.median(values[half:]) / np.median(values[:half]) - 1)
        if abs(drift) > MAX_DRIFT:
            word = "slower" if drift > 0 else "faster"
            doubts.append(f"drift: the second half is {100 * abs(drift):.0f} % {word} than the first")
    if len(turns) >= 4:
        first, rest = np.median(values[: turns[0]]), np.median(values[turns[0] :])
        if first > (1 + 2 * MAX_DRIFT) * rest:
            doubts.append(
                f"slow start: the first turn is {100 * (first / rest - 1):.0f} % slower; the warm-up was too short"
            )
    return (*doubts, *_load_doubts(use))


def _load_doubts(use: CpuUse | None) -> tuple[str, ...]:
    doubts = []
    if use is not None and use.other_cpus > MAX_OTHER_CPUS:
        doubts.append(f"busy machine: other processes kept {use.other_cpus:.1f} CPUs busy meanwhile")
    if use is not None and use.stolen_cpus > MAX_OTHER_CPUS / 2:
        doubts.append(f"busy host: {use.stolen_cpus:.2f} CPUs were taken from this virtual machine meanwhile")
    return tuple(doubts)


def _draws(num_turns: int, seed: int) -> NDArray[np.int64]:
    """How often each turn is drawn, [RESAMPLES, num_turns]."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_turns, np.full(num_turns, 1 / num_turns), size=RESAMPLES)


def _resampled_percentiles(
    samples_ms: NDArray[np.float64], turns: Sequence[int], draws: NDArray[np.int64], shares: Sequence[float]
) -> NDArray[np.float64]:
    """Weighted percentiles [shares, draws] of the samples for each row of ``draws``: the smallest value that this share
    of the weight does not exceed."""
    order = np.argsort(samples_ms, kind="stable")
    values, turn_of = samples_ms[order], np.repeat(np.arange(len(turns)), turns)[order]
    found = np.empty((len(shares), len(draws)))
    for row, counts in enumerate(draws):
        cumulative = np.cumsum(counts[turn_of])
        wanted = np.ceil(np.asarray(shares) * cumulative[-1] - 1e-9)  # 0.9 * 10 is a little above 9 in float
        found[:, row] = values[np.searchsorted(cumulative, np.maximum(wanted, 1))]
    return found


def middle(statistics: NDArray[np.float64]) -> tuple[float, float]:
    """The middle `CONFIDENCE` of resampled figures."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(statistics, (tail, 100 - tail))
    return float(low), float(high)
