"""The record of measured latency: every raw sample, percentiles with intervals, doubts; how it is measured is in
`timing_loop`."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from limpq_deploy.export.records.environment import Environment
from limpq_deploy.export.timing.timing_statistics import LatencyStats, latency_stats, ratio_interval
from limpq_deploy.export.timing.trtexec import TrtexecTimes

Threads = int | Literal["default"]
"""Threads that a runtime computes with; "default": as many as it takes by itself."""

FLOAT_SERIES = "float"
"""Name of the float model's series."""

WALL = "call"
"""Name of the clock's time among the parts of a series whose figure is another one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What series must share to be compared: threads, ``batch`` images of each run, ``streams`` runs at once."""

    threads: Threads
    batch: int = 1
    streams: int = 1

    def __str__(self) -> str:
        count = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        at_once = f", {self.streams} at once" if self.streams > 1 else ""
        return f"{count}, batch {self.batch}{at_once}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProtocol:
    """How to measure.

    ``batch`` images of each of the ``streams`` runs that a call makes at once, and ``threads``: what the callables were
    prepared with; recorded here, not set. Each candidate warms up for ``warm_up_ms``, then takes turns: unrecorded
    calls for ``settle_ms`` (one at least), then recorded ones for ``turn_ms`` (``turn_calls`` at least), until every
    candidate has ``min_seconds`` of recorded time and ``min_iterations`` samples. ``inputs``: different batches that
    the calls take in turn. ``seed``: order of turns and bootstrap draws. The numbers are NVIDIA's (``trtexec``): 200 ms
    of warm-up, 3 s, 10 iterations.
    """

    batch: int = 1
    streams: int = 1
    threads: Threads = "default"
    warm_up_ms: float = 200.0
    settle_ms: float = 5.0
    turn_ms: float = 50.0
    turn_calls: int = 3
    min_seconds: float = 3.0
    min_iterations: int = 10
    inputs: int = 1
    seed: int = 0

    @property
    def setting(self) -> Setting:
        return Setting(self.threads, self.batch, self.streams)

    def __post_init__(self) -> None:
        if min(self.batch, self.streams, self.min_iterations, self.turn_calls, self.inputs) < 1:
            raise ValueError("batch, streams, min_iterations, turn_calls and inputs must be at least 1")
        if self.threads != "default" and self.threads < 1:
            raise ValueError(f'threads must be at least 1, or "default", not {self.threads}')
        for name in ("warm_up_ms", "settle_ms", "turn_ms", "min_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySeries:
    """Samples of one candidate.

    ``samples_ms``: milliseconds of every recorded call, in time order; one call runs ``streams`` batches at once, and
    ends with the last of them. ``turns``: how many belong to each turn. ``warm_up_calls``: calls before the first turn;
    ``settle_calls``: unrecorded calls at the turns' beginnings. ``other_cpus``: CPUs that other processes kept busy
    during the run, None where unknown. ``options``: the runtime's settings. ``doubts``: reasons not to trust the
    figure. ``figure``: what the samples are, "call" (the clock's time of a whole call) or a runtime's own part;
    ``parts_ms``: samples of the other parts. Raises ValueError for samples that are no measurement.
    """

    name: str
    threads: Threads
    batch: int
    samples_ms: tuple[float, ...]
    turns: tuple[int, ...]
    warm_up_calls: int
    settle_calls: int
    stats: LatencyStats
    doubts: tuple[str, ...] = ()
    other_cpus: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    figure: str = WALL
    parts_ms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    streams: int = 1

    @property
    def setting(self) -> Setting:
        return Setting(self.threads, self.batch, self.streams)

    @property
    def images_per_second(self) -> float:
        """Of all recorded calls over the time that they took, copies to a device and back included."""
        calls_ms = self.samples_ms if self.figure == WALL else self.parts_ms[WALL]
        return 1000 * self.batch * self.streams * len(calls_ms) / math.fsum(calls_ms)

    @property
    def stable(self) -> bool:
        """Whether nothing speaks against the figure."""
        return not self.doubts

    def part(self, name: str) -> LatencyStats:
        """Percentiles of another part, with the same turns. Raises KeyError where it was not timed."""
        return latency_stats(self.parts_ms[name], self.turns, seed=0)

    def __post_init__(self) -> None:
        if not self.samples_ms or sum(self.turns) != len(self.samples_ms) or min(self.turns) < 1:
            raise ValueError(f"{self.name!r} has {len(self.samples_ms)} samples in turns of {list(self.turns)[:5]}")
        if not all(math.isfinite(sample) and sample > 0 for sample in self.samples_ms):
            raise ValueError(f"{self.name!r} has a sample that is not a positive, finite number of milliseconds")
        for part, samples in self.parts_ms.items():
            if len(samples) != len(self.samples_ms) or not all(math.isfinite(one) and one >= 0 for one in samples):
                raise ValueError(
                    f"{self.name!r} has {len(samples)} samples of its part {part!r}, or some that are none"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """``ratio`` = p50 of ``over`` / p50 of ``name``, with its 95 % interval: above 1, ``name`` is faster."""

    name: str
    over: str
    threads: Threads
    batch: int
    ratio: float
    low: float
    high: float
    streams: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """All series of a model on a machine. Series of one (threads, batch, streams) were interleaved in one run, under
    ``protocols``' entry for it. ``model``: what it calls itself; ``files``: SHA-256 by series' name, where a series is
    a file. ``trtexec``: what NVIDIA's own stopwatch says of the same plans, where it is installed."""

    environment: Environment
    protocols: tuple[LatencyProtocol, ...]
    series: tuple[LatencySeries, ...]
    model: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    trtexec: tuple[TrtexecTimes, ...] = ()
    format: Literal["limpq.latency/1"] = field(default="limpq.latency/1")

    def __post_init__(self) -> None:
        keys = [(series.name, series.setting) for series in self.series]
        if len(set(keys)) != len(keys):
            raise ValueError("two series have one name, number of threads, batch and number of streams")

    def find(self, name: str, *, threads: Threads, batch: int = 1, streams: int = 1) -> LatencySeries:
        """The series of this name. Raises LookupError with what there is."""
        wanted = Setting(threads, batch, streams)
        for series in self.series:
            if (series.name, series.setting) == (name, wanted):
                return series
        known = "; ".join(f"{series.name} with {series.setting}" for series in self.series)
        raise LookupError(f"no latency of {name!r} with {wanted}; measured: {known or 'none'}")

    def speedup(self, name: str, over: str, *, threads: Threads, batch: int = 1, streams: int = 1) -> Speedup:
        """How many times faster ``name`` is than ``over`` in the same run; see `ratio_interval`."""
        fast, slow = (self.find(one, threads=threads, batch=batch, streams=streams) for one in (name, over))
        low, high = ratio_interval(
            np.asarray(slow.samples_ms), slow.turns, np.asarray(fast.samples_ms), fast.turns, seed=0
        )
        return Speedup(
            name=name,
            over=over,
            threads=threads,
            batch=batch,
            streams=streams,
            ratio=slow.stats.p50_ms / fast.stats.p50_ms,
            low=low,
            high=high,
        )
