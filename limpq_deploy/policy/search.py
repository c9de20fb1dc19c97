"""The policy search: indicators and budgets in, certified policies out. No torch, no runtime."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import inf, isfinite

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, PolicyNotFound, SettingError
from limpq_deploy.policy.blocks import build_program, limits_of
from limpq_deploy.policy.budgets import check_budgets
from limpq_deploy.policy.candidates import find, find_own
from limpq_deploy.policy.costs import Budget, Cost, Pairs, handovers_of, total_cost, uniform_pairs
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.infeasible import conflict, unreachable
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import Importance, OutlierMode, treat_outliers
from limpq_deploy.policy.policy import BudgetUse, LayerBits, Policy, SolverResult
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.solver.deadline import NEVER, Deadline
from limpq_deploy.policy.solver.exact import Solution
from limpq_deploy.policy.solver.program import Choice, Program
from limpq_deploy.policy.solver.solvers import Solved, Solver, check_solver, solve_by

TIME_LIMIT_S = 60.0
"""For one search: our own, the library behind it, proofs, and what a refusal says. What was found by then is used, and
says that it is not proved."""

LARGEST = sys.float_info.max / 4
"""Largest sum of importance, so that no sum of it overflows."""

CLOSE = 1e-6
"""Gap of an unproved policy that is not compared with the uniform ones."""

REFUSAL_S = 2.0
"""Time for the figures of a refusal where the search itself left less."""


def search_policy(
    indicators: Indicators,
    budgets: Sequence[Budget],
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
    solver: Solver = "auto",
    gap: float = 0.0,
    time_limit_s: float | None = TIME_LIMIT_S,
) -> Policy:
    """The policy of least total importance within the budgets.

    ``importance``: the measure; ``alpha`` weighs weights against activations; 2 is the paper's value for ResNet-50
    (``alpha * I_w + I_a``). What is not given is what the build that made the indicators found best, or as suits the
    measure (`recipes.one_recipe`), as for the commands.
    The budgets are checked again in exact integers. The optimum is proved by our own search (`solver.exact.solve`),
    whichever ``solver`` found it, or, where that would take too long, by a library's (docs/adr/0004). A policy that is
    not proved when ``time_limit_s`` ends is "feasible", and no worse than any uniform one within the budgets; `sweep`
    and `explain` search many times. One thread, no random numbers. Among policies of equal objective (1e-12, relative),
    the one with the least cost under the first budget is taken, then under the next ones; then, layer by layer (an
    act_group stands where its first layer does), the larger min(w, a), then w, then a: so the same input gives the same
    policy with every solver, where our own search has the proof; a library takes any of them. With ``gap`` above 0, a
    policy certified to be that close is enough.

    Raises InfeasiblePolicy with the smallest reachable figures (PolicyNotFound where time ended before a policy was
    found or shown not to exist), SettingError for a useless ``alpha``, an unknown ``solver`` or no budget, ModelError
    where nothing is searched or the importance adds up to no number, MissingExtra where the solver is not installed.
    """
    asked = any(one is not None for one in (importance, alpha, outliers))
    recipe = one_recipe(indicators, importance=importance, alpha=alpha, outliers=outliers)
    search = PolicySearch(solver=solver, gap=gap, time_limit_s=time_limit_s)
    return (find if asked else find_own)(indicators, budgets, recipe, solve=search)


class PolicySearch:
    """`search_policy` for many budgets: calls that differ in their limits only share the program's blocks."""

    def __init__(
        self,
        *,
        solver: Solver = "auto",
        gap: float = 0.0,
        time_limit_s: float | None = TIME_LIMIT_S,
        deadline: Deadline = NEVER,
    ) -> None:
        """``deadline``: for all calls together, beside the limit of each."""
        check_solver(solver)
        self._solver, self._gap, self._time_limit_s, self._deadline = solver, gap, time_limit_s, deadline
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
        deadline = Deadline(min(Deadline.within(self._time_limit_s).at, self._deadline.at))
        importance, program = self._blocks(indicators, budgets, alpha, outliers)
        reason = unreachable(program, indicators, budgets, importance.outliers)
        if reason is not None:
            raise InfeasiblePolicy(reason)
        solved = self._solved(program, indicators, budgets, deadline)
        solution = solved.solution
        pairs = _pairs(indicators, program, solution.choice) if solution.choice is not None else {}
        objective = objective_of(indicators, importance, pairs, alpha, "the policy found") if pairs else inf
        if not pairs or not (solution.complete or objective - solution.bound <= CLOSE * objective):
            uniform = _best_uniform(indicators, importance, budgets, alpha)
            if uniform is not None and uniform[0] < objective:
                objective, pairs = uniform
                # where no policy was said to exist, that word counts no more
                solution = replace(solution, bound=0.0 if solution.complete else solution.bound, complete=False)
        if not pairs:
            figures = Deadline(max(deadline.at, time.perf_counter() + REFUSAL_S))
            raise _refusal(program, indicators, budgets, importance, solution.complete, figures)
        # Costs of importance are 0 or above, so what is below 0 is the bound's own rounding.
        bound = min(max(0.0, solution.bound), objective)
        return Policy(
            bits={layer: LayerBits.of(pair) for layer, pair in pairs.items()},
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

    def _solved(
        self, program: Program, indicators: Indicators, budgets: Sequence[Budget], deadline: Deadline
    ) -> Solved:
        """The program's answer. Where its costs are rounded and the best choice exceeds a true limit by less than that,
        the best that keeps limits smaller by all that rounding can hide: it is not proved to be the best."""

        def solved(some: Program) -> Solved:
            left_s = None if deadline == NEVER else deadline.left_s
            return solve_by(some, self._solver, gap=self._gap, time_limit_s=left_s)

        found = solved(program)
        choice = found.solution.choice
        if not program.rounded or choice is None or _kept(budgets, indicators, _pairs(indicators, program, choice)):
            return found
        terms = len(indicators.layers) + len(program.tables) + sum(len(handovers_of(budget.cost)) for budget in budgets)
        tight = solved(program.with_limits([limit - terms for limit in program.limits]))
        return replace(
            tight, solution=Solution(choice=tight.solution.choice, bound=found.solution.bound, complete=False)
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
    most = sum(alpha * max(layer.weight) + max(layer.act) for layer in indicators.layers)
    if not most <= LARGEST:
        raise ModelError(
            f"the importance of {indicators.model!r}, weights times --alpha {alpha:g}, adds up to more than a double "
            "holds; divide all indicators by one number"
        )


def _kept(budgets: Sequence[Budget], indicators: Indicators, pairs: Pairs) -> bool:
    return all(total_cost(budget.cost, indicators, pairs) <= budget.limit for budget in budgets)


def _best_uniform(
    indicators: Indicators, importance: Importance, budgets: Sequence[Budget], alpha: float
) -> tuple[float, dict[str, tuple[int, int]]] | None:
    """Objective and pairs of the best uniform policy within the budgets that the program admits."""
    found: list[tuple[float, dict[str, tuple[int, int]]]] = []
    for pair in product(indicators.bits, indicators.bits):
        if any(pair not in some for some in importance.pairs.values()):
            continue
        pairs = uniform_pairs(indicators, *pair)
        if _kept(budgets, indicators, pairs):
            try:
                found.append((objective_of(indicators, importance, pairs, alpha, "a uniform policy"), pairs))
            except ModelError:  # it takes an entry that is forbidden as an outlier
                continue
    return min(found, key=lambda one: one[0], default=None)


def _refusal(
    program: Program,
    indicators: Indicators,
    budgets: Sequence[Budget],
    importance: Importance,
    proved: bool,
    deadline: Deadline,
) -> InfeasiblePolicy:
    """What to say where the search has found no policy."""
    if not proved:
        unmet = conflict(program, indicators, budgets, importance.outliers, deadline)
        return PolicyNotFound(f"no policy was found in time, and none was shown not to exist, that meets {unmet}")
    reason = unreachable(program, indicators, budgets, importance.outliers, searching=deadline)
    if reason is not None:
        return InfeasiblePolicy(reason)
    return InfeasiblePolicy(f"no policy meets {conflict(program, indicators, budgets, importance.outliers, deadline)}")


def _pairs(indicators: Indicators, program: Program, choice: Choice) -> dict[str, tuple[int, int]]:
    """(weight_bits, act_bits) by layer, in the model's order."""
    chosen = program.pairs(choice)
    return {layer.name: chosen[layer.name] for layer in indicators.layers}


def _use(budget: Budget, indicators: Indicators, pairs: dict[str, tuple[int, int]]) -> BudgetUse:
    used = total_cost(budget.cost, indicators, pairs)
    assert used <= budget.limit, f"{budget.cost.name} of {used} exceeds the limit of {budget.limit}"
    return BudgetUse(name=budget.cost.name, used=used, limit=budget.limit, unit=budget.cost.unit)
