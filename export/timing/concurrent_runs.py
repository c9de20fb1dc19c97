"""Several runs of one loaded model at once, each in a thread of its own, as one call that can be timed."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray


class RunsAtOnce:
    """A call starts ``streams`` runs, each of the next batch in turn, and ends with the last of them.

    One of them runs in the caller's thread. ``run`` must bear being called from several threads, as ONNX Runtime's
    sessions do. Raises what a run raises.
    """

    def __init__(
        self, run: Callable[[NDArray[np.float32]], object], batches: Sequence[NDArray[np.float32]], streams: int
    ) -> None:
        self._run, self._streams = run, streams
        self._next = itertools.cycle(batches).__next__
        self._others = ThreadPoolExecutor(max(1, streams - 1), thread_name_prefix="run")  # its threads end with it

    def __call__(self) -> None:
        started = [self._others.submit(self._run, self._next()) for _ in range(self._streams - 1)]
        self._run(self._next())
        for one in started:
            one.result()
