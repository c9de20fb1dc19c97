"""Which solver answers: ours, CBC, HiGHS, or ours with CBC behind it. All answers are checked and proved alike."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.solver.branch import PairSearch
from limpq_deploy.solver.exact import Solution, solve
from limpq_deploy.solver.milp import Library, library_name, solve_milp
from limpq_deploy.solver.program import Choice, Program
from limpq_deploy.solver.relaxation import Relaxation, relax

Solver = Literal["auto", "own", "cbc", "highs"]

OWN = "limpq-deploy's exact search"

GOOD_GAP = 1e-4
"""Gap of an unproved answer of ours above which `auto` asks CBC too."""

CBC_OPTIONS = 20_000
"""Options above which CBC is not worth its time."""


class Own(Protocol):
    """Our search on one program. ``bound``: no choice has a value below it."""

    @property
    def bound(self) -> float: ...
    def solve(self, *, incumbent: Choice | None = None, gap: float = 0.0) -> Solution: ...


@dataclass(frozen=True, slots=True)
class _Blocks:
    """`exact.solve`, for blocks that cost nothing together."""

    program: Program
    relaxation: Relaxation

    @property
    def bound(self) -> float:
        return self.relaxation.bound

    def solve(self, *, incumbent: Choice | None = None, gap: float = 0.0) -> Solution:
        return solve(self.program, self.relaxation, incumbent=incumbent, gap=gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A solution and who found it."""

    solution: Solution
    name: str


def check_solver(solver: str) -> None:
    """Raises SettingError for a name that is not a solver's."""
    if solver not in get_args(Solver):
        raise SettingError(f"--solver {solver!r} is not known; expected one of {', '.join(get_args(Solver))}")


def solve_by(
    program: Program,
    solver: Solver,
    *,
    gap: float = 0.0,
    time_limit_s: float | None = None,
    relaxation: Relaxation | None = None,
) -> Solved:
    """The best choice, checked in exact integers, with its proof.

    ``auto`` is our own search, the fastest here by far (benchmarks/search.py), and CBC where ours reached its limit far
    from a proof. A library's answer is never taken at its word: it becomes the incumbent of our own search, which
    proves or replaces it; ties between equal optima are so broken alike, whoever found one. ``time_limit_s`` is the
    libraries'.
    """
    if program.tables:
        own_search: Own = PairSearch(program)
    else:
        own_search = _Blocks(program, relaxation or relax(program))
    if solver in ("cbc", "highs"):
        return _proved(program, own_search, solver, gap, time_limit_s)
    own = own_search.solve(gap=gap)
    enough = own.complete or (own.choice is not None and own.gap(program.value(own.choice)) <= max(gap, GOOD_GAP))
    if solver == "own" or enough or len(program.value_N) > CBC_OPTIONS:
        return Solved(solution=own, name=OWN)
    other = _proved(program, own_search, "cbc", gap, time_limit_s)
    if _value(program, other.solution) < _value(program, own) or other.solution.complete:
        return other
    return Solved(solution=own, name=OWN)


def _proved(program: Program, own: Own, library: Library, gap: float, time_limit_s: float | None) -> Solved:
    answer = solve_milp(program, own.bound, library, time_limit_s=time_limit_s)
    solution = own.solve(incumbent=answer.choice, gap=gap)
    word = ", whose word that it is optimal is unproved" if answer.finished and not solution.complete else ""
    return Solved(solution=solution, name=library_name(library) + word)


def _value(program: Program, solution: Solution) -> float:
    return float("inf") if solution.choice is None else program.value(solution.choice)
