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
from limpq_deploy.export.runtimes.cuda.driver import ask_driver

INTERVAL_S = 0.25
"""Between two readings. Each takes Python's lock and the driver's for a moment, which a call that is timed may feel: at
this rate it is one call in hundreds, beyond the 99th percentile."""

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
    it at the end, see `other_processes`.
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
            found.append(f"shared GPU: {self.others} other process{'es' if self.others > 1 else ''} used it")
        return tuple(found)


class GpuWatch:
    """Samples CUDA's first GPU in a thread, from `start` (or ``with``) to `stop`; `use` is what it saw."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Raises MissingExtra without ``pynvml`` and RuntimeUnavailable where NVML does not answer or does not know the
        GPU."""
        self._nvml = _nvml()
        self._handle = first_gpu(self._nvml, _first_pci())
        self._interval = interval_s
        self._readings: list[Mapping[str, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does nothing to a watch that was not started."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> "GpuWatch":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def use(self) -> GpuUse:
        return summarise(list(self._readings), others=self._others())

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
            except (nvml.NVMLError, AttributeError):
                continue  # not every GPU tells everything, nor does every NVML know every question
        return found

    def _others(self) -> int | None:
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        return other_processes([one.pid for one in running])


def other_processes(running: Iterable[int]) -> int:
    """Processes that use a GPU beside this one, by the ids of all that do.

    Whether this one's id is among them or not: in a container NVML may list the host's ids, by which it does not know
    itself (NVIDIA/nvidia-docker#1483, gpuopenanalytics/pynvml#36), and one of them is its own. So a single other
    process goes unseen where NVML lists that and not this one.
    """
    return max(len(set(running)) - 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """A GPU that is or is not watched. ``problem``: why it could not be, though it was wanted."""

    watch: GpuWatch | None = None
    problem: str | None = None

    def start(self) -> None:
        """Begin to sample: after the warm-up, before which a GPU's clock is that of an idle one."""
        if self.watch is not None:
            self.watch.start()

    def seen(self) -> tuple[GpuUse | None, tuple[str, ...]]:
        """What was seen until now, and what that makes doubtful. A GPU that cannot be watched is a doubt of its own."""
        if self.watch is None:
            return None, () if self.problem is None else (self.problem,)
        use = self.watch.use
        return use, use.doubts


@contextmanager
def watching(wanted: bool) -> Iterator[Watching]:
    """Watch the GPU where it is ``wanted`` and can be watched, from `Watching.start` to the end of the block."""
    if not wanted:
        yield Watching()
        return
    try:
        watch = GpuWatch()
    except (MissingExtra, RuntimeUnavailable) as error:
        yield Watching(problem=f"clocks and temperature were not watched: {error}")
        return
    try:
        yield Watching(watch=watch)
    finally:
        watch.stop()


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
        nvml = _nvml()
        text = nvml.nvmlSystemGetDriverVersion()
    except (MissingExtra, RuntimeUnavailable):
        return None
    except nvml.NVMLError:
        return None
    return text.decode() if isinstance(text, bytes) else str(text)


def first_gpu(nvml: Any, pci: str | None) -> Any:
    """NVML's handle of the GPU at this PCI bus id, or of the only one where the id is not known: NVML counts all GPUs,
    in another order than CUDA. Raises RuntimeUnavailable where it cannot be told."""
    try:
        if pci is not None:
            return nvml.nvmlDeviceGetHandleByPciBusId(pci)
        if (count := nvml.nvmlDeviceGetCount()) == 1:
            return nvml.nvmlDeviceGetHandleByIndex(0)
    except nvml.NVMLError as error:
        raise RuntimeUnavailable(f"NVML does not show the GPU at {pci or 'index 0'} ({error})") from error
    raise RuntimeUnavailable(f"NVML shows {count} GPUs, and the driver does not tell which of them CUDA's first one is")


def _first_pci() -> str | None:
    gpus = ask_driver().gpus
    return gpus[0].pci if gpus else None


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
