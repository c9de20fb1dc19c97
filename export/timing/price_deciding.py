"""Which of the units around a layer decide what its kernels move: all but those that were seen to change nothing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.records.placement import BitPair

LEAST_TESTS = 8
"""Engines that must have moved what others did that had another pair at a unit, and the same around it."""

SAME = 1e-3
"""Difference of two figures, in shares of a layer's own price, that is none."""

Shown = tuple[tuple[BitPair, ...], NDArray[np.float64]]
"""Of one engine: the pairs of the units around a layer, and what the layer moves, in shares of its own price."""


def deciding(layers: Sequence[Sequence[Shown]]) -> tuple[int, ...]:
    """Places of the units that count. ``layers``: of each of some that stand alike, what engines show; a unit goes
    where it changed nothing in any of them, in `LEAST_TESTS` at least. First that with most tests."""
    left = tuple(range(len(layers[0][0][0])))
    while left:
        tested = {
            place: tests
            for place in left
            if (tests := _passed(layers, [one for one in left if one != place], place)) >= LEAST_TESTS
        }
        if not tested:
            break
        gone = max(tested, key=tested.__getitem__)
        left = tuple(one for one in left if one != gone)
    return left


def _passed(layers: Iterable[Sequence[Shown]], rest: Sequence[int], place: int) -> int:
    """Engines that had another pair at a unit than most of those with the same ``rest``, and moved the same; -1 where
    one did not."""
    tests = 0
    for shown in layers:
        found: dict[tuple[BitPair, ...], list[Shown]] = defaultdict(list)
        for pairs, figures in shown:
            found[tuple(pairs[one] for one in rest)].append((pairs, figures))
        for same in found.values():
            if np.ptp([figures for _, figures in same], axis=0).max() > SAME:
                return -1
            tests += len(same) - max(Counter(pairs[place] for pairs, _ in same).values())
    return tests
