import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.export.records.environment import CpuUse
from limpq_deploy.export.timing.timing_statistics import find_doubts, latency_stats, percentile_interval, ratio_interval

QUIET = CpuUse(other_cpus=0.0, stolen_cpus=0.0)


def test_percentiles_of_one_to_a_hundred_are_the_known_ones() -> None:
    stats = latency_stats([float(value) for value in range(1, 101)], [10] * 10, seed=0)
    assert (stats.p50_ms, stats.mean_ms) == (50.5, 50.5)
    assert stats.p90_ms == pytest.approx(90.1)
    assert stats.p99_ms == pytest.approx(99.01)


def test_interval_of_constant_samples_is_that_constant() -> None:
    assert percentile_interval(np.full(40, 2.5), [10] * 4, seed=0) == (2.5, 2.5)


def test_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        turn_level = np.random.default_rng(seed).normal(10, 1, size=40)
        samples = np.repeat(turn_level, 25) + np.random.default_rng(seed + 1000).normal(0, 0.05, size=1000)
        low, high = percentile_interval(samples, [25] * 40, seed=seed)
        covered += low <= 10 <= high
    assert covered >= 85  # 95 expected; single calls resampled instead of turns would cover about 30


def test_intervals_of_the_tail_lie_round_the_percentiles_and_are_wider_than_the_medians() -> None:
    samples = np.random.default_rng(0).exponential(1, size=1000)
    stats = latency_stats(list(samples), [20] * 50, seed=0)
    assert stats.p90_low_ms is not None
    assert stats.p90_high_ms is not None
    assert stats.p99_low_ms is not None
    assert stats.p99_high_ms is not None
    assert stats.p90_low_ms < stats.p90_ms < stats.p90_high_ms
    assert stats.p99_low_ms < stats.p99_ms < stats.p99_high_ms
    assert stats.p99_high_ms - stats.p99_low_ms > stats.p50_high_ms - stats.p50_low_ms


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(0, 9))
def test_median_lies_in_its_interval_which_lies_in_the_data(turns: list[list[float]], seed: int) -> None:
    samples = [value for turn in turns for value in turn]
    low, high = percentile_interval(np.array(samples), [len(turn) for turn in turns], seed=seed)
    assert min(samples) <= low <= high <= max(samples)


def test_a_drift_common_to_both_leaves_the_ratio_narrow() -> None:
    drift = np.repeat(np.linspace(1, 3, 20), 10)
    low, high = ratio_interval(2 * drift, [10] * 20, drift, [10] * 20, seed=0)
    assert (low, high) == (2.0, 2.0)


def test_series_of_different_runs_are_not_compared() -> None:
    with pytest.raises(ValueError, match="not measured in one run"):
        ratio_interval(np.ones(4), [2, 2], np.ones(6), [2, 2, 2], seed=0)


def test_quiet_samples_leave_no_doubt() -> None:
    samples = np.random.default_rng(0).normal(1, 0.01, size=200)
    assert find_doubts(list(samples), [10] * 20, QUIET) == ()


@pytest.mark.parametrize(
    ("samples", "turns", "use", "doubt"),
    [
        ([1.0] * 10, [5, 5], QUIET, "only 10 samples"),
        ([1.0] * 80 + [2.0] * 40, [10] * 12, QUIET, "wide spread: p90 is 2.00 times p50"),
        ([1.0] * 50 + [1.2] * 50, [10] * 10, QUIET, "the second half is 20 % slower"),
        ([1.2] * 50 + [1.0] * 50, [10] * 10, QUIET, "the second half is 17 % faster"),
        ([1.5] * 10 + [1.0] * 190, [10] * 20, QUIET, "the first turn is 50 % slower"),
        ([1.0] * 100, [10] * 10, CpuUse(other_cpus=0.8, stolen_cpus=0.0), "other processes kept 0.8 CPUs busy"),
        ([1.0] * 100, [10] * 10, CpuUse(other_cpus=0.0, stolen_cpus=0.3), "0.30 CPUs were taken"),
    ],
)
def test_each_disturbance_is_said(samples: list[float], turns: list[int], use: CpuUse, doubt: str) -> None:
    assert any(doubt in said for said in find_doubts(samples, turns, use))
