"""How latency is measured: candidates in interleaved turns, every raw sample kept.

Candidates take turns in one run, in an order drawn anew for each round, so that a drift of the machine hits all of
them equally.
A turn begins with calls that are not recorded: they refill caches and let the previous candidate's worker threads stop
spinning. The clock is ``time.perf_counter_ns``; Python's garbage collector rests meanwhile, as in ``timeit``.

A runtime that knows more of a call than the clock (a GPU: enqueue, compute and copies) hands over a `PartedCall`; its
main part is then the figure, and the clock's time and the other parts stand beside it.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.records.environment import CpuMeter, CpuUse
from limpq_deploy.export.timing.report import WALL, LatencyProtocol, LatencySeries
from limpq_deploy.export.timing.timing_statistics import find_doubts, latency_stats

WARM_UP_CALLS = 3
"""At least so many warm-up calls, however slow the model is."""


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


def measure_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    protocol: LatencyProtocol,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[float], None] | None = None,
    warmed: Callable[[], object] | None = None,
) -> tuple[LatencySeries, ...]:
    """Time every candidate (one call = one batch) in turns, and return their series in the order given.

    ``options``: runtime settings to record, by name. ``progress`` gets the share done, between turns. ``warmed`` is
    called once, when all are warmed up. Raises MeasurementFailed with the candidate's name when a call fails.
    """
    if not candidates:
        raise ValueError("nothing to measure")
    runs = [_Run(name, call) for name, call in candidates.items()]
    order = random.Random(protocol.seed)
    with _no_garbage_collection():
        for run in runs:
            run.warm_up(protocol)
        if warmed is not None:
            warmed()
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
            streams=protocol.streams,
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
