"""The program solved by a library, CBC or HiGHS, through PuLP. The only file that knows one; imports it when called."""

import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.foreign_output import stdout_to_stderr
from limpq_deploy.optional_packages import require_modules
from limpq_deploy.policy.solver.deadline import NEVER, Deadline
from limpq_deploy.policy.solver.program import Choice, JointCost, Program

Library = Literal["cbc", "highs"]

SCALE = 1e4
"""Objective that the libraries see, roughly. CBC compares solutions with absolute tolerances near 1e-5 and would stop
on the runner-up of an objective near 1."""


STEEPEST = 1e5
"""Of what the libraries see, no option is worth more than SCALE times this."""

TOLERANCE = 1e-9
"""By which HiGHS may exceed a row, in shares of its limit, and miss an integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a library said: a choice that keeps the limits in exact integers, or None; ``finished``: it calls that
    choice optimal (or the program infeasible) rather than stopping at the time limit."""

    choice: Choice | None
    finished: bool


def solve_milp(program: Program, bound: float, library: Library, *, deadline: Deadline = NEVER) -> Answer:
    """Ask a library for the optimum at gap 0, one thread. ``bound``: any good lower bound; it scales the objective.

    Rows are divided by their limits; the right-hand side stands half a step above the limit, so that a tolerance
    smaller than half a step loses no choice. A choice that exceeds a limit all the same, by less than the tolerance, is
    forbidden, and the library is asked again. Raises MissingExtra where the library is not installed.
    """
    import pulp

    forbidden: list[Choice] = []
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="limpq-milp-") as folder:
        warnings.simplefilter("ignore", DeprecationWarning)  # of PuLP 4's new names, which PuLP 2.9 does not have
        while deadline.left_s > 0:
            left_s = None if deadline == NEVER else deadline.left_s
            solver = _cbc(left_s) if library == "cbc" else _highs(left_s)
            problem, picks = _model(program, bound, forbidden)
            solver.tmpDir = folder
            try:
                with stdout_to_stderr():  # HiGHS has a banner that no option turns off
                    status = problem.solve(solver)
            except pulp.PulpSolverError:  # CBC's process failed: it said nothing
                break
            if status != pulp.LpStatusOptimal:
                return Answer(choice=None, finished=status == pulp.LpStatusInfeasible)
            taken_N = np.array([pick.value() or 0.0 for pick in picks])
            choice = tuple(int(taken_N[options].argmax()) for options in program.slices())
            finished = problem.sol_status == pulp.LpSolutionOptimal
            if program.feasible(choice):
                return Answer(choice=choice, finished=finished)
            if not finished or choice in forbidden:
                break
            forbidden.append(choice)
    return Answer(choice=None, finished=False)


def library_name(library: Library) -> str:
    """For the policy's certificate."""
    import pulp

    return f"{'CBC' if library == 'cbc' else 'HiGHS'} through PuLP {pulp.__version__}"


def _model(program: Program, bound: float, forbidden: Sequence[Choice]) -> tuple[Any, list[Any]]:
    """The PuLP problem without some choices, and its binary variables by flat option number."""
    import pulp

    least_B = np.minimum.reduceat(program.value_N, program.start_B1[:-1])
    floor = float(least_B.sum())
    together = [float(table.cost.max()) for table in program.tables if table.row is None]
    dearest = max([float((program.value_N - least_B[program.block_of]).max()), *together])
    scale = SCALE / max(bound - floor, 1e-6 * abs(floor), dearest / STEEPEST, 1e-300)
    problem = pulp.LpProblem("limpq", pulp.LpMinimize)
    picks = [pulp.LpVariable(f"x{number}", cat=pulp.LpBinary) for number in range(len(program.value_N))]
    prices = ((program.value_N - least_B[program.block_of]) * scale).tolist()
    both, links = _all_taken(program, picks)
    more = [(taken, cost * scale) for table, taken, cost in both if table.row is None]
    problem += pulp.LpAffineExpression([*zip(picks, prices, strict=True), *more])
    for options in program.ranges():
        problem += pulp.LpAffineExpression([(picks[number], 1) for number in options]) == 1
    for expression in links:
        problem += expression == 0
    for row, (cost_N, limit) in enumerate(zip(program.cost_MN, program.limits, strict=True)):
        unit = max(limit, 1)
        terms = [(pick, cost / unit) for pick, cost in zip(picks, cost_N.tolist(), strict=True) if cost]
        terms += [(taken, cost / unit) for table, taken, cost in both if table.row == row and cost]
        if terms:
            problem += pulp.LpAffineExpression(terms) <= (limit + 0.5) / unit
    for choice in forbidden:
        taken = [(picks[number], 1) for number in program.places(choice).tolist()]
        problem += pulp.LpAffineExpression(taken) <= len(taken) - 1
    return problem, picks


