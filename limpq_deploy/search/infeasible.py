"""What to say where no policy meets the budgets: which of them, and how far each would have to go."""

from collections.abc import Sequence

from limpq_deploy.indicators import Indicators
from limpq_deploy.search.costs import Budget, pinned_cost
from limpq_deploy.search.outliers import OutlierReport
from limpq_deploy.solver.program import Program
from limpq_deploy.solver.solvers import solve_by
from limpq_deploy.solver.splits import least_in_row


def unreachable(
    program: Program,
    indicators: Indicators,
    budgets: Sequence[Budget],
    report: OutlierReport,
    *,
    searching: bool = False,
) -> str | None:
    """A sentence that names every budget which no policy meets, with the smallest reachable figure of each; None where
    each can be met alone. Where layers cost something together (conversions), a search finds out: without ``searching``
    only budgets are named that are missed by far."""
    problems = []
    for row, budget in enumerate(budgets):
        far = program.least[row] > program.limits[row]
        least = smallest_alone(program, row) if far or searching else program.least[row]
        if least > program.limits[row]:
            figure = _figure(budget, indicators, least * program.steps[row])
            problems.append(
                f"{budget.option} allows {budget.figure(budget.limit)}, and {_reachable(budget)} reachable is {figure}"
            )
    return f"no policy meets the budget: {'; '.join(problems)}; {_remedy(indicators, report)}" if problems else None


def conflict(program: Program, indicators: Indicators, budgets: Sequence[Budget], report: OutlierReport) -> str:
    """Budgets that can be met one by one but not together: how far each would have to go beside the others."""
    options = " and ".join(budget.option for budget in budgets)
    figures = []
    for row, budget in enumerate(budgets):
        smallest = smallest_beside(program, row)
        if smallest is not None:
            figure = _figure(budget, indicators, smallest * program.steps[row])
            figures.append(f"with the rest kept, {_reachable(budget)} for {budget.option} is {figure}")
    return f"{options} together: {'; '.join(figures) or 'nor all but one of them'}; {_remedy(indicators, report)}"


def smallest_beside(program: Program, row: int) -> int | None:
    """The least cost in one row among the policies that keep the other rows; None where none is found."""
    return _smallest(program, row, [other for other in range(program.rows) if other != row])


def smallest_alone(program: Program, row: int) -> int:
    """The least cost in one row that any policy reaches."""
    if not any(table.row == row for table in program.tables):
        return program.least[row]
    smallest = _smallest(program, row, [])
    assert smallest is not None, "every policy keeps no limit at all"
    return smallest


def _smallest(program: Program, row: int, others: Sequence[int]) -> int | None:
    asked, numbers = least_in_row(program, row, others)
    choice = solve_by(asked, "auto").solution.choice
    if choice is None:
        return None
    return program.costs(tuple((numbers[asked.places(choice)] - program.start_B1[:-1]).tolist()))[row]


def _figure(budget: Budget, indicators: Indicators, searched: int) -> str:
    return budget.figure(searched + pinned_cost(budget.cost, indicators))


def _reachable(budget: Budget) -> str:
    return "the largest" if budget.inverse else "the smallest"


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
