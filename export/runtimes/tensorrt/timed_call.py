"""A timed call of a TensorRT engine: one run, or several at once on streams of their own."""

import itertools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.runtimes.cuda.memory import CudaGraph, CudaMemory
from limpq_deploy.export.runtimes.tensorrt.lane import Lane


@dataclass(slots=True)
class _Marks:
    """Events of one submission, in order, and what the host took to enqueue the run."""

    before: Any
    start: Any
    end: Any
    after: Any
    enqueue_ms: float = 0.0


class TensorRtCall:
    """See `base.DeviceCall`. Parts: "copy_in", "compute" and "copy_out" between events, "enqueue" on the host's clock.

    One submission is always queued ahead, as ``trtexec`` does: a call submits the next one and waits for the one
    before, whose parts it tells. So the device does not wait for the host between two events, unless enqueueing a run
    takes longer than the run itself. Images lie in page-locked memory from the beginning. With several lanes each runs
    one batch; all wait until every batch is on the device, and "compute" is the time from there until the last has run.
    ``mode``: "cuda graph", or "enqueue" where none was captured.
    """

    main_part = "compute"

    def __init__(
        self,
        lanes: Sequence[Lane],
        memory: CudaMemory,
        name: str,
        batches: Sequence[NDArray[np.float32]],
        *,
        graph: bool,
    ) -> None:
        """``lanes`` are bound to the batches' size; ``name``: of the input that takes them. Raises ModelError where the
        engine does not run."""
        self._lanes, self._memory, self._name = lanes, memory, name
        self._batch = len(batches[0])
        staged = [_page_locked(memory, lanes[0].as_bytes(name, batch)) for batch in batches]
        self._turn = itertools.cycle(staged)
        weakref.finalize(self, _drain, tuple(lanes)).atexit = False  # before a copy begins: what follows may fail
        for lane in lanes:
            lane.copy_in(name, staged[0])
            lane.run()  # the first run allocates, which no graph can hold
            lane.wait()
        graphs = [CudaGraph.capture(lane.stream, lane.enqueue) if graph else None for lane in lanes]
        self._graphs = [one for one in graphs if one is not None]
        if len(self._graphs) < len(lanes):  # all or none, so that the mode is one
            self._graphs = []
        self._start: list[Callable[[], object]] = [one.launch for one in self._graphs]
        self._start = self._start or [lane.run for lane in lanes]
        self._waiting, self._told = (_Marks(*(memory.event() for _ in range(4))) for _ in range(2))
        self._ready = [memory.event() for _ in lanes[1:]]
        self._submit(self._waiting)

    @property
    def mode(self) -> str:
        return "cuda graph" if self._graphs else "enqueue"

    def __call__(self) -> None:
        self._waiting, self._told = self._told, self._waiting
        self._submit(self._waiting)
        self._memory.reach(self._told.after)

    def parts_ms(self) -> Mapping[str, float]:
        elapsed, marks = self._memory.elapsed_ms, self._told
        return {
            "compute": elapsed(marks.start, marks.end),
            "enqueue": marks.enqueue_ms,
            "copy_in": elapsed(marks.before, marks.start),
            "copy_out": elapsed(marks.end, marks.after),
        }

    def _submit(self, marks: _Marks) -> None:
        """Put one run of every lane, with its copies, into the streams."""
        self._fork(marks.before)
        for lane in self._lanes:
            lane.copy_in(self._name, next(self._turn))
        self._join()
        self._fork(marks.start)
        began = time.perf_counter_ns()
        for start in self._start:
            start()
        marks.enqueue_ms = (time.perf_counter_ns() - began) / 1e6
        self._join()
        self._fork(marks.end)
        for lane in self._lanes:
            lane.copy_out(self._batch)
        self._join()
        self._memory.record(marks.after, self._lanes[0].stream)

    def _fork(self, mark: Any) -> None:
        """Mark this moment in the first lane's stream; the others go on from it."""
        self._memory.record(mark, self._lanes[0].stream)
        for lane in self._lanes[1:]:
            self._memory.follow(lane.stream, mark)

    def _join(self) -> None:
        """The first lane's stream waits for what the others have been given."""
        for lane, event in zip(self._lanes[1:], self._ready, strict=True):
            self._memory.record(event, lane.stream)
            self._memory.follow(self._lanes[0].stream, event)


def _drain(lanes: Sequence[Lane]) -> None:
    """What was queued ahead still reads the images of a call that nobody has any more."""
    for lane in lanes:
        lane.wait()


def _page_locked(memory: CudaMemory, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    host = memory.pinned(data.nbytes)
    host[:] = data
    return host
