"""Which solver answers: ours, CBC, HiGHS, or ours with one of them behind it. Every choice is checked in integers."""

import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.policy.solver.deadline import Deadline
from limpq_deploy.policy.solver.exact import Solution, solve
from limpq_deploy.policy.solver.milp import Library, library_name, solve_milp
from limpq_deploy.policy.solver.presolve import Presolved, narrowed, presolve
from limpq_deploy.policy.solver.program import Choice, Program
from limpq_deploy.policy.solver.relaxation import Relaxation, relax

Solver = Literal["auto", "own", "cbc", "highs"]

OWN = "limpq-deploy's exact search"

FIRST_LABELS = 64_000
"""Labels of our search before `auto` asks a library, in programs of up to FEW_BLOCKS blocks: half a second to some
seconds. All of the published network's budgets need fewer."""

FIRST_SHARE = 0.1
"""Share of the time that this may take; a slow machine alone gets near."""

LIBRARY_SHARE = 0.5
"""Share of the time that is left then, for a library that another one can follow; and for our own proof of a library's
answer."""

GOOD_GAP = 1e-4
"""Gap of an unproved answer of ours that is good enough for `auto` in programs of more than FEW_BLOCKS blocks."""

FEW_BLOCKS = 200

LIBRARY_OPTIONS = 20_000
"""Options above which a library is not worth its time where ours has an answer."""

CONFIRM_S, CONFIRM_TIMES = 2.0, 3.0
"""Time for HiGHS to confirm what CBC calls optimal: seconds, and times what CBC took. CBC alone was 1e-8 off once."""

ITS_WORD = ", by its own proof"
"""Behind a library's name where ours has not proved its answer."""

LIBRARY_GAP: dict[Library, float] = {"cbc": 1e-7, "highs": 1e-9}
"""Share of the value by which the bound stands below an optimum that a library alone has proved: CBC was off by more
than its tolerances once."""

SAME = 1e-9
"""Share of the value within which two answers are equally good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A solution and who found it."""

    solution: Solution
    name: str


def check_solver(solver: str) -> None:
    """Raises SettingError for a name that is not a solver's."""
    if solver not in get_args(Solver):
        raise SettingError(f"--solver {solver!r} is not known; expected one of {', '.join(get_args(Solver))}")


def solve_by(program: Program, solver: Solver, *, gap: float = 0.0, time_limit_s: float | None = None) -> Solved:
    """The best choice, checked in exact integers, and whether it is proved.

    ``auto`` is our own search, the fastest here by far (benchmarks/search.py), and the libraries where ours has no
    proof: CBC, and HiGHS, where it is installed, to confirm or to replace what CBC says. A library's choice becomes the
    incumbent of our own search, which proves or replaces it, and breaks ties alike, whoever found it. Where ours cannot
    prove it, the library's own word counts, which is good to its tolerances: the name says so, and the bound stands
    LIBRARY_GAP lower. Ours knows nothing of blocks that cost something together: there ``own`` is as ``auto``.
    ``time_limit_s`` holds for all of it, but for a little grace.
    """
    if program.tables and solver == "own":
        solver = "auto"
    small = presolve(program)
    if small.program is None:
        return Solved(solution=Solution(choice=None, bound=np.inf, complete=True), name=OWN)
    return _back(small, _solved(small.program, solver, gap, Deadline.within(time_limit_s), None))


def _back(small: Presolved, solved: Solved) -> Solved:
    """What was found for a smaller program, in the whole one's numbers."""
    found = solved.solution
    return replace(solved, solution=replace(found, choice=small.back(found.choice), bound=small.value(found.bound)))


