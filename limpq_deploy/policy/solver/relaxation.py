"""A lower bound of the program: its Lagrangian dual, solved exactly, without what pairs of blocks cost. NumPy only.

    L(p) = sum_b min_k (value[b, k] + p . cost[b, k]) - p . limit  <=  optimum, for all p >= 0   (Geoffrion, 1974)

The best prices come from the simplex method on the dual's linear program (Dantzig and Wolfe, 1960): its columns are
choices, and the next column is the choice that is best at the current prices. Only the basis, M + 1 columns, is kept.
B: block, N: option, M: row. Inside, rows are divided by their limits.
"""

from dataclasses import dataclass

import numpy as np

from limpq_deploy.policy.solver.program import Floats, Integers, Program

ROUNDING = 1e-12
"""Relative allowance for sums of doubles in every bound; some hundred terms lose less than 1e-13."""

TINY = 1e-300
"""Allowance where every value is 0."""

MAX_ITERATIONS = 400
"""Choices tried. Some twenty do for two rows; any prices give a valid bound."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relaxation:
    """The best Lagrangian bound found.

    ``prices_M``: value of one unit of each row, at least 0; ``reduced_N``: what an option adds to the bound, 0 for the
    best of its block (``base_B``, flat numbers); ``allowance``: rounding error that the bound and every sum of reduced
    values stay within.

        value(x) = bound + allowance + sum reduced(x) + prices . (limits - costs(x))
    """

    bound: float
    prices_M: Floats
    reduced_N: Floats
    base_B: Integers
    allowance: float


def relax(program: Program, *, iterations: int = MAX_ITERATIONS) -> Relaxation:
    """Maximise the Lagrangian bound over the prices."""
    rows = len(program.limits)
    unit_M = np.maximum(np.array(program.limits, np.float64), 1.0)
    limit_M = np.array(program.limits, np.float64) / unit_M
    cost_MN = program.cost_MN / unit_M[:, None]
    starts = program.start_B1[:-1]

    def best_at(prices_M: Floats) -> tuple[float, Integers]:
        priced_N = program.value_N + prices_M @ cost_MN
        least_B = np.minimum.reduceat(priced_N, starts)
        return float(least_B.sum() - prices_M @ limit_M), _first_least(program, priced_N, least_B)

    prices_M = np.zeros(rows)
    best, chosen_B = best_at(prices_M)
    best_M = prices_M
    spread = float((np.maximum.reduceat(program.value_N, starts) - program.value_N[chosen_B]).sum())
    # Columns of the basis: a choice (costs, 1), the slack of a row (e_j, 0), or a breach of it (-e_j, 0) at `fine`.
    fine = 100.0 * spread + TINY
    load_M = cost_MN[:, chosen_B].sum(axis=1)
    basis = np.zeros((rows + 1, rows + 1))
    basis[:, 0] = [*load_M, 1.0]
    paid = np.zeros(rows + 1)
    paid[0] = program.value_N[chosen_B].sum()
    for row in range(rows):
        basis[row, row + 1] = 1.0 if load_M[row] <= limit_M[row] else -1.0
        paid[row + 1] = 0.0 if load_M[row] <= limit_M[row] else fine
    aim = np.array([*limit_M, 1.0])
    tolerance = 1e-13 * (abs(best) + spread)
    for _ in range(iterations):
        inverse = _inverse(basis)
        if inverse is None:
            break
        held = inverse @ aim
        duals = paid @ inverse
        prices_M = -duals[:rows]
        worst = int(prices_M.argmin()) if rows else 0
        if rows and prices_M[worst] < -tolerance:
            entering, price = np.eye(rows + 1)[worst], 0.0
        else:
            prices_M = np.clip(prices_M, 0.0, fine)
            bound, chosen_B = best_at(prices_M)
            if bound > best:
                best, best_M = bound, prices_M
            price = float(program.value_N[chosen_B].sum())
            entering = np.array([*cost_MN[:, chosen_B].sum(axis=1), 1.0])
            if price - duals @ entering > -tolerance:
                break
        column = inverse @ entering
        leaving = _leaving(held, column)
        if leaving is None:
            break
        basis[:, leaving], paid[leaving] = entering, price
    priced_N = program.value_N + best_M @ cost_MN
    least_B = np.minimum.reduceat(priced_N, starts)
    size = abs(best) + float(np.abs(program.value_N[chosen_B]).sum()) + float(best_M.sum())
    allowance = max(ROUNDING * size, TINY)
    return Relaxation(
        bound=float(least_B.sum() - best_M @ limit_M) - allowance,
        prices_M=best_M / unit_M,
        reduced_N=priced_N - least_B[program.block_of],
        base_B=_first_least(program, priced_N, least_B),
        allowance=allowance,
    )


def _first_least(program: Program, priced_N: Floats, least_B: Floats) -> Integers:
    """The first option of each block whose price is the least."""
    at = np.flatnonzero(priced_N == least_B[program.block_of])
    block = program.block_of[at]
    first: Integers = at[np.concatenate([[True], block[1:] != block[:-1]])]
    return first


def _inverse(basis: Floats) -> Floats | None:
    try:
        inverse = np.asarray(np.linalg.inv(basis), np.float64)
    except np.linalg.LinAlgError:
        return None
    return inverse if np.isfinite(inverse).all() else None


def _leaving(held: Floats, column: Floats) -> int | None:
    """The basic column that reaches 0 first as the entering one grows; None where none does."""
    falls = column > 1e-12 * np.abs(column).max()
    if not falls.any():
        return None
    ratios = np.where(falls, np.maximum(held, 0.0) / np.where(falls, column, 1.0), np.inf)
    least = ratios.min()
    ties = np.flatnonzero(ratios <= least + 1e-15)
    return int(ties[column[ties].argmax()])
