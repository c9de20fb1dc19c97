"""Which of the units around a layer decide what its kernels move: all but those that were seen to change nothing."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.records.placement import BitPair

LEAST_TESTS = 8
"""Times that engines of other pairs at a unit, and the same ones around it, must have moved the same."""

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
    """Surroundings in which a unit had several pairs and its layer moved the same; -1 where in one it did not."""
    tests = 0
    for shown in layers:
        found: dict[tuple[BitPair, ...], tuple[set[BitPair], list[NDArray[np.float64]]]] = defaultdict(
            lambda: (set(), [])
        )
        for pairs, figures in shown:
            chosen, values = found[tuple(pairs[one] for one in rest)]
            chosen.add(pairs[place])
            values.append(figures)
        for chosen, values in found.values():
            if np.ptp(values, axis=0).max() > SAME:
                return -1
            tests += len(chosen) > 1
    return tests
