"""Our search, CBC and HiGHS on the same programs, and what is said where a solver is missing."""

import sys
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import MissingExtra, SettingError
from limpq_deploy.policy.solver import exact, solvers
from limpq_deploy.policy.solver.milp import Answer, Library, solve_milp
from limpq_deploy.policy.solver.program import Block, Program
from limpq_deploy.policy.solver.relaxation import relax
from limpq_deploy.policy.solver.solvers import Solver, check_solver, solve_by

LIBRARIES: list[Library] = ["cbc", "highs"] if find_spec("highspy") else ["cbc"]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Eight to fourteen blocks of six options, one to three limits, some of which cannot be kept together."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, count = draw(st.integers(1, 3)), draw(st.integers(8, 14))
    blocks = []
    for index in range(count):
        size = rng.integers(1, 1000, (rows, 1))
        cost_MK = size * np.sort(rng.integers(2, 40, (rows, 6)), axis=1)
        value_K = np.sort(rng.exponential(1.0, 6))[::-1].copy()
        bits_KG2 = np.array([[[k, k]] for k in range(6)], np.int16)
        blocks.append(Block(layers=(f"l{index}",), value_K=value_K, cost_MK=cost_MK, bits_KG2=bits_KG2))
    least_M, most_M = (sum(pick(block.cost_MK, axis=1) for block in blocks) for pick in (np.min, np.max))
    share = draw(st.floats(0.02, 0.9))
    return Program.of(blocks, [int(limit) for limit in least_M + share * (most_M - least_M)])


@pytest.mark.parametrize("library", LIBRARIES)
@settings(deadline=None, max_examples=15)
@given(program=programs())
def test_a_library_by_itself_finds_no_better_optimum_than_ours(library: Library, program: Program) -> None:
    relaxation = relax(program)
    own = solve_by(program, "own").solution
    answer = solve_milp(program, relaxation.bound, library)
    assert own.complete
    assert answer.finished
    assert own.choice is not None
    assert answer.choice is not None
    assert program.feasible(own.choice)
    assert program.feasible(answer.choice)
    assert program.value(answer.choice) == pytest.approx(program.value(own.choice), rel=1e-9)


def test_no_solver_has_an_answer_where_there_is_none() -> None:
    cost_MK, bits_KG2 = np.array([[0, 1], [1, 0]]), np.zeros((2, 1, 2), np.int16)
    one = Block(layers=("a",), value_K=np.array([1.0, 2.0]), cost_MK=cost_MK, bits_KG2=bits_KG2)
    program = Program.of([one], [0, 0])
    assert solve_by(program, "own").solution.complete
    for library in LIBRARIES:
        assert solve_milp(program, relax(program).bound, library).choice is None
        assert solve_by(program, library).solution == solve_by(program, "own").solution


def test_a_solver_is_named_in_the_certificate() -> None:
    one = Block(
        layers=("a",), value_K=np.ones(1), cost_MK=np.ones((1, 1), np.int64), bits_KG2=np.zeros((1, 1, 2), np.int16)
    )
    program = Program.of([one], [1])
    assert "exact" in solve_by(program, "auto").name
    assert "CBC through PuLP" in solve_by(program, "cbc").name


def three_limits(seed: int = 3, count: int = 14) -> Program:
    """Blocks of six options under three limits that all bind."""
    rng = np.random.default_rng(seed)
    blocks = []
    for index in range(count):
        cost_MK = rng.integers(1, 1000, (3, 1)) * np.sort(rng.integers(2, 40, (3, 6)), axis=1)
        bits_KG2 = np.array([[[k, k]] for k in range(6)], np.int16)
        value_K = np.sort(rng.exponential(1.0, 6))[::-1].copy()
        blocks.append(Block(layers=(f"l{index}",), value_K=value_K, cost_MK=cost_MK, bits_KG2=bits_KG2))
    least_M, most_M = (sum(pick(block.cost_MK, axis=1) for block in blocks) for pick in (np.min, np.max))
    return Program.of(blocks, [int(limit) for limit in least_M + 0.4 * (most_M - least_M)])


