"""How latency is measured, and the record of it: interleaved turns, every raw sample kept, doubts said.

Candidates take turns in one run, in an order drawn anew for each round, so that a drift of the machine hits all alike.
A turn begins with calls that are not recorded: they refill caches and let the previous candidate's worker threads stop
spinning. The clock is ``time.perf_counter_ns``; Python's garbage collector rests meanwhile, as in ``timeit``.

A runtime that knows more of a call than the clock (a GPU: enqueue, compute and copies) hands over a `PartedCall`; its
main part is then the figure, and the clock's time and the other parts stand beside it.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.environment import CpuMeter, CpuUse, Environment
from limpq_deploy.export.stability import LatencyStats, find_doubts, latency_stats, ratio_interval

Threads = int | Literal["default"]
"""Threads that a runtime computes with; "default": as many as it takes by itself."""

WARM_UP_CALLS = 3
"""At least so many warm-up calls, however slow the model is."""


WALL = "call"
"""Name of the clock's time among the parts of a series whose figure is another one."""


@runtime_checkable
class PartedCall(Protocol):
    """A candidate that times its own parts, such as "enqueue", "compute" and "copies".

    ``main_part``: the part that is the series' figure. ``parts_ms``: milliseconds of the last call, by part; asked for
    after the clock has stopped.
    """

    @property
    def main_part(self) -> str: ...
    def __call__(self) -> object: ...
    def parts_ms(self) -> Mapping[str, float]: ...


class MeasurementFailed(LimpqError):
    """A candidate failed while it was timed; there is no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProtocol:
    """How to measure.

    ``batch`` images per call and ``threads``: what the callables were prepared with; recorded here, not set. Each
    candidate warms up for ``warm_up_ms``, then takes turns: unrecorded calls for ``settle_ms`` (one at least), then
    recorded ones for ``turn_ms`` (``turn_calls`` at least), until every candidate has ``min_seconds`` of recorded time
    and ``min_iterations`` samples. ``inputs``: different batches that the calls take in turn. ``seed``: order of turns
    and bootstrap draws. The numbers are NVIDIA's (``trtexec``): 200 ms of warm-up, 3 s, 10 iterations.
    """

    batch: int = 1
    threads: Threads = "default"
    warm_up_ms: float = 200.0
    settle_ms: float = 5.0
    turn_ms: float = 50.0
    turn_calls: int = 3
    min_seconds: float = 3.0
    min_iterations: int = 10
    inputs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.batch, self.min_iterations, self.turn_calls, self.inputs) < 1:
            raise ValueError("batch, min_iterations, turn_calls and inputs must be at least 1")
        if self.threads != "default" and self.threads < 1:
            raise ValueError(f'threads must be at least 1, or "default", not {self.threads}')
        for name in ("warm_up_ms", "settle_ms", "turn_ms", "min_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySeries:
    """Samples of one candidate.

    ``samples_ms``: milliseconds of every recorded call, in time order; ``turns``: how many belong to each turn.
    ``warm_up_calls``: calls before the first turn; ``settle_calls``: unrecorded calls at the turns' beginnings.
    ``other_cpus``: CPUs that other processes kept busy during the run, None where unknown. ``options``: the runtime's
    settings. ``doubts``: reasons not to trust the figure. ``figure``: what the samples are, "call" (the clock's time of
    a whole call) or a runtime's own part; ``parts_ms``: samples of the other parts. Raises ValueError for samples that
    are no measurement.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """All series of a model on a machine. Series of one (threads, batch) were interleaved in one run, under
    ``protocols``' entry for it. ``model``: what it calls itself; ``files``: SHA-256 by series' name, where a series is
    a file."""

    environment: Environment
    protocols: tuple[LatencyProtocol, ...]
    series: tuple[LatencySeries, ...]
    model: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    format: Literal["limpq.latency/1"] = field(default="limpq.latency/1")

    def __post_init__(self) -> None:
        keys = [(series.name, series.threads, series.batch) for series in self.series]
        if len(set(keys)) != len(keys):
            raise ValueError("two series have one name, number of threads and batch")

    def find(self, name: str, *, threads: Threads, batch: int = 1) -> LatencySeries:
        """The series of this name. Raises LookupError with what there is."""
        for series in self.series:
            if (series.name, series.threads, series.batch) == (name, threads, batch):
                return series
        known = ", ".join(f"{series.name} ({series.threads} threads, batch {series.batch})" for series in self.series)
        raise LookupError(
            f"no latency of {name!r} with {threads} threads at batch {batch}; measured: {known or 'none'}"
        )

    def speedup(self, name: str, over: str, *, threads: Threads, batch: int = 1) -> Speedup:
        """How many times faster ``name`` is than ``over`` in the same run; see `ratio_interval`."""
        fast, slow = self.find(name, threads=threads, batch=batch), self.find(over, threads=threads, batch=batch)
        low, high = ratio_interval(
            np.asarray(slow.samples_ms), slow.turns, np.asarray(fast.samples_ms), fast.turns, seed=0
        )
        ratio = slow.stats.p50_ms / fast.stats.p50_ms
        return Speedup(name=name, over=over, threads=threads, batch=batch, ratio=ratio, low=low, high=high)