def _solved(program: Program, solver: Solver, gap: float, deadline: Deadline, incumbent: Choice | None) -> Solved:
    relaxation = relax(program)
    few = len(program.layers) <= FEW_BLOCKS

    def search(incumbent: Choice | None, deadline: Deadline, most_labels: int | None) -> Solution:
        if program.tables:
            return Solution(choice=incumbent, bound=relaxation.bound, complete=False)
        return solve(program, relaxation, incumbent=incumbent, gap=gap, deadline=deadline, max_labels=most_labels)

    libraries: list[Library] = [] if solver == "own" else ["cbc"] if solver == "auto" else [solver]
    if solver == "auto" and find_spec("highspy"):
        libraries.append("highs")
    part = deadline.share(FIRST_SHARE if few else LIBRARY_SHARE)
    found = search(incumbent, part, FIRST_LABELS if few else None)
    known = Solved(solution=found, name=library_name(libraries[-1]) if program.tables else OWN)
    if (small := narrowed(program, known.solution.choice)) is not None:
        return _within(small, solver, gap, deadline, known)
    if solver in ("auto", "own") and (known.solution.complete or _good_enough(program, known.solution, gap)):
        return known
    took_s = 0.0
    for number, library in enumerate(libraries, start=1):
        started = time.perf_counter()
        part = deadline if number == len(libraries) else deadline.share(LIBRARY_SHARE)
        if known.solution.complete and solver == "auto":  # another library's word, to be confirmed
            part = Deadline(min(deadline.at, started + CONFIRM_S + CONFIRM_TIMES * took_s))
        asked, finished = _asked(program, relaxation, library, part, known)
        took_s = time.perf_counter() - started
        if (small := narrowed(program, asked.solution.choice)) is not None:
            return _within(small, solver, gap, deadline, asked)
        if finished or not known.solution.complete or _better(program, asked, known):
            known = asked
    if known.solution.complete and solver == "auto":
        return known
    part = deadline.share(LIBRARY_SHARE) if known.solution.complete else deadline
    mine = search(known.solution.choice, part, None)
    if mine.complete or not known.solution.complete:
        bound = max(mine.bound, known.solution.bound)
        return replace(known, solution=replace(mine, bound=bound), name=known.name.removesuffix(ITS_WORD))
    return known


def _better(program: Program, asked: Solved, known: Solved) -> bool:
    """Whether an answer is better than one that was called optimal."""
    if asked.solution.choice is None or known.solution.choice is None:
        return asked.solution.choice is not None
    value = program.value(known.solution.choice)
    return program.value(asked.solution.choice) < value - SAME * abs(value)


def _within(small: Presolved, solver: Solver, gap: float, deadline: Deadline, known: Solved) -> Solved:
    """The answer among the options that a choice as good as the known one can take."""
    assert small.program is not None, "the known choice is in it"
    return _back(small, _solved(small.program, solver, gap, deadline, small.there(known.solution.choice)))


def _good_enough(program: Program, mine: Solution, gap: float) -> bool:
    if mine.choice is None:
        return False
    near = max(gap, GOOD_GAP if len(program.layers) > FEW_BLOCKS else 0.0)
    many = len(program.value_N) > LIBRARY_OPTIONS and not program.tables
    return mine.gap(program.value(mine.choice)) <= near or many


def _asked(
    program: Program, relaxation: Relaxation, library: Library, deadline: Deadline, known: Solved
) -> tuple[Solved, bool]:
    """What is known once a library has answered, and whether it proved that. It is asked about the options that a
    choice as good as the known one can take; the better choice stays, where it has none or was stopped."""
    tie, best, bound = relaxation.allowance, known.solution.choice, known.solution.bound
    value = np.inf if best is None else program.value(best)
    kept_N = relaxation.reduced_N <= value - relaxation.bound + 3 * tie
    kept_N[relaxation.base_B] = True  # of every block one
    part = Presolved(whole=program, program=program.only(kept_N), exponent=0, kept=np.flatnonzero(kept_N))
    assert part.program is not None
    answer = solve_milp(part.program, relaxation.bound, library, deadline=deadline)
    choice = part.back(answer.choice)
    theirs = np.inf if choice is None else program.value(choice)
    name = library_name(library)
    agrees = best is None or theirs <= value + SAME * abs(value)
    if theirs < value - tie:
        best, value = choice, theirs
    else:
        name = known.name if not (answer.finished and agrees) else name
    if not (answer.finished and agrees):
        return Solved(solution=Solution(choice=best, bound=bound, complete=False), name=name), False
    if best is not None:
        bound = max(bound, value - LIBRARY_GAP[library] * abs(value))
    return Solved(solution=Solution(choice=best, bound=bound, complete=True), name=name + ITS_WORD), True
