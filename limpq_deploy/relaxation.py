"""A lower bound of the program, and a proof that no better policy exists. NumPy only; independent of the solver.

B: block, K: option (padded), M: row. Rows are divided by their limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.pareto import undominated
from limpq_deploy.program import Program

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAX_LABELS = 50_000
"""Partial policies kept per block in `prove`."""

ROUNDING = 1e-12
"""Relative allowance for sums of doubles in every bound; some hundred terms lose less than 1e-13."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """The best Lagrangian bound found.

    L(p) = sum_b min_k (value[b, k] + p . cost[b, k]) - p . 1  <=  optimum, for all prices p >= 0   (Geoffrion, 1974)
    """

    bound: float
    prices_M: Floats
    reduced_BK: Floats
    """What option k of block b adds to the bound: 0 for the best one, infinite for padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Result of `prove`. ``better``: a choice below the incumbent's value, the best there is if ``complete``;
    ``bound``: no policy has a value below it; ``complete``: nothing was left out, rounding apart."""

    better: tuple[int, ...] | None
    bound: float
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    value_BK: Floats
    cost_MBK: Integers
    limits_M: Integers


def relax(program: Program, *, iterations: int = 200) -> Relaxation:
    """Maximise the Lagrangian bound over the prices by the ellipsoid method (Shor, 1977).

    Any prices give a valid bound; the method only makes it a good one.
    """
    tables = _tables(program)
    relative_MBK = tables.cost_MBK / np.maximum(tables.limits_M, 1)[:, None, None]
    rows = len(program.limits)
    finite = np.where(np.isfinite(tables.value_BK), tables.value_BK, 0.0)
    floor = float(tables.value_BK.min(axis=1).sum())
    spread = float((finite.max(axis=1) - tables.value_BK.min(axis=1)).sum())
    best, best_M = floor, np.zeros(rows)
    prices_M: Floats = np.zeros(rows)
    shape: Floats = np.eye(rows) * (10 * spread) ** 2
    blocks = np.arange(len(program.blocks))
    for _ in range(iterations):
        if prices_M.min() < 0:
            downhill_M = np.zeros(rows)
            downhill_M[prices_M.argmin()] = -1.0
        else:
            priced_BK = tables.value_BK + np.tensordot(prices_M, relative_MBK, 1)
            choice_B = priced_BK.argmin(axis=1)
            bound = float(priced_BK[blocks, choice_B].sum() - prices_M @ (tables.limits_M > 0))
            if bound > best:
                best, best_M = bound, prices_M.copy()
            downhill_M = (tables.limits_M > 0) - relative_MBK[:, blocks, choice_B].sum(axis=1)
        length = max(float(downhill_M @ shape @ downhill_M), 0.0) ** 0.5
        if length <= 1e-12 * spread:
            break
        step_M: Floats = shape @ downhill_M / length
        prices_M = prices_M - step_M / (rows + 1)
        if rows == 1:
            shape = shape / 4
        else:
            shape = rows**2 / (rows**2 - 1) * (shape - 2 / (rows + 1) * np.outer(step_M, step_M))
    priced_BK = tables.value_BK + np.tensordot(best_M, relative_MBK, 1)
    least_B = priced_BK.min(axis=1)
    slack = ROUNDING * (abs(best) + float(best_M.sum()))
    bound = max(floor, float(least_B.sum() - best_M @ (tables.limits_M > 0)) - slack)
    return Relaxation(bound=bound, prices_M=best_M, reduced_BK=priced_BK - least_B[:, None])


def prove(program: Program, relaxation: Relaxation, incumbent: float | None, *, max_labels: int = MAX_LABELS) -> Proof:
    """Enumerate every policy that could be better than ``incumbent`` (None: every feasible one).

    Blocks are added one by one to partial policies ("labels"). A label goes when the relaxation shows that all its
    continuations reach the incumbent's value, when it cannot stay within the limits (exact integers), or when another
    label is at most as large in value and in every row. Beyond ``max_labels`` the least promising go too; the bound
    then accounts for them.
    """
    tables = _tables(program)
    ceiling = np.inf if incumbent is None else incumbent - ROUNDING * (abs(incumbent) + relaxation.prices_M.sum())
    room = ceiling - relaxation.bound
    live = [np.flatnonzero(reduced_K < room) for reduced_K in relaxation.reduced_BK]
    order = sorted(range(len(live)), key=lambda block: -len(live[block]))
    rest_MB = _least_rest(tables.cost_MBK, live, order) if all(len(options) for options in live) else None
    reduced, value = np.zeros(1), np.zeros(1)
    cost_LM = np.zeros((1, len(program.limits)), np.int64)
    history: list[tuple[Integers, Integers]] = []
    left_out = np.inf
    for depth, block in enumerate(order):
        options = live[block]
        if rest_MB is None or len(value) == 0:
            break
        reduced = np.add.outer(reduced, relaxation.reduced_BK[block, options]).ravel()
        value = np.add.outer(value, tables.value_BK[block, options]).ravel()
        cost_LM = (cost_LM[:, None, :] + tables.cost_MBK[:, block, options].T[None]).reshape(-1, len(program.limits))
        fits = (cost_LM + rest_MB[:, depth + 1] <= tables.limits_M).all(axis=1)
        kept = np.flatnonzero(fits & (reduced < room))
        kept = kept[undominated(value[kept], cost_LM[kept])]
        if len(kept) > max_labels:
            kept = kept[np.argsort(reduced[kept], kind="stable")]
            left_out = min(left_out, float(reduced[kept[max_labels]]))
            kept = kept[:max_labels]
        history.append((kept // len(options), options[kept % len(options)]))
        reduced, value, cost_LM = reduced[kept], value[kept], cost_LM[kept]
    better = None
    reached = ceiling
    if rest_MB is not None and len(value) and value.min() < ceiling:
        last = int(value.argmin())
        better, reached = _trace(history, order, last), float(value[last])
        reached -= ROUNDING * (abs(reached) + float(relaxation.prices_M.sum()))
    all_of_it = bool(relaxation.bound + left_out >= reached)
    bound = float(max(relaxation.bound, reached if all_of_it else relaxation.bound + left_out))
    return Proof(better=better, bound=bound, complete=all_of_it)


def _tables(program: Program) -> _Tables:
    width = max(len(block.options) for block in program.blocks)
    value_BK = np.full((len(program.blocks), width), np.inf)
    cost_MBK = np.zeros((len(program.limits), len(program.blocks), width), np.int64)
    for b, block in enumerate(program.blocks):
        value_BK[b, : len(block.options)] = [option.value for option in block.options]
        cost_MBK[:, b, : len(block.options)] = np.array([option.costs for option in block.options], np.int64).T
    return _Tables(value_BK=value_BK, cost_MBK=cost_MBK, limits_M=np.array(program.limits, np.int64))


def _least_rest(cost_MBK: Integers, live: Sequence[Integers], order: Sequence[int]) -> Integers:
    """[M, B + 1]: the least that the blocks from each depth on cost."""
    least = [cost_MBK[:, block, live[block]].min(axis=1) for block in order]
    rest = np.zeros((cost_MBK.shape[0], len(order) + 1), np.int64)
    for depth in reversed(range(len(order))):
        rest[:, depth] = rest[:, depth + 1] + least[depth]
    return rest


def _trace(history: Sequence[tuple[Integers, Integers]], order: Sequence[int], label: int) -> tuple[int, ...]:
    choice = [0] * len(order)
    for block, (parents, options) in zip(reversed(order), reversed(history), strict=True):
        choice[block] = int(options[label])
        label = int(parents[label])
    return tuple(choice)