def measure_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    protocol: LatencyProtocol,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[LatencySeries, ...]:
    """Time every candidate (one call = one batch) in turns, and return their series in the order given.

    ``options``: runtime settings to record, by name. ``progress`` gets the share done, between turns. Raises
    MeasurementFailed with the candidate's name when a call fails.
    """
    if not candidates:
        raise ValueError("nothing to measure")
    runs = [_Run(name, call) for name, call in candidates.items()]
    order = random.Random(protocol.seed)
    with _no_garbage_collection():
        for run in runs:
            run.warm_up(protocol)
        meter = CpuMeter()
        while (done := min(run.share(protocol) for run in runs)) < 1:
            if progress is not None:
                progress(done)
            for run in order.sample(runs, len(runs)):
                run.take_turn(protocol)
        use = meter.read()
    if progress is not None:
        progress(1.0)
    return tuple(run.series(protocol, use, dict((options or {}).get(run.name, {}))) for run in runs)


class _Run:
    """One candidate while it is measured. Nanoseconds inside, milliseconds in the record."""

    def __init__(self, name: str, call: Callable[[], object]) -> None:
        self.name = name
        self.call = call
        self.parted = call if isinstance(call, PartedCall) else None
        self.samples_ns: list[int] = []
        self.parts: list[Mapping[str, float]] = []
        self.turns: list[int] = []
        self.recorded_ns = self.warm_up_calls = self.settle_calls = 0

    def warm_up(self, protocol: LatencyProtocol) -> None:
        self.warm_up_calls = len(self._timed(protocol.warm_up_ms, WARM_UP_CALLS))

    def take_turn(self, protocol: LatencyProtocol) -> None:
        self.settle_calls += len(self._timed(protocol.settle_ms, 1))
        self.parts = self.parts[: len(self.samples_ns)]  # without those of calls that are not recorded
        samples = self._timed(protocol.turn_ms, protocol.turn_calls)
        self.samples_ns += samples
        self.turns.append(len(samples))
        self.recorded_ns += sum(samples)

    def share(self, protocol: LatencyProtocol) -> float:
        """How much of what the protocol asks for is there, 0 to 1."""
        seconds = self.recorded_ns / 1e9 / protocol.min_seconds if protocol.min_seconds else 1.0
        return min(1.0, seconds, len(self.samples_ns) / protocol.min_iterations)

    def series(self, protocol: LatencyProtocol, use: CpuUse | None, options: dict[str, Any]) -> LatencySeries:
        samples_ms = tuple(sample / 1e6 for sample in self.samples_ns)
        figure, parts = WALL, dict[str, tuple[float, ...]]()
        if self.parted is not None:
            figure = self.parted.main_part
            parts = {part: tuple(one[part] for one in self.parts) for part in self.parts[0]} | {WALL: samples_ms}
            samples_ms = parts.pop(figure)
        return LatencySeries(
            name=self.name,
            threads=protocol.threads,
            batch=protocol.batch,
            samples_ms=samples_ms,
            turns=tuple(self.turns),
            warm_up_calls=self.warm_up_calls,
            settle_calls=self.settle_calls,
            stats=latency_stats(samples_ms, self.turns, seed=protocol.seed),
            doubts=find_doubts(samples_ms, self.turns, use),
            other_cpus=None if use is None else use.other_cpus,
            options=options,
            figure=figure,
            parts_ms=parts,
        )

    def _timed(self, min_ms: float, min_calls: int) -> list[int]:
        """Nanoseconds of each call, for at least so many milliseconds and calls."""
        call, clock = self.call, time.perf_counter_ns
        samples: list[int] = []
        end = clock()
        deadline = end + int(min_ms * 1e6)
        try:
            while len(samples) < min_calls or end < deadline:
                start = clock()
                call()
                end = clock()
                samples.append(end - start)
                if self.parted is not None:
                    self.parts.append(self.parted.parts_ms())
        except Exception as error:
            raise MeasurementFailed(
                f"candidate {self.name!r} failed while it was timed ({type(error).__name__}: {error}); "
                "it must run a batch without error before its latency can be measured"
            ) from error
        return samples


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
