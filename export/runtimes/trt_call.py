"""A timed call of a TensorRT engine: one run, or several at once on streams of their own."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.runtimes.cuda_memory import CudaGraph, CudaMemory
from limpq_deploy.export.runtimes.trt_lane import Lane


class TensorRtCall:
    """See `base.DeviceCall`. Parts: "copy_in", "compute" and "copy_out" between events, "enqueue" on the host's clock.

    With several lanes each runs one batch; all wait until every batch is on the device, and "compute" is the time from
    there until the last has run. ``mode``: "cuda graph", or "enqueue" where none was captured.
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
        """``lanes`` are bound to the batches' size; ``name``: of the input that takes them."""
        self._lanes, self._memory, self._name = lanes, memory, name
        self._batch = len(batches[0])
        self._turn = itertools.cycle(batches)
        for lane in lanes:
            lane.put(name, batches[0])
            if not lane.enqueue():  # the first run allocates, which no graph can hold
                raise ModelError(f"the engine does not run a batch of {self._batch}; build it again")
            lane.wait()
        graphs = [CudaGraph.capture(lane.stream, lane.enqueue) if graph else None for lane in lanes]
        self._graphs = [one for one in graphs if one is not None]
        if len(self._graphs) < len(lanes):  # all or none, so that the mode is one
            self._graphs = []
        self._start: list[Callable[[], object]] = [one.launch for one in self._graphs]
        self._start = self._start or [lane.enqueue for lane in lanes]
        self._events = [memory.event() for _ in range(4)]
        self._ready = [memory.event() for _ in lanes[1:]]
        self._enqueue_ms = 0.0

    @property
    def mode(self) -> str:
        return "cuda graph" if self._graphs else "enqueue"

    def __call__(self) -> None:
        before, start, end, after = self._events
        main, others = self._lanes[0], self._lanes[1:]
        self._record(before)
        for lane in others:
            self._memory.follow(lane.stream, before)
        for lane in self._lanes:
            lane.put(self._name, next(self._turn))
        self._join()
        self._record(start)
        for lane in others:
            self._memory.follow(lane.stream, start)
        began = time.perf_counter_ns()
        for run in self._start:
            run()
        self._enqueue_ms = (time.perf_counter_ns() - began) / 1e6
        self._join()
        self._record(end)
        for lane in others:
            self._memory.follow(lane.stream, end)
        for lane in self._lanes:
            lane.copy_out(self._batch)
        self._join()
        self._record(after)
        main.wait()

    def parts_ms(self) -> Mapping[str, float]:
        elapsed = self._memory.elapsed_ms
        before, start, end, after = self._events
        return {
            "compute": elapsed(start, end),
            "enqueue": self._enqueue_ms,
            "copy_in": elapsed(before, start),
            "copy_out": elapsed(end, after),
        }

    def _record(self, event: object) -> None:
        self._memory.record(event, self._lanes[0].stream)

    def _join(self) -> None:
        """The first lane's stream waits for what the others have been given."""
        for lane, event in zip(self._lanes[1:], self._ready, strict=True):
            self._memory.record(event, lane.stream)
            self._memory.follow(self._lanes[0].stream, event)
