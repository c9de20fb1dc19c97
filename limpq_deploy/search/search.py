"""The policy search: indicators and budgets in, certified policies out. No torch, no runtime."""

import time
from collections.abc import Sequence
from math import isfinite

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, SettingError
from limpq_deploy.indicators import Indicators
from limpq_deploy.policy import BudgetUse, LayerBits, Policy, SolverResult
from limpq_deploy.search.blocks import build_program, limits_of
from limpq_deploy.search.budgets import check_budgets
from limpq_deploy.search.costs import Budget, Cost, total_cost
from limpq_deploy.search.infeasible import conflict, unreachable
from limpq_deploy.search.objective import objective_of
from limpq_deploy.search.outliers import Importance, OutlierMode, treat_outliers
from limpq_deploy.solver.program import Choice, Program
from limpq_deploy.solver.solvers import Solver, check_solver, solve_by

TIME_LIMIT_S = 60.0
"""For a library's solver. What it found by then is used, and proved as far as can be."""


def search_policy(
    indicators: Indicators,
    budgets: Sequence[Budget],
    *,
    alpha: float = 2.0,
    outliers: OutlierMode = "forbid",
    solver: Solver = "auto",
    gap: float = 0.0,
    time_limit_s: float | None = TIME_LIMIT_S,
) -> Policy:
    """The policy of least total importance within the budgets.

    ``alpha`` weighs weights against activations; 2 is the paper's value for ResNet-50 (``alpha * I_w + I_a``).
    The budgets are checked again in exact integers, and the optimum is proved by our own search (`solver.exact.solve`),
    whichever ``solver`` found it. One thread, no random numbers. Among policies of equal objective (1e-12, relative),
    the one with the least cost under the first budget is taken, then under the next ones; then, layer by layer (an
    act_group stands where its first layer does), the larger min(w, a), then w, then a: so the same input gives the same
    policy with every solver. With ``gap`` above 0, a policy certified to be that close is enough.

    Raises InfeasiblePolicy with the smallest reachable figures, SettingError for a useless ``alpha``, an unknown
    ``solver`` or no budget, ModelError where nothing is searched, MissingExtra where the solver is not installed.
    """
    search = PolicySearch(solver=solver, gap=gap, time_limit_s=time_limit_s)
    return search(indicators, budgets, alpha=alpha, outliers=outliers)


class PolicySearch:
    """`search_policy` for many budgets: calls that differ in their limits only share the program's blocks."""

    def __init__(self, *, solver: Solver = "auto", gap: float = 0.0, time_limit_s: float | None = TIME_LIMIT_S) -> None:
        check_solver(solver)
        self._solver, self._gap, self._time_limit_s = solver, gap, time_limit_s
        self._built: tuple[Indicators, list[Cost], float, OutlierMode, Importance, Program] | None = None

    def __call__(
        self,
        indicators: Indicators,
        budgets: Sequence[Budget],
        *,
        alpha: float = 2.0,
        outliers: OutlierMode = "forbid",
    ) -> Policy:
        """As `search_policy`."""
        _check(indicators, budgets, alpha)
        started = time.perf_counter()
        importance, program = self._blocks(indicators, budgets, alpha, outliers)
        reason = unreachable(program, indicators, budgets, importance.outliers)
        if reason is not None:
            raise InfeasiblePolicy(reason)
        solved = solve_by(program, self._solver, gap=self._gap, time_limit_s=self._time_limit_s)
        solution = solved.solution
        if solution.choice is None:
            reason = unreachable(program, indicators, budgets, importance.outliers, searching=True)
            if reason is not None:
                raise InfeasiblePolicy(reason)
            found = "no policy meets" if solution.complete else "no policy was found that meets"
            raise InfeasiblePolicy(f"{found} {conflict(program, indicators, budgets, importance.outliers)}")
        pairs = _pairs(indicators, program, solution.choice)
        objective = objective_of(indicators, importance, pairs, alpha, "the policy found")
        # Costs of importance are 0 or above, so what is below 0 is the bound's own rounding.
        bound = min(max(0.0, solution.bound), objective)
        return Policy(
            bits={layer: LayerBits(weight=weight, act=act) for layer, (weight, act) in pairs.items()},
            objective=objective,
            alpha=alpha,
            costs=tuple(_use(budget, indicators, pairs) for budget in budgets),
            solver=SolverResult(
                name=solved.name,
                status="optimal" if solution.complete else "feasible",
                bound=bound,
                gap=(objective - bound) / (abs(bound) or 1.0),
                seconds=time.perf_counter() - started,
            ),
            outliers=importance.outliers,
            model=indicators.model,
            source=indicators.source,
        )

    def _blocks(
        self, indicators: Indicators, budgets: Sequence[Budget], alpha: float, outliers: OutlierMode
    ) -> tuple[Importance, Program]:
        """The program: that of the last call with other limits, where all else is the same."""
        costs = [budget.cost for budget in budgets]
        if self._built is not None:
            last, *same, importance, program = self._built
            if last is indicators and same == [costs, alpha, outliers]:
                return importance, program.with_limits(limits_of(program, indicators, budgets))
        importance = treat_outliers(indicators, outliers)
        program = build_program(indicators, importance, budgets, alpha=alpha)
        self._built = (indicators, costs, alpha, outliers, importance, program)
        return importance, program


def _check(indicators: Indicators, budgets: Sequence[Budget], alpha: float) -> None:
    check_budgets(budgets)
    if not (isfinite(alpha) and alpha >= 0):
        raise SettingError(f"--alpha is {alpha}; expected a finite number, 0 or above")
    if not indicators.layers:
        raise ModelError(f"the indicators of {indicators.model!r} list no searched layer; there is nothing to search")


def _pairs(indicators: Indicators, program: Program, choice: Choice) -> dict[str, tuple[int, int]]:
    """(weight_bits, act_bits) by layer, in the model's order."""
    chosen = program.pairs(choice)
    return {layer.name: chosen[layer.name] for layer in indicators.layers}


def _use(budget: Budget, indicators: Indicators, pairs: dict[str, tuple[int, int]]) -> BudgetUse:
    used = total_cost(budget.cost, indicators, pairs)
    assert used <= budget.limit, f"{budget.cost.name} of {used} exceeds the limit of {budget.limit}"
    return BudgetUse(name=budget.cost.name, used=used, limit=budget.limit, unit=budget.cost.unit)
