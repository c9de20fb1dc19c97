"""What readings of a GPU come to, and which of them make a figure doubtful."""

from pathlib import Path

import pytest

from limpq_deploy.export.gpu_watch import GpuUse, Range, driver_release, summarise, watching
from limpq_deploy.export.latency import LatencySeries
from limpq_deploy.export.measure import with_gpu
from limpq_deploy.export.stability import latency_stats

QUIET = {"sm_clock": 1980.0, "memory_clock": 3201.0, "temperature": 40.0, "power": 300.0, "reasons": 0.0}


def test_readings_become_ranges() -> None:
    use = summarise([QUIET, QUIET | {"power": 350.0}, QUIET | {"power": 310.0}], others=0)
    assert use.samples == 3
    assert use.power == Range(low=300.0, median=310.0, high=350.0)
    assert (use.throttled, use.others, use.doubts) == ({}, 0, ())


def test_throttling_moving_clocks_and_other_programs_are_doubts() -> None:
    hot = QUIET | {"sm_clock": 1200.0, "reasons": float(0x4 | 0x20 | 0x1)}
    use = summarise([QUIET, hot, hot, QUIET], others=2)
    assert use.throttled == {"power cap": 0.5, "temperature (software)": 0.5}
    assert use.doubts == (
        "throttled: power cap in 50 % of the readings",
        "throttled: temperature (software) in 50 % of the readings",
        "the GPU's clock moved from 1200 to 1980 MHz",
        "shared GPU: 2 other processes used it",
    )


def test_idle_and_clocks_that_a_user_set_are_no_throttling() -> None:
    assert summarise([QUIET | {"reasons": float(0x1 | 0x2)}]).throttled == {}


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    assert summarise([{"sm_clock": 1980.0}, {}]) == GpuUse(
        samples=2, sm_clock=Range(low=1980.0, median=1980.0, high=1980.0)
    )


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Sep\nGCC version: gcc 12.2.0\n",
            "580.159.04",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n", "575.57.08"),
    ],
)
def test_the_drivers_release_is_read_from_the_kernel_module(text: str, release: str, tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text(text)
    assert driver_release(file) == release


def test_a_gpu_that_cannot_be_watched_is_a_doubt_and_an_unwanted_watch_is_none() -> None:
    with watching(False) as seen:
        assert seen() == (None, ())
    with watching(True) as seen:
        use, doubts = seen()
    assert use is not None or "not watched" in doubts[0]


def test_a_series_keeps_what_the_gpu_did_meanwhile() -> None:
    samples, turns = (1.0, 1.1, 1.2), (3,)
    series = LatencySeries(
        name="mixed",
        threads="default",
        batch=1,
        samples_ms=samples,
        turns=turns,
        warm_up_calls=1,
        settle_calls=1,
        stats=latency_stats(samples, turns, seed=0),
    )
    use = summarise([QUIET], others=1)
    found = with_gpu(series, use, use.doubts)
    assert found.options["gpu"]["sm_clock"] == {"low": 1980.0, "median": 1980.0, "high": 1980.0}
    assert found.doubts == ("shared GPU: 1 other processes used it",)
    assert with_gpu(series, None, ()) is series
