"""Budgets that no policy meets: which of them, how far each can go alone and beside the others, and what to say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from limpq_deploy.calibration.errors import InfeasiblePolicy, PolicyNotFound
from limpq_deploy.policy.blocks import build_program
from limpq_deploy.policy.costs import Budget, pinned_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import OutlierMode, OutlierReport, treat_outliers
from limpq_deploy.policy.policy import Solve
from limpq_deploy.policy.solver.deadline import NEVER, Deadline
from limpq_deploy.policy.solver.least_in_row import least_in_row
from limpq_deploy.policy.solver.program import Program
from limpq_deploy.policy.solver.solvers import solve_by

FIGURE_S = 10.0
"""Time for a figure that only says how far a hopeless budget is off."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Smallest:
    """The smallest cost found in one row, in its steps, and whether it is proved that none is smaller; None, proved:
    there is none."""

    cost: int | None
    proved: bool


def unreachable(
    program: Program,
    indicators: Indicators,
    budgets: Sequence[Budget],
    report: OutlierReport,
    *,
    searching: Deadline | None = None,
) -> str | None:
    """A sentence that names every budget which no policy meets, with the smallest reachable figure of each; None where
    each can be met alone. Where layers cost something together (conversions), a search finds out: without ``searching``
    only budgets are named that are missed by far."""
    problems = []
    for row, budget in enumerate(budgets):
        far = program.least[row] > program.limits[row]
        least = Smallest(cost=program.least[row], proved=True)
        if far or searching is not None:
            least = _smallest_alone(program, row, searching or Deadline.within(FIGURE_S))
        if far or (least.proved and least.cost is not None and least.cost > program.limits[row]):
            figure = _told(budget, indicators, program, row, least) or "beyond that"
            problems.append(f"{budget.option} allows {budget.figure(budget.limit)}, and {figure}")
    return f"no policy meets the budget: {'; '.join(problems)}; {_remedy(indicators, report)}" if problems else None


def conflict(
    program: Program,
    indicators: Indicators,
    budgets: Sequence[Budget],
    report: OutlierReport,
    deadline: Deadline = NEVER,
) -> str:
    """Budgets that can be met one by one but not together: how far each would have to go beside the others."""
    options = " and ".join(budget.option for budget in budgets)
    figures = []
    for row, budget in enumerate(budgets):
        share = deadline.share(1 / (len(budgets) - row))
        figure = _told(budget, indicators, program, row, smallest_beside(program, row, share))
        if figure is not None:
            figures.append(f"with the rest kept, {figure.replace(' reachable', f' for {budget.option}', 1)}")
    return f"{options} together: {'; '.join(figures) or 'nor all but one of them'}; {_remedy(indicators, report)}"


def explain_conflict(
    indicators: Indicators,
    budgets: Sequence[Budget],
    *,
    alpha: float = 2.0,
    outliers: OutlierMode = "forbid",
    solve: Solve,
    deadline: Deadline = NEVER,
) -> Conflict | None:
    """What is wrong with these budgets; None where a policy meets them all, or where that is not known in time."""

    def refusal(within: Sequence[Budget]) -> str | None:
        try:
            solve(indicators, within, alpha=alpha, outliers=outliers)
        except PolicyNotFound:
            return None
        except InfeasiblePolicy as error:
            return str(error)
        return None

    reason = refusal(budgets)
    if reason is None:
        return None
    importance = treat_outliers(indicators, outliers)
    program = build_program(indicators, importance, budgets, alpha=alpha)
    reaches = []
    for row, budget in enumerate(budgets):
        share = deadline.share(1 / (len(budgets) - row))
        least = _smallest_alone(program, row, share)
        at_least = program.least[row] if least.cost is None else least.cost
        alone = total_of(budget, indicators, program, row, at_least)
        smallest = smallest_beside(program, row, share) if len(budgets) > 1 else least
        beside = None if smallest.cost is None else total_of(budget, indicators, program, row, smallest.cost)
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
        conflicting=tuple(budget.option for budget in _irreducible(budgets, reaches, refusal)),
        budgets=tuple(reaches),
        forbidden_entries=sum(entry.used is None for entry in importance.outliers.entries),
    )


def _irreducible(
    budgets: Sequence[Budget], reaches: Sequence[Reach], refusal: Callable[[Sequence[Budget]], str | None]
) -> list[Budget]:
    """A conflict from which no budget can be taken: the first one that cannot be met alone, else budgets are taken
    away one by one while the rest still conflicts (deletion filter, Chinneck and Dravnieks, 1991)."""
    for budget, reach in zip(budgets, reaches, strict=True):
        if not reach.reachable:
            return [budget]
    rest = list(budgets)
    for budget in budgets:
        fewer = [one for one in rest if one is not budget]
        if len(fewer) > 1 and refusal(fewer) is not None:
            rest = fewer
    return rest


def smallest_beside(program: Program, row: int, deadline: Deadline) -> Smallest:
    """The least cost in one row among the policies that keep the other rows."""
    return _smallest(program, row, [other for other in range(program.rows) if other != row], deadline)


def _smallest_alone(program: Program, row: int, deadline: Deadline) -> Smallest:
    """The least cost in one row that any policy reaches."""
    if not any(table.row == row for table in program.tables):
        return Smallest(cost=program.least[row], proved=True)
    return _smallest(program, row, [], deadline)


def _smallest(program: Program, row: int, others: Sequence[int], deadline: Deadline) -> Smallest:
    asked, numbers = least_in_row(program, row, others)
    left_s = None if deadline == NEVER else deadline.left_s
    solution = solve_by(asked, "auto", time_limit_s=left_s).solution
    if solution.choice is None:
        return Smallest(cost=None, proved=solution.complete)
    choice = tuple((numbers[asked.places(solution.choice)] - program.start_B1[:-1]).tolist())
    return Smallest(cost=program.costs(choice)[row], proved=solution.complete)


def _told(budget: Budget, indicators: Indicators, program: Program, row: int, smallest: Smallest) -> str | None:
    """``the smallest reachable is 3 MiB``; None without a figure."""
    if smallest.cost is None:
        return None
    figure = budget.figure(total_of(budget, indicators, program, row, smallest.cost))
    end = "largest" if budget.inverse else "smallest"
    return f"the {end} reachable is {figure}" if smallest.proved else f"the {end} reachable found in time is {figure}"


def total_of(budget: Budget, indicators: Indicators, program: Program, row: int, cost: int) -> int:
    """A cost of the program's row in the budget's unit, pinned layers included."""
    return cost * program.steps[row] + pinned_cost(budget.cost, indicators)


def _remedy(indicators: Indicators, report: OutlierReport) -> str:
    """What to change; what keeps layers from smaller bits is named beside it."""
    reasons = []
    forbidden = sum(entry.used is None for entry in report.entries)
    if forbidden:
        entries = "1 outlier entry is" if forbidden == 1 else f"{forbidden} outlier entries are"
        reasons.append(f"{entries} forbidden; --outliers repair admits them")
    restricted = [layer.name for layer in indicators.layers if layer.pairs is not None]
    if restricted:
        shown = ", ".join(restricted[:3]) + (", ..." if len(restricted) > 3 else "")
        what = "1 layer is" if len(restricted) == 1 else f"{len(restricted)} layers are"
        reasons.append(f"{what} restricted by pins, lower bounds or the search space: {shown}")
    return "relax the budget or search smaller bits" + (f" ({'; '.join(reasons)})" if reasons else "")
