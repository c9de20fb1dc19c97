"""A file is given to ONNX Runtime: what it makes of it, whether that runs, and whether its numbers are the file's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Feeds = dict[str, NDArray[Any]]

TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip
RANGES = {
    "tensor(uint8)": (0, 255), "tensor(int8)": (-128, 127), "tensor(int32)": (0, 1), "tensor(int64)": (0, 1),
}  # fmt: skip
"""Of what is drawn, ends included: wider integers are indices of something, as of words, whose number nobody tells."""

INDICES = ("tensor(int32)", "tensor(int64)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """``refused``: why it does not load or run, in the runtime's words. ``optimized``: the graph that it executes; None
    where it loads none. ``signal_db``: power of the results over that of their difference from those of the file
    executed node by node, inf where they are equal; None where they were not compared."""

    refused: str | None
    optimized: onnx.ModelProto | None
    signal_db: float | None


def random_feeds(session: Any, seed: int = 0) -> Feeds | None:
    """Standard normal numbers, codes of the whole range, or indices 0 and 1, for every input of a session; a free batch
    is 1. None where an input has another free size or another type: what it takes is not known."""
    draw = np.random.default_rng(seed)
    feeds: Feeds = {}
    for given in session.get_inputs():
        kind = TYPES.get(given.type)
        shape = [1 if at == 0 and not isinstance(size, int) else size for at, size in enumerate(given.shape)]
        if kind is None or not all(isinstance(size, int) for size in shape):
            return None
        if np.issubdtype(kind, np.floating):
            feeds[given.name] = draw.normal(size=shape).astype(kind)
        else:
            lowest, highest = RANGES[given.type]
            feeds[given.name] = draw.integers(lowest, highest, shape, endpoint=True).astype(kind)
    return feeds


def takes_indices(session: Any) -> bool:
    """Whether random numbers may be none that the model takes, so that its refusing them says nothing of the file."""
    return any(given.type in INDICES for given in session.get_inputs())


def signal_db(results: list[NDArray[Any]], as_written: list[NDArray[Any]]) -> float:
    """10 log10 (sum of squares / sum of squared differences) of all results; -inf where only one of them is finite."""
    found, said = (np.concatenate([np.ravel(one).astype(np.float64) for one in all_]) for all_ in (results, as_written))
    finite = np.isfinite(said)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("-inf")
    noise = float(np.sum((found[finite] - said[finite]) ** 2))
    power = float(np.sum(said[finite] ** 2))
    if noise == 0:
        return float("inf")
    return float("-inf") if power == 0 else float(10 * np.log10(power / noise))
