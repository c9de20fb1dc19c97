"""Our search, CBC and HiGHS on the same programs, and what is said where a solver is missing."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import MissingExtra, SettingError
from limpq_deploy.solver import exact
from limpq_deploy.solver.milp import Library, solve_milp
from limpq_deploy.solver.program import Block, Program
from limpq_deploy.solver.relaxation import relax
from limpq_deploy.solver.solvers import check_solver, solve_by

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
    own = solve_by(program, "own", relaxation=relaxation).solution
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


def test_where_ours_reaches_its_limit_cbc_is_asked_and_its_word_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fourteen blocks under three limits, and lists of two labels: far too short for a proof."""
    rng = np.random.default_rng(3)
    blocks = []
    for index in range(14):
        cost_MK = rng.integers(1, 1000, (3, 1)) * np.sort(rng.integers(2, 40, (3, 6)), axis=1)
        bits_KG2 = np.array([[[k, k]] for k in range(6)], np.int16)
        value_K = np.sort(rng.exponential(1.0, 6))[::-1].copy()
        blocks.append(Block(layers=(f"l{index}",), value_K=value_K, cost_MK=cost_MK, bits_KG2=bits_KG2))
    least_M, most_M = (sum(pick(block.cost_MK, axis=1) for block in blocks) for pick in (np.min, np.max))
    program = Program.of(blocks, [int(limit) for limit in least_M + 0.4 * (most_M - least_M)])
    best = solve_by(program, "own").solution.choice
    assert best is not None
    monkeypatch.setattr(exact, "MAX_LABELS", 2)
    monkeypatch.setattr(exact, "FIRST_LABELS", 2)
    alone, fallen_back = solve_by(program, "own"), solve_by(program, "auto")
    assert not alone.solution.complete
    assert not fallen_back.solution.complete
    assert fallen_back.solution.choice == best
    assert fallen_back.solution.bound < program.value(best)
    assert "CBC" in fallen_back.name
    assert "unproved" in fallen_back.name


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
