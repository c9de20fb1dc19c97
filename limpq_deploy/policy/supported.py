"""Every supported point of the front: the policies that are best at some price of BitOps.

At a price p the blocks decide alone, each for the least ``value + p * cost``; as p falls from infinity to 0, one block
after another steps along the lower convex hull of its options, and every state between two steps is an optimal policy
for exactly the BitOps that it takes. All of them cost one sort. Points between two supported ones (above the chord)
exist too: `front.sweep` finds the best one of any budget.
"""

import time
from math import fsum

import numpy as np

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.policy.blocks import build_program
from limpq_deploy.policy.budgets import gbitops_budget
from limpq_deploy.policy.candidates import Admit
from limpq_deploy.policy.costs import total_cost
from limpq_deploy.policy.front import COST, Front, FrontPoint
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import OutlierMode, OutlierReport, treat_outliers
from limpq_deploy.policy.policy import BudgetUse, LayerBits, Policy, SolverResult
from limpq_deploy.policy.recipes import Recipe, one_recipe
from limpq_deploy.policy.solver.program import Program

ROUNDING = 1e-12
"""Relative allowance for rounding in a bound."""

UNLIMITED_GBITOPS = 10**9


def supported_front(
    indicators: Indicators,
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
    admit: Admit = lambda indicators: indicators,
) -> Front:
    """All supported points by ascending BitOps (pinned layers included), each optimal within what it takes; settings
    as in `front.sweep`.

    Raises ModelError where nothing is searched.
    """
    if not indicators.layers:
        raise ModelError(f"the indicators of {indicators.model!r} list no searched layer; there is nothing to search")
    started = time.perf_counter()
    recipe = one_recipe(indicators, importance=importance, alpha=alpha, outliers=outliers)
    indicators, alpha = admit(read_by(indicators, recipe.importance)), recipe.alpha
    treated = treat_outliers(indicators, recipe.outliers)
    program = build_program(indicators, treated, [gbitops_budget(indicators, UNLIMITED_GBITOPS)], alpha=alpha)
    states = _states(program)
    each = (time.perf_counter() - started) / len(states)
    points = []
    for choice, price in states:
        pairs = program.pairs(tuple(choice))
        objective = objective_of(indicators, treated, pairs, alpha, "a supported policy")
        points.append(
            _point(indicators, pairs, objective, _bound(program, choice, price), recipe, treated.outliers, each)
        )
    return Front(
        model=indicators.model,
        importance=recipe.importance,
        alpha=alpha,
        outliers=recipe.outliers,
        points=tuple(points),
    )


def _states(program: Program) -> list[tuple[list[int], float]]:
    """Choices from the cheapest to the best, each with a price at which it is optimal."""
    choice: list[int] = []
    steps: list[tuple[float, int, int]] = []
    for block, options in enumerate(program.ranges()):
        hull = _hull(program.value_N[options.start : options.stop], program.cost_MN[0, options.start : options.stop])
        choice.append(hull[0][0])
        steps += [(slope, block, option) for option, slope in hull[1:]]
    steps.sort(key=lambda step: (-step[0], step[1]))
    slopes = [np.inf, *(slope for slope, _, _ in steps), 0.0]
    states = [(list(choice), _between(slopes[0], slopes[1]))]
    for number, (_, block, option) in enumerate(steps, start=1):
        choice[block] = option
        states.append((list(choice), _between(slopes[number], slopes[number + 1])))
    return states


def _hull(value_K: np.ndarray, cost_K: np.ndarray) -> list[tuple[int, float]]:
    """Options on the lower convex hull by ascending cost, each with what it saves per BitOp over the one before."""
    order = sorted(range(len(value_K)), key=lambda option: (cost_K[option], value_K[option], option))
    hull: list[tuple[int, float]] = []
    for option in order:
        if hull and value_K[option] >= value_K[hull[-1][0]]:
            continue
        slope = np.inf
        while hull:
            last, before = hull[-1]
            slope = float((value_K[last] - value_K[option]) / (cost_K[option] - cost_K[last]))
            if slope < before:
                break
            hull.pop()
        hull.append((option, slope if hull else np.inf))
    return hull


def _between(high: float, low: float) -> float:
    return low if np.isinf(high) else (high + low) / 2


def _bound(program: Program, choice: list[int], price: float) -> float:
    """Lagrangian bound for the BitOps that a choice takes: no policy within them has a smaller objective."""
    priced_N = program.value_N + price * program.cost_MN[0]
    used = program.costs(tuple(choice))[0]
    least = fsum(np.minimum.reduceat(priced_N, program.start_B1[:-1]).tolist())
    bound = least - price * used
    return bound - ROUNDING * (abs(least) + price * used)


def _point(
    indicators: Indicators,
    pairs: dict[str, tuple[int, int]],
    objective: float,
    bound: float,
    recipe: Recipe,
    report: OutlierReport,
    seconds: float,
) -> FrontPoint:
    used = total_cost(COST, indicators, pairs)
    bound = min(max(0.0, bound), objective)  # costs of importance are 0 or above: below it is rounding alone
    solver = SolverResult(
        name="limpq-deploy, parametric price",
        status="optimal",
        bound=bound,
        gap=(objective - bound) / (abs(bound) or 1.0),
        seconds=seconds,
    )
    policy = Policy(
        bits={layer.name: LayerBits.of(pairs[layer.name]) for layer in indicators.layers},
        objective=objective,
        alpha=recipe.alpha,
        importance=recipe.importance,
        costs=(BudgetUse(name=COST.name, used=used, limit=used, unit=COST.unit),),
        solver=solver,
        outliers=report,
        model=indicators.model,
        source=indicators.source,
    )
    return FrontPoint(gbitops_limit=used / 1e9, policy=policy, solver=solver)
