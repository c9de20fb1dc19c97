"""Why no policy meets the budgets: which of them conflict, and how far each can go alone and beside the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from limpq_deploy.calibration.errors import InfeasiblePolicy, PolicyNotFound
from limpq_deploy.policy.blocks import build_program
from limpq_deploy.policy.costs import Budget, pinned_cost
from limpq_deploy.policy.front import Solve
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.infeasible import smallest_alone, smallest_beside
from limpq_deploy.policy.outliers import OutlierMode, treat_outliers
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.solver.deadline import NEVER, Deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far one budget's cost can go down, in ``unit``, pinned layers as the budget counts them. ``alone``: with no
    other budget; ``beside``: with all others kept, None where those cannot be kept either. ``figure_alone`` and
    ``figure_beside`` say so in the words of the option (a compression ratio goes up as the size goes down).
    ``proved``: False where time ended before it was known that nothing smaller is reachable."""

    name: str
    option: str
    unit: str
    limit: int
    alone: int
    beside: int | None
    figure_limit: str
    figure_alone: str
    figure_beside: str | None
    proved: bool = True

    @property
    def reachable(self) -> bool:
        """Whether the budget can be met when it is the only one, or may be."""
        return self.alone <= self.limit or not self.proved


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Budgets that no policy meets. ``conflicting``: options of a smallest such set, every one of which is needed for
    the conflict; ``reason``: the search's own sentence. ``forbidden_entries``: outlier entries that are not
    admitted; --outliers repair would."""

    reason: str
    conflicting: tuple[str, ...]
    budgets: tuple[Reach, ...]
    forbidden_entries: int
    format: Literal["limpq.conflict/1"] = field(default="limpq.conflict/1")


def explain_conflict(
    indicators: Indicators,
    budgets: Sequence[Budget],
    *,
    alpha: float = 2.0,
    outliers: OutlierMode = "forbid",
    solve: Solve = search_policy,
    deadline: Deadline = NEVER,
) -> Conflict | None:
    """What is wrong with these budgets; None where a policy meets them all, or where that is not known in time."""
    reason = _refusal(indicators, budgets, alpha, outliers, solve)
    if reason is None:
        return None
    importance = treat_outliers(indicators, outliers)
    program = build_program(indicators, importance, budgets, alpha=alpha)
    reaches = []
    for row, budget in enumerate(budgets):

        def total(cost: int, row: int = row, budget: Budget = budget) -> int:
            return cost * program.steps[row] + pinned_cost(budget.cost, indicators)

        share = deadline.share(1 / (len(budgets) - row))
        least = smallest_alone(program, row, share)
        alone = total(program.least[row] if least.cost is None else least.cost)
        smallest = smallest_beside(program, row, share) if len(budgets) > 1 else least
        beside = None if smallest.cost is None else total(smallest.cost)
        reaches.append(
            Reach(
                name=budget.cost.name,
                option=budget.option,
                unit=budget.cost.unit,
                limit=budget.limit,
                alone=alone,
                beside=beside,
                figure_limit=budget.figure(budget.limit),
                figure_alone=budget.figure(alone),
                figure_beside=None if beside is None else budget.figure(beside),
                proved=least.proved and smallest.proved,
            )
        )
    return Conflict(
        reason=reason,
        conflicting=tuple(
            budget.option for budget in _irreducible(indicators, budgets, reaches, alpha, outliers, solve)
        ),
        budgets=tuple(reaches),
        forbidden_entries=sum(entry.used is None for entry in importance.outliers.entries),
    )


def _irreducible(
    indicators: Indicators,
    budgets: Sequence[Budget],
    reaches: Sequence[Reach],
    alpha: float,
    outliers: OutlierMode,
    solve: Solve,
) -> list[Budget]:
    """A conflict from which no budget can be taken: the first one that cannot be met alone, else budgets are taken
    away one by one while the rest still conflicts (deletion filter, Chinneck and Dravnieks, 1991)."""
    for budget, reach in zip(budgets, reaches, strict=True):
        if not reach.reachable:
            return [budget]
    rest = list(budgets)
    for budget in budgets:
        fewer = [one for one in rest if one is not budget]
        if len(fewer) > 1 and _refusal(indicators, fewer, alpha, outliers, solve) is not None:
            rest = fewer
    return rest


def _refusal(
    indicators: Indicators, budgets: Sequence[Budget], alpha: float, outliers: OutlierMode, solve: Solve
) -> str | None:
    try:
        solve(indicators, budgets, alpha=alpha, outliers=outliers)
    except PolicyNotFound:
        return None
    except InfeasiblePolicy as error:
        return str(error)
    return None
