"""Lists of partial choices ("labels"): every way to leave the relaxation's best options in some blocks that adds less
than a given room to the bound. NumPy only. L: label, M: row.

A label is the set of its departures from the best options; new ones are appended to the list, and point to the label
that they extend, so that a block of two options costs one look at the list and a few appended numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.policy.solver.core import Core
from limpq_deploy.policy.solver.pareto import undominated
from limpq_deploy.policy.solver.program import Floats, Integers
from limpq_deploy.policy.solver.relaxation import Relaxation

RANK_LIMIT = 2**62

TILTS = (0.3, 1.0)
"""How far prices are moved to test a label, in units of room per standard deviation of the labels' cost."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """A finished list.

    ``reduced_L``: what each label adds to the bound; ``cost_ML``: its cost less that of the best options; ``rank_L``:
    preference among labels (lower is preferred), which compares first what the program's first block takes. ``room``:
    whatever choice is worth less than ``room`` above the bound, its label, or one at least as good, is here.
    ``node_L``: where a label's last departure stands in ``parents`` and ``departures``.
    """

    reduced_L: Floats
    cost_ML: Integers
    rank_L: Integers
    room: float
    node_L: Integers
    parents: Integers
    departures: Integers

    def trace(self, label: int) -> list[int]:
        """Flat numbers of the options that this label takes instead of the best ones."""
        found = []
        node = int(self.node_L[label])
        while node:
            found.append(int(self.departures[node]))
            node = int(self.parents[node])
        return found


class Growing:
    """Labels in the making, below ``room``; ``count`` of them are valid. Blocks are added in the program's order, or
    against it."""

    def __init__(self, core: Core, relaxation: Relaxation, room: float, *, forward: bool) -> None:
        self.core, self.relaxation, self.room, self.forward = core, relaxation, room, forward
        self.most_M = core.slack_M + core.saved_M
        self.undecided = dict.fromkeys(range(len(core.options)))
        self.count = self.nodes = self.radix = self.pruned = 1
        self.thins = True
        self.reduced, self.rank, self.node = np.zeros(1024), np.zeros(1024, np.int64), np.zeros(1024, np.int64)
        self.cost = np.zeros((len(core.slack_M), 1024), np.int64)
        self.parents, self.departures = [np.zeros(1, np.int64)], [np.full(1, -1, np.int64)]

    def add(self, position: int, max_labels: int) -> None:
        """Decide one more block of the core. Labels that can lead to nothing below the room go when there are many;
        beyond ``max_labels``, those that others make superfluous; and then the room shrinks."""
        core, before = self.core, self.count
        self.most_M = self.most_M - core.spare_MC[:, position]
        del self.undecided[position]
        old_rank, digit = self._shift_ranks(len(core.options[position]) + 1)
        for option, rank in zip(core.options[position].tolist(), core.ranks[position].tolist(), strict=True):
            added = float(self.relaxation.reduced_N[option])
            old = np.flatnonzero(self.reduced[:before] < self.room - added)
            if not len(old):
                break
            cost_ML = self.cost[:, old] + core.change_MN[:, option, None]
            fits = (cost_ML <= self.most_M[:, None]).all(axis=0)
            if not fits.all():
                old, cost_ML = old[fits], cost_ML[:, fits]
            self._append(self.reduced[old] + added, cost_ML, old_rank[old] + rank * digit, self.node[old], option)
        self.rank[:before] = old_rank + core.base_ranks[position] * digit
        if self.count > 2 * self.pruned + 1000 and self.room < np.inf:
            self._prune()
        if self.count > max_labels and self.thins:
            self._thin()
        if self.count > max_labels:
            self._shrink(max_labels)

    def finish(self) -> Labels:
        count = self.count
        return Labels(
            reduced_L=self.reduced[:count],
            cost_ML=self.cost[:, :count],
            rank_L=self.rank[:count],
            room=self.room,
            node_L=self.node[:count],
            parents=np.concatenate(self.parents),
            departures=np.concatenate(self.departures),
        )

    def _shift_ranks(self, width: int) -> tuple[Integers, int]:
        """Ranks with place for one more digit, and what that digit counts."""
        rank_L = self.rank[: self.count]
        if self.radix > RANK_LIMIT // width:
            rank_L = np.unique(rank_L, return_inverse=True)[1]
            self.radix = int(rank_L.max(initial=0)) + 1
        digit = 1 if self.forward else self.radix
        self.radix *= width
        return (rank_L * width if self.forward else rank_L.copy()), digit

    def _append(self, reduced_L: Floats, cost_ML: Integers, rank_L: Integers, parent_L: Integers, option: int) -> None:
        begin, end = self.count, self.count + len(reduced_L)
        size = len(self.reduced)
        if end > size:
            more = max(end, 2 * size) - size
            self.reduced = np.concatenate([self.reduced, np.zeros(more)])
            self.rank = np.concatenate([self.rank, np.zeros(more, np.int64)])
            self.node = np.concatenate([self.node, np.zeros(more, np.int64)])
            self.cost = np.concatenate([self.cost, np.zeros((len(self.cost), more), np.int64)], axis=1)
        self.reduced[begin:end], self.cost[:, begin:end], self.rank[begin:end] = reduced_L, cost_ML, rank_L
        self.node[begin:end] = np.arange(self.nodes, self.nodes + len(reduced_L))
        self.parents.append(parent_L)
        self.departures.append(np.full(len(reduced_L), option))
        self.nodes += len(reduced_L)
        self.count = end

    def _prune(self) -> None:
        """Drop labels that the Lagrangian bound at other prices shows to reach the room.

        With prices + d instead of prices, a choice that keeps the limits adds at least
            sum reduced + d . (costs - slack)     (costs less those of the best options)
        of which a label knows its own part, and the other blocks add at least their least.
        """
        rest = [self.core.options[position] for position in self.undecided]
        flat = np.concatenate(rest) if rest else np.zeros(0, np.int64)
        starts = np.cumsum([0] + [len(options) for options in rest[:-1]])
        reduced_R, change_MR = self.relaxation.reduced_N[flat], self.core.change_MN[:, flat]
        for tilt_M in _tilts(self.relaxation.prices_M, self.cost[:, : self.count], self.room):
            own_L = self.reduced[: self.count] + tilt_M @ self.cost[:, : self.count]
            least = -float(tilt_M @ self.core.slack_M)
            if rest:
                least += float(np.minimum(np.minimum.reduceat(reduced_R + tilt_M @ change_MR, starts), 0.0).sum())
            kept = np.flatnonzero(own_L + least < self.room + self.relaxation.allowance)
            if len(kept) < self.count:
                self._keep(kept)
        self.pruned = self.count

    def _thin(self) -> None:
        """Drop what others make superfluous. Where that hardly helps, it is not tried again."""
        count = self.count
        tolerance = self.relaxation.allowance / 100
        prices_M = self.relaxation.prices_M
        self._keep(superior(self.reduced[:count], self.cost[:, :count], self.rank[:count], prices_M, tolerance))
        self.thins = self.count < 0.8 * count

    def _shrink(self, max_labels: int) -> None:
        """Lower the room until at most half of ``max_labels`` are left."""
        self.room = float(np.partition(self.reduced[: self.count], max_labels // 2)[max_labels // 2])
        self._keep(np.flatnonzero(self.reduced[: self.count] < self.room))

    def _keep(self, kept: NDArray[np.intp]) -> None:
        count = self.count = len(kept)
        for array in (self.reduced, self.rank, self.node):
            array[:count] = array[kept]
        self.cost[:, :count] = self.cost[:, kept]


def superior(
    reduced_L: Floats, cost_ML: Integers, rank_L: Integers, prices_M: Floats, tolerance: float
) -> NDArray[np.intp]:
    """Labels worth keeping: of those that cost the same in every row, the one of least value (within ``tolerance``, of
    least rank); with one row, only those that no other beats in value and cost."""
    order = np.lexsort((reduced_L, *cost_ML))
    sorted_ML = cost_ML[:, order]
    new = np.ones(len(order), bool)
    new[1:] = (sorted_ML[:, 1:] != sorted_ML[:, :-1]).any(axis=0)
    starts, group_L = np.flatnonzero(new), np.cumsum(new) - 1
    even = reduced_L[order] <= reduced_L[order][starts][group_L] + tolerance
    ranked_L = np.where(even, rank_L[order], np.iinfo(np.int64).max)
    first = np.flatnonzero(even & (ranked_L == np.minimum.reduceat(ranked_L, starts)[group_L]))
    kept = order[first[np.unique(group_L[first], return_index=True)[1]]]
    if len(cost_ML) == 1:
        kept = kept[undominated(reduced_L[kept] - prices_M @ cost_ML[:, kept], cost_ML[:, kept].T)]
    return np.sort(kept)


def _tilts(prices_M: Floats, cost_ML: Integers, room: float) -> Iterator[Floats]:
    """Changes of the prices, none of which becomes negative: up, down or neither in every row of few, in one row each
    of many."""
    rows = len(prices_M)
    spread_M = cost_ML.std(axis=1)
    step_M = np.divide(room, spread_M, out=np.zeros(rows), where=spread_M > 0)
    signs = np.array(list(product((-1, 0, 1), repeat=rows))) if rows <= 3 else np.vstack([np.eye(rows), -np.eye(rows)])
    for size in TILTS:
        for sign_M in signs[np.abs(signs).sum(axis=1) > 0]:
            yield np.maximum(size * sign_M * step_M, -prices_M)