def _all_taken(program: Program, picks: list[Any]) -> tuple[list[tuple[JointCost, Any, float]], list[Any]]:
    """For blocks that cost something together and every tuple of their classes, a variable that is 1 where all of it is
    taken, and its cost; and the expressions that must be 0 for that.

        sum of y[.., c, ..] over the other blocks' classes = sum of x over the options of class c

    is as tight as a linear description of one pair can be (Adams and Johnson, 1994); y are integers where x are, and
    need not be declared so. Where a group has several blocks in common with one before it, both say the same of these,
    which makes a chain of groups as tight as one of pairs (Wainwright and Jordan, 2008).
    """
    import pulp

    if not program.tables:
        return [], []
    assert program.class_N is not None
    of_class: dict[tuple[int, int], list[Any]] = {}
    for pick, block, number in zip(picks, program.block_of.tolist(), program.class_N.tolist(), strict=True):
        of_class.setdefault((block, number), []).append(pick)
    taken, links = [], []
    groups: dict[tuple[int, ...], Any] = {}
    for table in program.tables:
        if table.blocks not in groups:
            names = [pulp.LpVariable(f"y{len(groups)}_{at}", lowBound=0) for at in range(table.cost.size)]
            group = np.array(names, dtype=object).reshape(table.cost.shape)
            for axis, block in enumerate(table.blocks):
                for c, some in enumerate(np.moveaxis(group, axis, 0)):
                    links.append(_equal(pulp, some.flat, of_class[block, c]))
            nearest = max(groups, key=lambda blocks: len(set(blocks).intersection(table.blocks)), default=())
            shared = [block for block in table.blocks if block in nearest]
            if len(shared) > 1:
                ends = _by_shared(group, table.blocks, shared), _by_shared(groups[nearest], nearest, shared)
                links += [_equal(pulp, mine, its) for mine, its in zip(*ends, strict=True)]
            groups[table.blocks] = group
        costs = zip(groups[table.blocks].flat, table.cost.flat, strict=True)
        taken += [(table, name, float(cost)) for name, cost in costs]
    return taken, links


def _equal(pulp: Any, some: Iterable[Any], others: Iterable[Any]) -> Any:
    """What must be 0 for two sums of variables to be equal."""
    return pulp.LpAffineExpression([*((name, 1) for name in some), *((name, -1) for name in others)])


def _by_shared(group: Any, blocks: Sequence[int], shared: Sequence[int]) -> Any:
    """The variables of a group by the classes of some of its blocks: a row for every tuple of those."""
    ordered = np.moveaxis(group, [blocks.index(block) for block in shared], range(len(shared)))
    return ordered.reshape(int(np.prod(ordered.shape[: len(shared)])), -1)


def _cbc(time_limit_s: float | None) -> Any:
    import pulp

    settings: dict[str, Any] = {"msg": False, "threads": 1, "gapRel": 0, "gapAbs": 0, "timeLimit": time_limit_s}
    # On ResNet-50's instances 2 to 10 times faster without preprocessing. Its own tolerances: with a primal one of 1e-9
    # it called a policy optimal that was 2e-8 above the optimum.
    settings["options"] = ["preprocess off"]
    for kind in (pulp.PULP_CBC_CMD, pulp.COIN_CMD):
        solver = kind(**settings)
        if solver.available():
            return solver
    raise MissingExtra("the CBC solver was not found; `pip install 'pulp>=2.9,<4'` brings one for this machine")


def _highs(time_limit_s: float | None) -> Any:
    import pulp

    require_modules(["highspy"], "the HiGHS solver")
    tolerances = {"primal_feasibility_tolerance": TOLERANCE, "mip_feasibility_tolerance": TOLERANCE}
    # Where conversions count, most of its time went into restarts: without them ResNet-50's took 0.6 of it.
    settings = {"mip_allow_restart": False, **tolerances}
    return pulp.HiGHS(msg=False, threads=1, gapRel=0, gapAbs=0, timeLimit=time_limit_s, **settings)
