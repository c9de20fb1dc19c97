"""What readings of a GPU come to, and which of them make a figure doubtful."""

# ruff: noqa: N802 - NVML's own names

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from limpq_deploy.calibration.errors import RuntimeUnavailable
from limpq_deploy.export.runtimes.cuda import watch as gpu_watch
from limpq_deploy.export.runtimes.cuda.watch import (
    GpuUse,
    GpuWatch,
    Range,
    driver_release,
    first_gpu,
    other_processes,
    summarise,
    watching,
)
from limpq_deploy.export.timing.measure import with_gpu
from limpq_deploy.export.timing.report import LatencyProtocol, LatencySeries
from limpq_deploy.export.timing.timing_loop import measure_interleaved
from limpq_deploy.export.timing.timing_statistics import latency_stats

QUIET = {"sm_clock": 1980.0, "memory_clock": 3201.0, "temperature": 40.0, "power": 300.0, "reasons": 0.0}


class Refused(Exception):
    """What this NVML raises."""


class Nvml(ModuleType):
    """An NVML of two GPUs; the one at 0000:3b:00.0 is number 1. ``refused``: calls that fail. Names as in nvidia-ml-py
    13.615."""

    NVMLError = Refused
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *refused: str, pids: tuple[int, ...] = (), gpus: int = 2) -> None:
        super().__init__("pynvml")
        self.refused, self.pids, self.gpus, self.clock, self.read = refused, pids, gpus, 345, 0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "refused"):

            def refuse(*arguments: Any) -> None:
                raise Refused(f"{name}: Unknown Error")

            return refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByPciBusId(self, pci: str) -> int:
        return ["0000:1a:00.0", "0000:3b:00.0"].index(pci)

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        self.read += kind == self.NVML_CLOCK_SM
        return self.clock if handle == 1 else 210

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 40

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 300_000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 0

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.04"


Use = Callable[..., Nvml]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Use:
    """A machine with this NVML, whose first GPU for CUDA is at 0000:3b:00.0."""

    def use(*refused: str, **settings: Any) -> Nvml:
        found = Nvml(*refused, **settings)
        monkeypatch.setitem(sys.modules, "pynvml", found)
        monkeypatch.setattr(gpu_watch, "_first_pci", lambda: "0000:3b:00.0")
        return found

    return use


def test_the_gpu_that_is_watched_is_cudas_first_not_nvmls(nvml: Use) -> None:
    nvml().clock = 1980
    with GpuWatch() as watch:
        while not watch.use.samples:
            time.sleep(0.001)
    assert watch.use.sm_clock == Range(low=1980, median=1980, high=1980)


def test_without_a_bus_id_the_only_gpu_is_taken_and_of_several_none() -> None:
    assert first_gpu(Nvml(gpus=1), None) == 0
    with pytest.raises(RuntimeUnavailable, match="NVML shows 2 GPUs"):
        first_gpu(Nvml(), None)
    with pytest.raises(RuntimeUnavailable, match=r"NVML does not show the GPU at 0000:3b:00\.0 .*Unknown Error"):
        first_gpu(Nvml("nvmlDeviceGetHandleByPciBusId"), "0000:3b:00.0")


@pytest.mark.parametrize(
    ("running", "others"),
    [((), 0), ((4711,), 0), ((4711, 4711), 0), ((4711, 815), 1)],
    ids=["none", "one", "one on two partitions", "two"],
)
def test_this_process_is_one_of_those_that_are_listed_whatever_its_number_there(
    running: tuple[int, ...], others: int
) -> None:
    """In a container NVML lists the host's numbers."""
    assert other_processes(running) == others


def test_a_gpu_is_sampled_from_the_end_of_the_warm_up(nvml: Use) -> None:
    """Its clock is low before."""
    found = nvml(pids=(4711,))
    calls: list[int] = []

    def call() -> None:
        calls.append(found.read)
        found.clock = 345 if len(calls) < 3 else 1980
        time.sleep(0.001)

    protocol = LatencyProtocol(warm_up_ms=0, min_iterations=1, min_seconds=0.02)
    with watching(True) as gpu:
        measure_interleaved({"one": call}, protocol, warmed=gpu.start)
        use, doubts = gpu.seen()
    assert calls[:3] == [0, 0, 0]
    assert use is not None
    assert use.sm_clock == Range(low=1980, median=1980, high=1980)
    assert (use.others, doubts) == (0, ())


@pytest.mark.parametrize(
    "refused",
    [
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetHandleByPciBusId",
        "nvmlInit",
    ],
)
def test_no_error_of_nvml_ends_a_measurement(nvml: Use, refused: str) -> None:
    nvml(refused)
    with watching(True) as gpu:
        gpu.start()
        use, doubts = gpu.seen()
    if refused in ("nvmlDeviceGetHandleByPciBusId", "nvmlInit"):
        assert use is None
        assert doubts[0].startswith("clocks and temperature were not watched: NVML does not")
    else:
        assert use is not None


def test_a_question_that_a_newer_nvml_has_dropped_is_left_out(nvml: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml()
    monkeypatch.delattr(Nvml, "nvmlDeviceGetCurrentClocksThrottleReasons")
    with GpuWatch() as watch:
        while not watch.use.samples:
            time.sleep(0.001)
    assert watch.use.throttled is None
    assert watch.use.temperature is not None


def test_the_drivers_release_is_asked_of_nvml_where_the_kernel_does_not_tell(nvml: Use, tmp_path: Path) -> None:
    nvml()
    assert driver_release(tmp_path / "missing") == "580.159.04"
    nvml("nvmlSystemGetDriverVersion")
    assert driver_release(tmp_path / "missing") is None


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
    with watching(False) as gpu:
        gpu.start()
        assert gpu.seen() == (None, ())
    with watching(True) as gpu:
        gpu.start()
        use, doubts = gpu.seen()
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
    assert found.doubts == ("shared GPU: 1 other process used it",)
    assert with_gpu(series, None, ()) is series
