"""Facts about this machine, without which a latency figure is not a figure. Reads files only; imports no runtime."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limpq_deploy.export.records.targets import RUNTIMES

LIBRARIES = (
    *("limpq-deploy", "numpy", "onnx", "torch"),
    *dict.fromkeys(name for runtime in RUNTIMES.values() for name in runtime.distributions),
)

IDLE_LIBRARIES = ("limpq-deploy", "onnx", "torch")
"""Those that do nothing while a model is timed: results of their different versions can be compared."""

INSTRUCTION_SETS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
    "bf16",
)
"""Instruction sets that change which integer or float kernels a runtime picks, by the kernel's names for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Machine and versions. ``usable_cpus``: those this process may run on. ``instruction_sets``: the known ones that
    the CPU has. ``governor``: frequency policy of the first CPU, None where unreadable (virtual machines hide it).
    ``load_average``: over 1, 5 and 15 minutes, this program's own work included. ``libraries``: installed versions.
    ``accelerator``: name, driver and the like of the device that computes, where that is not the CPU."""

    cpu: str
    architecture: str
    logical_cpus: int
    usable_cpus: int
    instruction_sets: tuple[str, ...]
    os: str
    python: str
    libraries: dict[str, str]
    governor: str | None = None
    load_average: tuple[float, float, float] | None = None
    accelerator: dict[str, Any] | None = None

    @property
    def device(self) -> str:
        """What computes, by name."""
        return self.cpu if self.accelerator is None else str(self.accelerator.get("name", "an accelerator"))

    def same_cpu_kind(self, other: "Environment") -> bool:
        """Whether a runtime has the same kernels to choose from on both machines."""
        return (self.architecture, self.instruction_sets) == (other.architecture, other.instruction_sets)


def differences(one: Environment, other: Environment) -> tuple[str, ...]:
    """What keeps figures of two environments from being compared, such as "os: Linux 5, not Linux 6"; empty where
    nothing does. The load average is no part of it: a busy machine is a doubt of the series."""
    found = [
        f"{name}: {getattr(one, name)}, not {getattr(other, name)}"
        for name in ("cpu", "architecture", "logical_cpus", "usable_cpus", "os", "python", "governor")
        if getattr(one, name) != getattr(other, name)
    ]
    if set(one.instruction_sets) != set(other.instruction_sets):
        changed = sorted(set(one.instruction_sets) ^ set(other.instruction_sets))
        found.append(f"instruction sets: {', '.join(changed)} on one only")
    for what, mine, theirs in (
        ("", one.libraries, other.libraries),
        ("accelerator ", one.accelerator or {}, other.accelerator or {}),
    ):
        for name in sorted({*mine, *theirs} - {*IDLE_LIBRARIES}):
            if mine.get(name) != theirs.get(name):
                found.append(f"{what}{name}: {mine.get(name, 'none')}, not {theirs.get(name, 'none')}")
    return tuple(found)


def read_environment(libraries: Iterable[str] = LIBRARIES) -> Environment:
    """Facts about this machine, now; libraries that are not installed are left out."""
    cpu, flags = read_cpuinfo()
    return Environment(
        cpu=cpu or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        logical_cpus=os.cpu_count() or 1,
        usable_cpus=usable_cpus(),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        os=platform.platform(),
        python=platform.python_version(),
        libraries=_versions(libraries),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_average=_load_average(),
    )


def read_cpuinfo() -> tuple[str, frozenset[str]]:
    """Model and flags of this machine's CPU; empty on systems that do not tell."""
    return parse_cpuinfo(_read("/proc/cpuinfo") or "")


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """CPU model (empty where unnamed) and flags, from the text of ``/proc/cpuinfo``; x86 and Arm spellings."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip().lower(), value.strip())
    return facts.get("model name", ""), frozenset(facts.get("flags", facts.get("features", "")).split())


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """CPUs kept busy by others, on average over a span: ``other_cpus`` by other processes, ``stolen_cpus`` by the
    host of this virtual machine."""

    other_cpus: float
    stolen_cpus: float


class CpuMeter:
    """Watches what other processes take of the machine, from creation to `read`.

    The load average would count this program's own earlier work, so the kernel's tick counters are read instead:
    busy ticks of all CPUs less the CPU time of this process.
    """

    def __init__(self) -> None:
        self._start = _ticks()
        self._own = time.process_time()
        self._since = time.perf_counter()

    def read(self) -> CpuUse | None:
        """Use by others so far; None where the kernel does not say."""
        now, seconds = _ticks(), time.perf_counter() - self._since
        if self._start is None or now is None or seconds <= 0:
            return None
        tick = 1.0 / os.sysconf("SC_CLK_TCK")
        busy = (now[0] - self._start[0]) * tick - (time.process_time() - self._own)
        stolen = (now[1] - self._start[1]) * tick
        return CpuUse(other_cpus=max(0.0, busy / seconds), stolen_cpus=max(0.0, stolen / seconds))


def _ticks() -> tuple[int, int] | None:
    """(busy, stolen) clock ticks of all CPUs since boot."""
    first = (_read("/proc/stat") or "").split("\n", 1)[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in first[1:9])
    return user + nice + system + irq + softirq, steal


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    versions = {}
    for library in libraries:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _load_average() -> tuple[float, float, float] | None:
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
