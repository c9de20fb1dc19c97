"""What to say where no policy meets the budgets: which of them, and how far each would have to go."""

from collections.abc import Sequence
from dataclasses import dataclass

from limpq_deploy.policy.costs import Budget, pinned_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import OutlierReport
from limpq_deploy.policy.solver.deadline import NEVER, Deadline
from limpq_deploy.policy.solver.least_in_row import least_in_row
from limpq_deploy.policy.solver.program import Program
from limpq_deploy.policy.solver.solvers import solve_by

FIGURE_S = 10.0
"""Time for a figure that only says how far a hopeless budget is off."""


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
            least = smallest_alone(program, row, searching or Deadline.within(FIGURE_S))
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


def smallest_beside(program: Program, row: int, deadline: Deadline = NEVER) -> Smallest:
    """The least cost in one row among the policies that keep the other rows."""
    return _smallest(program, row, [other for other in range(program.rows) if other != row], deadline)


def smallest_alone(program: Program, row: int, deadline: Deadline = NEVER) -> Smallest:
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
    figure = _figure(budget, indicators, smallest.cost * program.steps[row])
    end = "largest" if budget.inverse else "smallest"
    return f"the {end} reachable is {figure}" if smallest.proved else f"the {end} reachable found in time is {figure}"


def _figure(budget: Budget, indicators: Indicators, searched: int) -> str:
    return budget.figure(searched + pinned_cost(budget.cost, indicators))


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
