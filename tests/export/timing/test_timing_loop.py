import gc
import time
from collections.abc import Callable

import pytest

from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport
from limpq_deploy.export.timing.timing_loop import MeasurementFailed, measure_interleaved

QUICK = LatencyProtocol(warm_up_ms=5, settle_ms=0, turn_ms=2, turn_calls=2, min_seconds=0.02, min_iterations=10)


def work(times: int) -> Callable[[], object]:
    """A callable whose cost is proportional to ``times``."""
    return lambda: sum(range(2000 * times))


def test_a_call_that_does_four_times_the_work_takes_about_four_times_as_long() -> None:
    protocol = LatencyProtocol(warm_up_ms=20, turn_ms=5, min_seconds=0.1)
    series = measure_interleaved({"once": work(1), "four": work(4)}, protocol)
    report = LatencyReport(environment=read_environment(), protocols=(protocol,), series=series)
    gain = report.speedup("once", "four", threads="default")
    assert gain.ratio == pytest.approx(4, rel=0.25)  # other processes may share the CPU
    assert gain.low <= gain.ratio * 1.01
    assert gain.high >= gain.ratio * 0.99


def test_a_sleep_is_measured_as_long_as_it_was() -> None:
    """Against the same clock within the call: how long a sleep really takes is the machine's affair."""
    slept: list[float] = []

    def sleep() -> None:
        start = time.perf_counter()
        time.sleep(0.005)
        slept.append(1000 * (time.perf_counter() - start))

    (series,) = measure_interleaved({"sleep": sleep}, QUICK)
    assert min(series.samples_ms) >= 5
    assert min(slept) <= series.stats.p50_ms <= 1.2 * max(slept)


def test_timing_a_call_adds_less_than_two_microseconds() -> None:
    (series,) = measure_interleaved({"nothing": lambda: None}, QUICK)
    assert series.stats.p50_ms < 0.002


def test_candidates_take_turns_and_unrecorded_calls_are_counted() -> None:
    calls: list[str] = []
    candidates = {name: (lambda name=name: calls.append(name)) for name in ("mixed", "float")}
    protocol = LatencyProtocol(
        warm_up_ms=0, settle_ms=0, turn_ms=0, turn_calls=2, min_seconds=0, min_iterations=8, seed=3
    )
    mixed, plain = measure_interleaved(candidates, protocol)
    assert (mixed.name, plain.name) == ("mixed", "float")
    assert mixed.turns == plain.turns == (2, 2, 2, 2)
    assert (mixed.warm_up_calls, mixed.settle_calls) == (3, 4)
    assert calls.count("mixed") == 3 + 4 + 8
    rounds = [calls[6:][start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(one) == ["float"] * 3 + ["mixed"] * 3 for one in rounds)
    assert len({one[0] for one in rounds}) == 2  # neither always goes first


def test_enough_seconds_and_enough_samples_are_both_waited_for() -> None:
    protocol = LatencyProtocol(warm_up_ms=0, turn_ms=1, min_seconds=0.05, min_iterations=20)
    quick, slow = measure_interleaved({"quick": work(1), "slow": work(20)}, protocol)
    for series in (quick, slow):
        assert sum(series.samples_ms) >= 50
        assert len(series.samples_ms) >= 20


def test_a_failing_candidate_raises_its_name_and_leaves_the_garbage_collector_on() -> None:
    def fail() -> None:
        raise RuntimeError("bad input")

    with pytest.raises(MeasurementFailed, match=r"candidate 'broken' failed.*RuntimeError: bad input"):
        measure_interleaved({"fine": work(1), "broken": fail}, QUICK)
    assert gc.isenabled()


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    measure_interleaved({"work": work(1)}, QUICK, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


class Device:
    """A call that times its own parts, as a GPU's events do: 0.2 ms of computing in a call of 1 ms."""

    main_part = "compute"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        time.sleep(0.001)

    def parts_ms(self) -> dict[str, float]:
        return {"enqueue": 0.01, "compute": 0.2 + self.calls * 1e-6, "copies": 0.3}


def test_a_runtimes_own_parts_stand_beside_the_clock_and_its_main_part_is_the_figure() -> None:
    device = Device()
    series, plain = measure_interleaved({"device": device, "plain": work(1)}, QUICK)
    assert (series.figure, plain.figure) == ("compute", "call")
    assert series.stats.p50_ms == pytest.approx(0.2, rel=0.01)
    assert set(series.parts_ms) == {"enqueue", "copies", "call"}
    assert series.part("call").p50_ms >= 1
    assert not plain.parts_ms
    # Those of warm-up and settling calls are not among the samples: the recorded calls are the later ones.
    assert min(series.samples_ms) > 0.2 + series.warm_up_calls * 1e-6
    assert len(series.parts_ms["copies"]) == len(series.samples_ms) == sum(series.turns)


def test_a_quiet_series_is_stable_and_one_of_few_samples_is_not() -> None:
    few = LatencyProtocol(warm_up_ms=0, settle_ms=0, turn_ms=0, turn_calls=1, min_seconds=0, min_iterations=3)
    (series,) = measure_interleaved({"work": work(1)}, few)
    assert not series.stable
    assert "only 3 samples" in series.doubts[0]
