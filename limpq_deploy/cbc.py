"""The program solved by CBC through PuLP. The only file that knows a solver; imports it when called."""

import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.program import Program
from limpq_deploy.relaxation import Relaxation

SCALE = 1e4
"""Objective that CBC sees, roughly. It compares solutions with absolute tolerances near 1e-5 and would stop on the
runner-up of an objective near 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What CBC said: a choice (one option number per block), not yet checked, or None; ``finished``: CBC calls it
    optimal (or the program infeasible) rather than stopping at the time limit."""

    choice: tuple[int, ...] | None
    finished: bool


def solve_cbc(program: Program, relaxation: Relaxation, *, time_limit_s: float | None = None) -> Answer:
    """Ask CBC for the optimum at gap 0, one thread.

    Rows are divided by their limits; the right-hand side stands half a step above the limit, so that a tolerance
    smaller than half a step changes nothing (the caller checks in integers all the same). Raises MissingExtra where
    PuLP brings no CBC.
    """
    import pulp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of PuLP 4's new names, which PuLP 2.9 does not have
        problem, picks = _model(program, relaxation)
        solver = _cbc(time_limit_s)
    with tempfile.TemporaryDirectory(prefix="limpq-cbc-") as folder:
        solver.tmpDir = folder
        status = problem.solve(solver)
    if status != pulp.LpStatusOptimal:
        return Answer(choice=None, finished=status == pulp.LpStatusInfeasible)
    choice = tuple(max(range(len(row)), key=lambda k, row=row: row[k].value()) for row in picks)  # type: ignore[misc]
    return Answer(choice=choice, finished=problem.sol_status == pulp.LpSolutionOptimal)


def solver_name() -> str:
    """For the policy's certificate."""
    import pulp

    return f"CBC through PuLP {pulp.__version__}"


def _model(program: Program, relaxation: Relaxation) -> tuple[Any, list[list[Any]]]:
    """The PuLP problem, and its binary variables by block and option."""
    import pulp

    floor = sum(block.options[0].value for block in program.blocks)
    scale = SCALE / max(relaxation.bound - floor, 1e-6 * abs(floor), 1e-30)
    problem = pulp.LpProblem("limpq", pulp.LpMinimize)
    picks = [
        [pulp.LpVariable(f"x{b}_{k}", cat=pulp.LpBinary) for k in range(len(block.options))]
        for b, block in enumerate(program.blocks)
    ]
    chosen = [
        (pick, option, block.options[0].value)
        for row, block in zip(picks, program.blocks, strict=True)
        for pick, option in zip(row, block.options, strict=True)
    ]
    problem += pulp.LpAffineExpression([(pick, (option.value - least) * scale) for pick, option, least in chosen])
    for row in picks:
        problem += pulp.LpAffineExpression([(pick, 1) for pick in row]) == 1
    for index, limit in enumerate(program.limits):
        unit = max(limit, 1)
        terms = [(pick, option.costs[index] / unit) for pick, option, _ in chosen if option.costs[index]]
        if terms:
            problem += pulp.LpAffineExpression(terms) <= (limit + 0.5) / unit
    return problem, picks


def _cbc(time_limit_s: float | None) -> Any:
    import pulp

    settings: dict[str, Any] = {"msg": False, "threads": 1, "gapRel": 0, "gapAbs": 0, "timeLimit": time_limit_s}
    settings["options"] = ["preprocess off"]  # on ResNet-50's instances 2 to 10 times faster without
    for kind in (pulp.PULP_CBC_CMD, pulp.COIN_CMD):
        solver = kind(**settings)
        if solver.available():
            return solver
    raise MissingExtra("the CBC solver was not found; `pip install 'pulp>=2.9,<4'` brings one for this machine")