@pytest.mark.parametrize("installed", [True, False])
def test_where_ours_reaches_its_limit_a_library_proves_the_answer_and_the_name_says_so(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of two labels are far too short for a proof of ours."""
    program = three_limits()
    best = solve_by(program, "own").solution.choice
    assert best is not None
    monkeypatch.setattr(exact, "MAX_LABELS", 2)
    monkeypatch.setattr(exact, "FIRST_LABELS", 2)
    monkeypatch.setattr(solvers, "find_spec", lambda name: find_spec(name) if installed else None)
    alone, fallen_back = solve_by(program, "own"), solve_by(program, "auto")
    assert not alone.solution.complete
    assert fallen_back.solution.complete
    assert fallen_back.solution.choice == best
    value = program.value(best)
    assert value * (1 - (2e-9 if installed else 2e-7)) < fallen_back.solution.bound < value
    assert ("HiGHS" if installed else "CBC") in fallen_back.name
    assert "by its own proof" in fallen_back.name


def test_a_library_that_was_stopped_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    program = three_limits()
    monkeypatch.setattr(exact, "MAX_LABELS", 2)
    monkeypatch.setattr(exact, "FIRST_LABELS", 2)
    monkeypatch.setattr(solvers, "solve_milp", lambda *_, **__: Answer(choice=None, finished=False))
    solved = solve_by(program, "auto")
    assert not solved.solution.complete
    assert solved.name == solvers.OWN


def test_a_library_that_is_content_with_less_than_what_is_known_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = three_limits()
    monkeypatch.setattr(exact, "MAX_LABELS", 100)
    monkeypatch.setattr(exact, "FIRST_LABELS", 100)
    monkeypatch.setattr(solvers, "solve_milp", lambda *_, **__: Answer(choice=None, finished=True))
    solved = solve_by(program, "auto")
    assert solved.solution.choice is not None
    assert not solved.solution.complete


def test_a_library_answer_beyond_a_limit_by_less_than_its_tolerance_is_asked_for_again() -> None:
    """Limits of 10^15, which the best two blocks exceed by one step."""
    bits_KG2 = np.array([[[4, 4]], [[2, 2]]], np.int16)
    large = 10**15
    blocks = [
        Block(layers=(name,), value_K=np.array([0.0, value]), cost_MK=np.array([[cost, 0]]), bits_KG2=bits_KG2)
        for name, value, cost in (("a", 4.0, large // 2 + 1), ("b", 2.0, large // 2), ("c", 1.0, large // 2))
    ]
    program = Program.of(blocks, [large])
    for library in LIBRARIES:
        answer = solve_milp(program, relax(program).bound, library)
        assert answer.finished
        assert answer.choice == (0, 1, 1)


@pytest.mark.parametrize("exponent", [-1060, -300, 300, 1010])
@pytest.mark.parametrize("solver", ["auto", "cbc"])
def test_values_of_any_size_give_the_choice_of_values_near_1(exponent: int, solver: Solver) -> None:
    """Values are eighths, so that scaling them is exact even where doubles are sparse."""
    program = three_limits(4, 8)
    program = replace(program, value_N=np.ceil(program.value_N * 8) / 8)
    scaled = replace(program, value_N=np.ldexp(program.value_N, exponent))
    one, other = solve_by(program, solver).solution, solve_by(scaled, solver).solution
    assert one.complete
    assert other.complete
    assert one.choice == other.choice
    assert other.choice is not None
    assert other.bound <= scaled.value(other.choice)


def test_a_search_ends_at_its_time_limit_with_what_it_knows() -> None:
    program = three_limits(count=400)
    started = time.perf_counter()
    stopped = solve_by(program, "own", time_limit_s=0.0).solution
    assert time.perf_counter() - started < 3
    assert not stopped.complete
    full = solve_by(program, "auto").solution
    assert full.complete
    assert full.choice is not None
    assert stopped.bound <= program.value(full.choice)


def test_nothing_is_printed_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints a banner whatever it is told."""
    for library in LIBRARIES:
        solve_milp(three_limits(), 1.0, library)
    assert capfd.readouterr().out == ""


def test_an_unknown_solver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingError, match=r"'gurobi' is not known; expected one of auto, own, cbc, highs"):
        check_solver("gurobi")


def test_a_missing_highspy_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    one = Block(
        layers=("a",), value_K=np.ones(1), cost_MK=np.ones((1, 1), np.int64), bits_KG2=np.zeros((1, 1, 2), np.int16)
    )
    with pytest.raises(MissingExtra, match=r"limpq-deploy\[highs\]"):
        solve_by(Program.of([one], [1]), "highs")
