"""What the GPU was doing meanwhile: clocks, temperature, power and throttling, sampled through NVML during a run.

A figure of a GPU that was hot, capped or shared is doubtful; nothing here changes a clock.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable

INTERVAL_S = 0.05

THROTTLES = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000010: "clocks of other GPUs",
    0x0000000000000020: "temperature (software)",
    0x0000000000000040: "temperature (hardware)",
    0x0000000000000080: "power brake",
}
"""Bits of NVML's clocks event reasons that slow a GPU down; idle and clocks that a user set are none."""

MAX_CLOCK_SPREAD = 0.05
"""Relative difference of the lowest and highest clock during a run that is not worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Lowest, median and highest of a reading."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """A GPU during a run, over ``samples`` readings.

    Clocks in MHz, ``temperature`` in degrees Celsius, ``power`` in watts; None for what the GPU does not tell.
    ``throttled``: share of the readings in which each reason slowed it. ``others``: processes beside this one that used
    it at the end.
    """

    samples: int
    sm_clock: Range | None = None
    memory_clock: Range | None = None
    temperature: Range | None = None
    power: Range | None = None
    throttled: dict[str, float] | None = None
    others: int | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons not to trust what was timed meanwhile."""
        found = [
            f"throttled: {reason} in {100 * share:.0f} % of the readings"
            for reason, share in (self.throttled or {}).items()
            if share > 0
        ]
        clock = self.sm_clock
        if clock is not None and clock.low > 0 and clock.high / clock.low - 1 > MAX_CLOCK_SPREAD:
            found.append(f"the GPU's clock moved from {clock.low:.0f} to {clock.high:.0f} MHz")
        if self.others:
            found.append(f"shared GPU: {self.others} other processes used it")
        return tuple(found)


class GpuWatch:
    """Samples a GPU in a thread, from ``with`` to its end; `use` is what it saw."""

    def __init__(self, device: int = 0, interval_s: float = INTERVAL_S) -> None:
        """Raises MissingExtra without ``pynvml`` and RuntimeUnavailable where NVML does not answer."""
        self._nvml = _nvml()
        self._handle = self._nvml.nvmlDeviceGetHandleByIndex(device)
        self._interval = interval_s
        self._readings: list[Mapping[str, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "GpuWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def use(self) -> GpuUse:
        return summarise(self._readings, others=self._others())

    def _sample(self) -> None:
        while not self._done.is_set():
            self._readings.append(self._read())
            self._done.wait(self._interval)

    def _read(self) -> dict[str, float]:
        nvml, handle = self._nvml, self._handle
        asked: dict[str, Callable[[], float]] = {
            "sm_clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "temperature": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        }
        found = {}
        for name, ask in asked.items():
            try:
                found[name] = float(ask())
            except nvml.NVMLError:
                continue  # not every GPU tells everything
        return found

    def _others(self) -> int | None:
        import os

        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        return sum(one.pid != os.getpid() for one in running)


@contextmanager
def watching(wanted: bool) -> Iterator[Callable[[], tuple[GpuUse | None, tuple[str, ...]]]]:
    """Watch the GPU where it is ``wanted`` and can be watched; gives a function for what was seen and what it makes
    doubtful. A GPU that cannot be watched is a doubt of its own."""
    if not wanted:
        yield lambda: (None, ())
        return
    try:
        watch = GpuWatch()
    except (MissingExtra, RuntimeUnavailable) as error:
        why = f"clocks and temperature were not watched: {error}"
        yield lambda: (None, (why,))
        return
    with watch:
        yield lambda: (watch.use, watch.use.doubts)


def summarise(readings: Iterable[Mapping[str, float]], *, others: int | None = None) -> GpuUse:
    """What readings of "sm_clock", "memory_clock", "temperature", "power" and "reasons" (NVML's bits) come to."""
    rows = list(readings)
    reasons = [int(row["reasons"]) for row in rows if "reasons" in row]
    throttled = {
        name: sum(bool(value & bit) for value in reasons) / len(reasons) for bit, name in THROTTLES.items() if reasons
    }
    return GpuUse(
        samples=len(rows),
        sm_clock=_range(rows, "sm_clock"),
        memory_clock=_range(rows, "memory_clock"),
        temperature=_range(rows, "temperature"),
        power=_range(rows, "power"),
        throttled={name: share for name, share in throttled.items() if share} if reasons else None,
        others=others,
    )


def driver_release(proc: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The driver's release, such as "580.159.04", from the kernel module or NVML; None where neither tells."""
    try:
        found = re.search(r"Kernel Module.*?\s([0-9]+(?:\.[0-9]+)+)", proc.read_text())
    except OSError:
        found = None
    if found:
        return found.group(1)
    try:
        text = _nvml().nvmlSystemGetDriverVersion()
    except (MissingExtra, RuntimeUnavailable):
        return None
    return text.decode() if isinstance(text, bytes) else str(text)


def _nvml() -> Any:
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise MissingExtra("pynvml is not installed; run pip install 'limpq-deploy[gpu]'") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise RuntimeUnavailable(f"NVML does not answer ({error}); is an NVIDIA driver installed?") from error
    return pynvml


def _range(rows: list[Mapping[str, float]], name: str) -> Range | None:
    values = sorted(row[name] for row in rows if name in row)
    if not values:
        return None
    return Range(low=values[0], median=values[len(values) // 2], high=values[-1])
