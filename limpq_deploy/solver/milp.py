"""The program solved by a library, CBC or HiGHS, through PuLP. The only file that knows one; imports it when called."""

import tempfile
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.extras import require_modules
from limpq_deploy.solver.program import Choice, Program
from limpq_deploy.solver.relaxation import Relaxation

Library = Literal["cbc", "highs"]

SCALE = 1e4
"""Objective that the libraries see, roughly. CBC compares solutions with absolute tolerances near 1e-5 and would stop
on the runner-up of an objective near 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a library said: a choice, not yet checked, or None; ``finished``: it calls that choice optimal (or the
    program infeasible) rather than stopping at the time limit."""

    choice: Choice | None
    finished: bool


def solve_milp(
    program: Program, relaxation: Relaxation, library: Library, *, time_limit_s: float | None = None
) -> Answer:
    """Ask a library for the optimum at gap 0, one thread.

    Rows are divided by their limits; the right-hand side stands half a step above the limit, so that a tolerance
    smaller than half a step changes nothing (the caller checks in integers all the same). Raises MissingExtra where
    the library is not installed.
    """
    import pulp

    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="limpq-milp-") as folder:
        warnings.simplefilter("ignore", DeprecationWarning)  # of PuLP 4's new names, which PuLP 2.9 does not have
        solver = _cbc(time_limit_s) if library == "cbc" else _highs(time_limit_s)
        problem, picks = _model(program, relaxation)
        solver.tmpDir = folder
        try:
            status = problem.solve(solver)
        except pulp.PulpSolverError:  # CBC's process failed: it said nothing
            return Answer(choice=None, finished=False)
    if status != pulp.LpStatusOptimal:
        return Answer(choice=None, finished=status == pulp.LpStatusInfeasible)
    taken_N = np.array([pick.value() or 0.0 for pick in picks])
    choice = tuple(int(taken_N[options].argmax()) for options in map(_slice, program.ranges()))
    return Answer(choice=choice, finished=problem.sol_status == pulp.LpSolutionOptimal)


def library_name(library: Library) -> str:
    """For the policy's certificate."""
    import pulp

    return f"{'CBC' if library == 'cbc' else 'HiGHS'} through PuLP {pulp.__version__}"


def _slice(options: range) -> slice:
    return slice(options.start, options.stop)


def _model(program: Program, relaxation: Relaxation) -> tuple[Any, list[Any]]:
    """The PuLP problem, and its binary variables by flat option number."""
    import pulp

    least_B = np.minimum.reduceat(program.value_N, program.start_B1[:-1])
    floor = float(least_B.sum())
    scale = SCALE / max(relaxation.bound - floor, 1e-6 * abs(floor), 1e-30)
    problem = pulp.LpProblem("limpq", pulp.LpMinimize)
    picks = [pulp.LpVariable(f"x{number}", cat=pulp.LpBinary) for number in range(len(program.value_N))]
    prices = ((program.value_N - least_B[program.block_of]) * scale).tolist()
    problem += pulp.LpAffineExpression(zip(picks, prices, strict=True))
    for options in program.ranges():
        problem += pulp.LpAffineExpression([(picks[number], 1) for number in options]) == 1
    for cost_N, limit in zip(program.cost_MN, program.limits, strict=True):
        unit = max(limit, 1)
        terms = [(pick, cost / unit) for pick, cost in zip(picks, cost_N.tolist(), strict=True) if cost]
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


def _highs(time_limit_s: float | None) -> Any:
    import pulp

    require_modules(["highspy"], "the HiGHS solver")
    return pulp.HiGHS(msg=False, threads=1, gapRel=0, gapAbs=0, timeLimit=time_limit_s)
