"""Our own exact solver: Lagrangian bound, fixing by reduced values, and a core problem met in the middle.

A choice that keeps the limits is worth bound + sum reduced + prices . slack (`Relaxation`). So every choice below a
given value takes, block by block, options whose reduced values add up to less than the room above the bound, and leaves
next to nothing of every row that has a price. Few options are left; their blocks are cut in two, the partial choices of
either half are listed (`labels`), and the halves are joined (`join`; Horowitz and Sahni, 1974). Rooms grow until a
choice is found inside: it is then the best.
"""

from dataclasses import dataclass
from math import fsum

import numpy as np

from limpq_deploy.policy.solver.core import Core, core_of
from limpq_deploy.policy.solver.deadline import NEVER, Deadline, OutOfTime
from limpq_deploy.policy.solver.join import Joined, join
from limpq_deploy.policy.solver.labels import Growing, Labels
from limpq_deploy.policy.solver.program import Choice, Program
from limpq_deploy.policy.solver.relaxation import Relaxation

FIRST_LABELS = 1_000
MAX_LABELS = 500_000
"""Labels per half, at the first attempt and at the last."""

MAX_WORK = 10**9
"""Blocks times labels of the last attempt: programs of more than 2,000 blocks get fewer labels."""

GROWTH = 8
"""Labels of an attempt over those of the one before. The room that it tries first doubles."""

FIRST_OPTIONS = 40
"""Options, beside the best ones, that fit into the room tried first."""

MAX_PAIRS = 100_000_000
"""Pairs of labels looked at in one attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """``choice``: the best found, None where there is none; ``bound``: no choice that keeps the limits has a value
    below it; ``complete``: the choice is proved to be the best, or, without one, that there is none."""

    choice: Choice | None
    bound: float
    complete: bool

    def gap(self, value: float) -> float:
        """(value - bound) / |bound|, or the difference where the bound is 0."""
        return (value - self.bound) / (abs(self.bound) or 1.0)


def solve(
    program: Program,
    relaxation: Relaxation,
    *,
    incumbent: Choice | None = None,
    gap: float = 0.0,
    max_labels: int | None = None,
    deadline: Deadline = NEVER,
) -> Solution:
    """The best choice, proved, unless more than ``max_labels`` partial choices would have to be listed, or the deadline
    passes.

    Among choices within the relaxation's allowance (1e-12, relative) of the best: the least cost in the first row, then
    in the next ones; then, block by block, the larger min(w, a), then w, then a of its layers. An incumbent changes the
    work, never the answer of a complete search. With ``gap`` above 0, a choice proved to be that close is enough.
    """
    tie = relaxation.allowance
    most_labels = max(FIRST_LABELS, min(MAX_LABELS, MAX_WORK // len(program.layers)))
    most_labels = min(max_labels or most_labels, most_labels)
    assert not program.tables, "a library is for these"
    above = fsum(np.maximum.reduceat(program.value_N, program.start_B1[:-1]).tolist()) - relaxation.bound
    # the dearest choice itself is looked for, however small the allowance is beside it
    limit, reached, choice = above + max(3 * tie, 1e-12 * abs(above)), 0.0, None
    if limit <= 0:
        return Solution(choice=None, bound=relaxation.bound, complete=True)
    if incumbent is not None and program.feasible(incumbent):
        choice = incumbent
        limit = min(limit, program.value(incumbent) - relaxation.bound + 3 * tie)
    guess = _first_room(relaxation)
    everything = float(np.maximum.reduceat(relaxation.reduced_N, program.start_B1[:-1]).sum())
    labels = min(FIRST_LABELS, most_labels)
    while True:
        room = min(limit, guess)
        try:
            core = core_of(program, relaxation, room)
            left, right = _halves(core, relaxation, room, labels, deadline)
            listed = min(left.room, right.room)
            joined = _joined(left, right, relaxation, core, limit, listed, choice is not None, deadline)
        except OutOfTime:
            return Solution(choice=choice, bound=relaxation.bound + reached, complete=False)
        if joined.pair is not None:
            choice = _choice(program, relaxation, left.trace(joined.pair[0]) + right.trace(joined.pair[1]))
            limit = min(limit, joined.added + 3 * tie)
        if joined.finished:
            reached = max(reached, min(listed, limit - 3 * tie))
        complete = joined.finished and listed >= limit
        solution = Solution(choice=choice, bound=relaxation.bound + reached, complete=complete)
        too_short = listed < room or not joined.finished
        if complete or (too_short and labels >= most_labels):
            return solution
        if gap > 0 and choice is not None and solution.gap(program.value(choice)) <= gap:
            return solution
        labels = labels * GROWTH if labels * GROWTH * 2 < most_labels else most_labels
        guess = guess * 2 if guess * 2 <= everything and (choice is not None or labels < most_labels) else np.inf


def _first_room(relaxation: Relaxation) -> float:
    """A room that FIRST_OPTIONS options beside the best ones fit into; all of it where there are fewer."""
    reduced_N = relaxation.reduced_N
    nth = len(relaxation.base_B) + FIRST_OPTIONS
    if nth >= len(reduced_N):
        return np.inf
    return float(np.partition(reduced_N, nth)[nth]) or np.inf


def _halves(
    core: Core, relaxation: Relaxation, room: float, max_labels: int, deadline: Deadline
) -> tuple[Labels, Labels]:
    """Labels of the core's first blocks and of its last ones: whichever list is shorter takes the next block."""
    left = Growing(core, relaxation, room, forward=True)
    right = Growing(core, relaxation, room, forward=False)
    first, last = 0, len(core.options) - 1
    while first <= last:
        deadline.check()
        if left.count <= right.count:
            left.add(first, max_labels)
            first += 1
        else:
            right.add(last, max_labels)
            last -= 1
    return left.finish(), right.finish()


def _joined(
    left: Labels,
    right: Labels,
    relaxation: Relaxation,
    core: Core,
    limit: float,
    listed: float,
    known: bool,
    deadline: Deadline,
) -> Joined:
    """The best pair below the best value known; while none is known, further and further above what is listed."""
    powers = range(1) if known or listed == np.inf else range(12)
    for power in powers:
        ceiling = limit if len(powers) == 1 else min(limit, listed * 2.0**power)
        joined = join(
            left,
            right,
            relaxation.prices_M,
            core.slack_M,
            ceiling=ceiling,
            tie=relaxation.allowance,
            max_pairs=MAX_PAIRS,
            deadline=deadline,
        )
        if joined.pair is not None or not joined.finished:
            break
    return joined


def _choice(program: Program, relaxation: Relaxation, departures: list[int]) -> Choice:
    flat_B = relaxation.base_B.copy()
    flat_B[program.block_of[departures]] = departures
    return tuple((flat_B - program.start_B1[:-1]).tolist())
