"""The policies that compete for the same budgets: one for each importance measure and setting, and the uniform one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.costs import Budget, total_cost, uniform_pairs
from limpq_deploy.policy.importance_names import MEASURES, carried, default_measure, read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import OutlierMode, treat_outliers
from limpq_deploy.policy.policy import BudgetUse, LayerBits, Policy, SolverResult
from limpq_deploy.policy.search import PolicySearch

Admit = Callable[[Indicators], Indicators]
"""What restricts a search: lower bounds, pins, ties and spaces put on indicators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a policy is found: the program on one measure, with ``alpha`` and a treatment of outliers."""

    importance: str
    alpha: float
    outliers: OutlierMode

    @property
    def title(self) -> str:
        """``kl, alpha 1, repair``."""
        return f"{self.importance}, alpha {self.alpha:g}, {self.outliers}"


def one_recipe(
    indicators: Indicators,
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
) -> Recipe:
    """The measure's own settings where nothing else is asked for, and the best measure that the indicators carry."""
    name = importance or default_measure(indicators)
    info = MEASURES[name]
    return Recipe(
        importance=name,
        alpha=info.alpha if alpha is None else alpha,
        outliers=info.outliers if outliers is None else outliers,
    )


def recipes(
    indicators: Indicators,
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
) -> tuple[Recipe, ...]:
    """Every setting worth a preview; what is asked for is not varied.

    For each measure: its own alpha, half and twice that; its own treatment of outliers, and repair.
    """
    found: dict[Recipe, None] = {}
    for name in carried(indicators) if importance is None else (importance,):
        own = one_recipe(indicators, importance=name, alpha=alpha, outliers=outliers)
        modes: tuple[OutlierMode, ...] = (own.outliers, "repair") if outliers is None else (outliers,)
        for mode in modes:
            for factor in (1.0, 0.5, 2.0) if alpha is None else (1.0,):
                found[replace(own, alpha=own.alpha * factor, outliers=mode)] = None
    return tuple(found)


def find(
    indicators: Indicators,
    budgets: Sequence[Budget],
    recipe: Recipe,
    *,
    solve: PolicySearch,
    admit: Admit = lambda indicators: indicators,
) -> Policy:
    """The certified policy of one recipe. Raises as `search_policy` and `read_by` do."""
    read = admit(read_by(indicators, recipe.importance))
    policy = solve(read, budgets, alpha=recipe.alpha, outliers=recipe.outliers)
    return replace(policy, importance=recipe.importance)


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
        bits={name: LayerBits(weight=weight, act=act) for name, (weight, act) in pairs.items()},
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
