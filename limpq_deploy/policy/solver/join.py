"""Two lists of labels, put together to the best whole choice. NumPy only. L, R: label of either list; M: row.

A pair adds its reduced values and prices . (slack - costs) to the bound, so a pair below the ceiling uses nearly all
of every row that has a price. The right list is sorted by bands of one row's cost, and inside them by another's; each
left label then meets two narrow windows of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limpq_deploy.policy.solver.deadline import NEVER, Deadline
from limpq_deploy.policy.solver.labels import Labels
from limpq_deploy.policy.solver.program import Floats, Integers

CHUNK = 1 << 18
"""Pairs of labels looked at together."""

LEFT_CHUNK = 1 << 13
"""Left labels whose windows are found together."""

MAX_EQUAL = 1 << 20
"""Pairs as good as the best that are kept before the preferred one is told from them."""

Pairs = tuple[Integers, Integers, Floats]
"""Left labels, right labels, and what each pair of them adds."""

MAX_BANDS = 4096
SAMPLE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """``pair``: the best two labels below the ceiling, None where there are none; ``added``: what they add to the
    bound; ``finished``: every pair was looked at, or is known to be no better."""

    pair: tuple[int, int] | None
    added: float
    finished: bool


def join(
    left: Labels,
    right: Labels,
    prices_M: Floats,
    slack_M: Integers,
    *,
    ceiling: float,
    tie: float,
    max_pairs: int,
    deadline: Deadline = NEVER,
) -> Joined:
    """The pair that fits ``slack_M`` and adds least, less than ``ceiling``, to the bound.

    Among pairs within ``tie`` of the best: the least cost in the first row, then the next, then the least rank of the
    left label, then of the right one. Stops after ``max_pairs``. Raises OutOfTime at the deadline.
    """
    if not (len(left.reduced_L) and len(right.reduced_L)):
        return Joined(pair=None, added=np.inf, finished=True)
    windows = _Windows(left, right, prices_M, slack_M, ceiling)
    order = np.argsort(left.reduced_L, kind="stable")
    best, below, looked, begin, finished = np.inf, ceiling, 0, 0, False
    found: list[Pairs] = []
    while begin < len(order) and looked < max_pairs:
        some = order[begin : begin + LEFT_CHUNK]
        begin += len(some)
        of_window, low, sizes = windows.around(left, some, below)
        edges = np.cumsum(sizes)
        first = 0
        while first < len(sizes) and looked < max_pairs:
            last = max(first + 1, int(np.searchsorted(edges, edges[first] - sizes[first] + CHUNK, side="right")))
            deadline.check()
            part = slice(first, last)
            first = last
            at_left, at_right = windows.pairs(of_window[part], low[part], sizes[part])
            looked += len(at_left)
            added = left.reduced_L[at_left] + right.reduced_L[at_right]
            for row in windows.rows:
                over = slack_M[row] - left.cost_ML[row, at_left] - right.cost_ML[row, at_right]
                added = added + prices_M[row] * over
                good = np.flatnonzero((over >= 0) & (added < below))
                at_left, at_right, added = at_left[good], at_right[good], added[good]
            if len(added):
                best = min(best, float(added.min()))
                below = min(ceiling, best + tie)
                near = added <= best + tie
                found.append((at_left[near], at_right[near], added[near]))
                if sum(len(some[0]) for some in found) > MAX_EQUAL:
                    found = [_preferred(left, right, found, best + tie)]
        finished = first >= len(sizes) and begin >= len(order)
    if not found:
        return Joined(pair=None, added=np.inf, finished=finished)
    at_left, at_right, _ = _preferred(left, right, found, best + tie)
    return Joined(pair=(int(at_left[0]), int(at_right[0])), added=best, finished=finished)


def _preferred(left: Labels, right: Labels, found: Sequence[Pairs], most: float) -> Pairs:
    """Of the pairs that add up to ``most``, the one of least cost in the first row, and so on."""
    at_left, at_right, added = (np.concatenate(parts) for parts in zip(*found, strict=True))
    near = added <= most
    at_left, at_right, added = at_left[near], at_right[near], added[near]
    for row in range(len(left.cost_ML)):
        cost_P = left.cost_ML[row, at_left] + right.cost_ML[row, at_right]
        kept = np.flatnonzero(cost_P == cost_P.min())
        at_left, at_right, added = at_left[kept], at_right[kept], added[kept]
    first = np.lexsort((right.rank_L[at_right], left.rank_L[at_left]))[:1]
    return at_left[first], at_right[first], added[first]


class _Windows:
    """The right list in the order of a key: the band of one row's cost, then another row's cost.

    ``rows``: all rows, those two first.
    """

    def __init__(self, left: Labels, right: Labels, prices_M: Floats, slack_M: Integers, ceiling: float) -> None:
        self.prices_M, self.slack_M = prices_M, slack_M
        shares = [_share(left, right, row, prices_M, slack_M, ceiling) for row in range(len(slack_M))]
        self.rows = sorted(range(len(slack_M)), key=lambda row: shares[row])
        self.row = self.rows[0]
        self.least = int(right.cost_ML[self.row].min())
        self.span = int(right.cost_ML[self.row].max()) - self.least + 2
        key_R = right.cost_ML[self.row] - self.least
        self.banded: int | None = None
        if len(self.rows) > 1 and shares[self.rows[1]] < 0.5 and np.isfinite(ceiling):
            self.banded = self.rows[1]
            cost_R = right.cost_ML[self.banded]
            self.floor = int(cost_R.min())
            spread = int(cost_R.max()) - self.floor
            self.width = max(int(_reach(ceiling, prices_M[self.banded])) + 2, spread // MAX_BANDS + 1)
            self.bands = spread // self.width + 1
            if self.bands == 1 or self.span > 2**62 // (self.bands + 1):
                self.banded = None
            else:
                key_R = key_R + (cost_R - self.floor) // self.width * self.span
        self.by_key = np.argsort(key_R, kind="stable")
        self.key_R = key_R[self.by_key]

    def around(self, left: Labels, some: Integers, ceiling: float) -> tuple[Integers, Integers, Integers]:
        """Windows of the right list beside these left labels: whose, from where, how many."""
        most_L = self.slack_M[self.row] - left.cost_ML[self.row, some] - self.least
        lowest_L = np.zeros_like(most_L)
        if self.prices_M[self.row] > 0 and np.isfinite(ceiling):
            lowest_L = most_L - _reach(ceiling - left.reduced_L[some], self.prices_M[self.row]).astype(np.int64)
        lowest_L = np.clip(lowest_L, 0, self.span - 1)
        most_L = np.clip(most_L, -1, self.span - 2)
        if self.banded is None:
            return self._found(some, lowest_L, most_L)
        upper_L = (self.slack_M[self.banded] - left.cost_ML[self.banded, some] - self.floor) // self.width
        parts = []
        for band_L in (upper_L - 1, upper_L):
            # the topmost band may hold labels that are too dear, never ones that are too cheap for the one below
            inside = (band_L >= 0) & (band_L < self.bands)
            shift = band_L[inside] * self.span
            parts.append(self._found(some[inside], lowest_L[inside] + shift, most_L[inside] + shift))
        whose, low, sizes = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        return whose, low, sizes

    def _found(self, some: Integers, lowest_L: Integers, most_L: Integers) -> tuple[Integers, Integers, Integers]:
        low = np.searchsorted(self.key_R, lowest_L, side="left")
        sizes = np.searchsorted(self.key_R, most_L, side="right") - low
        kept = np.flatnonzero(sizes > 0)
        return some[kept], low[kept], sizes[kept]

    def pairs(self, whose: Integers, low: Integers, sizes: Integers) -> tuple[Integers, Integers]:
        """Every left label of the windows with every right label in its window."""
        offsets = np.repeat(low - (np.cumsum(sizes) - sizes), sizes)
        return np.repeat(whose, sizes), self.by_key[np.arange(len(offsets)) + offsets]


def _reach(worth: float | Floats, price: float) -> Floats:
    """Units of a row, rounded up, that are worth so much at a price above 0; no more than any row holds."""
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(np.ceil(np.divide(worth, price)), 2.0**61), np.float64)


def _share(left: Labels, right: Labels, row: int, prices_M: Floats, slack_M: Integers, ceiling: float) -> float:
    """Share of all pairs inside one row's windows, from some left labels; 1 where the row has no price."""
    if prices_M[row] <= 0 or not np.isfinite(ceiling):
        return 1.0
    some = slice(None, None, len(left.reduced_L) // SAMPLE + 1)
    row_R = np.sort(right.cost_ML[row])
    most_L = slack_M[row] - left.cost_ML[row, some]
    low = np.searchsorted(row_R, most_L - _reach(ceiling - left.reduced_L[some], prices_M[row]), side="left")
    high = np.searchsorted(row_R, most_L, side="right")
    return float(np.maximum(high - low, 0).mean() / len(row_R))
