"""Which of several options are worth keeping: those that no other matches or beats in value and in every cost.

L: option, M: cost.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray


def undominated(value_L: NDArray[np.float64], cost_LM: NDArray[np.int64]) -> NDArray[np.intp]:
    """Indices of the undominated options, by ascending value; of equal ones the first stays."""
    order = np.lexsort((*cost_LM.T[::-1], value_L))
    sorted_LM = cost_LM[order]
    if cost_LM.shape[1] == 1:
        column = sorted_LM[:, 0]
        keep = np.ones(len(column), bool)
        keep[1:] = column[1:] < np.minimum.accumulate(column)[:-1]
    elif cost_LM.shape[1] == 2:
        keep = np.array(_below_staircase(sorted_LM[:, 0].tolist(), sorted_LM[:, 1].tolist()), bool)
    else:
        keep = np.zeros(len(order), bool)
        for index, row in enumerate(sorted_LM):
            keep[index] = not (sorted_LM[:index][keep[:index]] <= row).all(axis=1).any()
    return order[keep]


def _below_staircase(xs: list[int], ys: list[int]) -> list[bool]:
    """For each point in turn: is it below the staircase of the points before it?"""
    keep = []
    step_x: list[float] = [-np.inf]
    step_y: list[float] = [np.inf]
    for x, y in zip(xs, ys, strict=True):
        at = bisect_right(step_x, x) - 1
        below = step_y[at] > y
        keep.append(below)
        if below:
            start = at if step_x[at] == x else at + 1
            end = at + 1
            while end < len(step_y) and step_y[end] >= y:
                end += 1
            step_x[start:end], step_y[start:end] = [x], [y]
    return keep
