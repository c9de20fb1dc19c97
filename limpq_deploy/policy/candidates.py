"""The policies that compete for the same budgets: one for each importance measure and setting, and the uniform one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.costs import Budget, total_cost, uniform_pairs
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import BudgetUse, LayerBits, Policy, Solve, SolverResult
from limpq_deploy.policy.recipes import Recipe, own_uniform

Admit = Callable[[Indicators], Indicators]
"""What restricts a search: lower bounds, pins, ties and spaces put on indicators."""


def find(
    indicators: Indicators,
    budgets: Sequence[Budget],
    recipe: Recipe,
    *,
    solve: Solve,
    admit: Admit = lambda indicators: indicators,
) -> Policy:
    """The certified policy of one recipe. Raises as `search_policy` and `read_by` do."""
    read = admit(read_by(indicators, recipe.importance))
    policy = solve(read, budgets, alpha=recipe.alpha, outliers=recipe.outliers)
    return replace(policy, importance=recipe.importance)


def find_own(
    indicators: Indicators,
    budgets: Sequence[Budget],
    recipe: Recipe,
    *,
    solve: Solve,
    admit: Admit = lambda indicators: indicators,
) -> Policy:
    """What a search gives by default: as `find`, but within the build's own budgets and restrictions the build's own
    policy, where that is uniform bits."""
    policy = find(indicators, budgets, recipe, solve=solve, admit=admit)
    uniform = own_uniform(admit(indicators), budgets)
    if uniform is None:
        return policy
    return uniform_candidate(uniform, indicators, budgets, policy, admit=admit)


def uniform_candidate(
    pair: BitPair,
    indicators: Indicators,
    budgets: Sequence[Budget],
    beside: Policy,
    *,
    admit: Admit = lambda indicators: indicators,
) -> Policy:
    """The uniform policy as a candidate, its objective that of the program which found ``beside``: not optimal there,
    and said to be so."""
    pairs = uniform_pairs(indicators, *pair)
    assert beside.importance is not None
    assert beside.solver is not None
    read = admit(read_by(indicators, beside.importance))
    importance = treat_outliers(read, "repair")  # an entry that was forbidden has its price here
    objective = objective_of(read, importance, pairs, beside.alpha, "the uniform policy")
    bound = min(beside.solver.bound, objective)
    return replace(
        beside,
        bits={name: LayerBits.of(pair) for name, pair in pairs.items()},
        objective=objective,
        costs=tuple(
            BudgetUse(
                name=budget.cost.name,
                used=total_cost(budget.cost, indicators, pairs),
                limit=budget.limit,
                unit=budget.cost.unit,
            )
            for budget in budgets
        ),
        solver=SolverResult(
            name="none",
            status="feasible",
            bound=bound,
            gap=(objective - bound) / (abs(bound) or 1.0),
            seconds=0.0,
        ),
        outliers=importance.outliers,
    )
