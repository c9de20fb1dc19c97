"""Programs whose blocks cost something together, in pairs and larger groups: what the libraries find, against
enumeration."""

import itertools
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.policy.solver import milp, solvers
from limpq_deploy.policy.solver.least_in_row import least_in_row
from limpq_deploy.policy.solver.milp import Answer, Library, solve_milp
from limpq_deploy.policy.solver.program import Block, Choice, JointCost, Program
from limpq_deploy.policy.solver.relaxation import relax
from limpq_deploy.policy.solver.solvers import Solver, solve_by

LIBRARIES: list[Library] = ["cbc", "highs"] if find_spec("highspy") else ["cbc"]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Values are multiples of 1/8, so their sums are exact and many are equal; up to three rows, in some of which any
    two to four blocks may cost something together."""
    rows, count = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    value = st.integers(0, draw(st.sampled_from([1, 5, 30]))).map(lambda number: number / 8)
    cost = st.integers(0, draw(st.sampled_from([1, 9, 1000])))
    blocks, classes = [], []
    for index in range(count):
        size = draw(st.integers(1, 4))
        class_K = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
        classes.append([sorted(set(class_K)).index(number) for number in class_K])
        blocks.append(
            Block(
                layers=(f"layer{index}",),
                value_K=np.array([draw(value) for _ in range(size)]),
                cost_MK=np.array([[draw(cost) for _ in range(size)] for _ in range(rows)], np.int64),
                bits_KG2=np.array(
                    [[[draw(st.integers(2, 4)), draw(st.integers(2, 4))]] for _ in range(size)], np.int16
                ),
            )
        )
    some = [at for size in range(2, min(count, 4) + 1) for at in itertools.combinations(range(count), size)]
    together = st.tuples(st.integers(0, rows - 1), st.sampled_from(some))
    tables = []
    for row, blocks_of in sorted(draw(st.sets(together, min_size=1, max_size=6))):
        shape = [max(classes[block]) + 1 for block in blocks_of]
        numbers = draw(st.lists(cost, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        tables.append(JointCost(row=row, blocks=blocks_of, cost=np.array(numbers, np.int64).reshape(shape)))
    whole = Program.of(blocks, [0] * rows)
    program = Program(
        layers=whole.layers,
        start_B1=whole.start_B1,
        value_N=whole.value_N,
        cost_MN=whole.cost_MN,
        bits=whole.bits,
        limits=whole.limits,
        steps=whole.steps,
        tables=tuple(tables),
        class_N=np.array([number for some in classes for number in some], np.int64),
    )
    return program.with_limits([draw(st.integers(0, most)) for most in program.most])


def best_value(program: Program) -> float | None:
    """Of all choices that keep the limits."""
    choices = itertools.product(*(range(len(options)) for options in program.ranges()))
    return min((program.value(choice) for choice in choices if program.feasible(choice)), default=None)


def counted_again(program: Program, choice: Choice) -> list[int]:
    """Costs of a choice, straight from the definition."""
    assert program.class_N is not None
    at = [int(start) + number for start, number in zip(program.start_B1, choice, strict=False)]
    costs = [sum(int(program.cost_MN[row, number]) for number in at) for row in range(program.rows)]
    for table in program.tables:
        classes = tuple(program.class_N[at[block]] for block in table.blocks)
        assert table.row is not None
        costs[table.row] += int(table.cost[classes])
    return costs


@pytest.mark.parametrize("installed", [True, False])
@settings(deadline=None, max_examples=20)
@given(program=programs())
def test_the_least_value_is_found_or_that_there_is_no_choice(installed: bool, program: Program) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers, "find_spec", lambda name: find_spec(name) if installed else None)
        solved = solve_by(program, "auto")
    solution, best = solved.solution, best_value(program)
    if not installed and not solution.complete:
        return  # CBC's process fails on some small programs, and says nothing
    assert solution.complete
    if best is None:
        assert solution.choice is None
        return
    assert solution.choice is not None
    assert all(
        used <= limit for used, limit in zip(counted_again(program, solution.choice), program.limits, strict=True)
    )
    assert list(program.costs(solution.choice)) == counted_again(program, solution.choice)
    assert program.value(solution.choice) == best
    assert best - 2e-7 * best - 1e-8 <= solution.bound <= best


def test_one_library_alone_is_believed_less() -> None:
    """CBC was 1e-8 off once."""
    bits_KG2 = np.array([[[2, 2]], [[4, 4]]], np.int16)
    blocks = [
        Block(layers=(name,), value_K=np.array([3.0, 1.0]), cost_MK=np.array([[1, 2]]), bits_KG2=bits_KG2)
        for name in "ab"
    ]
    program = replace(
        Program.of(blocks, [4]),
        tables=(JointCost(row=0, blocks=(0, 1), cost=np.array([[0, 1], [1, 1]])),),
        class_N=np.array([0, 1, 0, 1]),
    )
    for library, gap in solvers.LIBRARY_GAP.items():
        if library in LIBRARIES:
            assert solve_by(program, library).solution.bound == pytest.approx(4 * (1 - gap), rel=1e-12)


def test_a_library_that_was_stopped_leaves_what_was_known(monkeypatch: pytest.MonkeyPatch) -> None:
    program = chain(6)
    monkeypatch.setattr(solvers, "solve_milp", lambda *_, **__: Answer(choice=None, finished=False))
    solved = solve_by(program, "auto")
    assert not solved.solution.complete
    assert solved.solution.choice is None
    assert "through PuLP" in solved.name
    assert "by its own proof" not in solved.name
    monkeypatch.undo()
    choice = solve_by(program, "auto").solution.choice
    assert choice is not None
    assert solved.solution.bound <= program.value(choice)


def chain(count: int) -> Program:
    """Blocks of two options, of which neighbours of unlike ones cost one more."""
    bits_KG2 = np.array([[[2, 2]], [[4, 4]]], np.int16)
    rng = np.random.default_rng(0)
    blocks = [
        Block(
            layers=(f"l{index}",),
            value_K=np.array([1.0 + rng.random(), 0.0]),
            cost_MK=np.array([[1, 3]]),
            bits_KG2=bits_KG2,
        )
        for index in range(count)
    ]
    unlike = np.array([[0, 1], [1, 0]])
    tables = tuple(JointCost(row=0, blocks=(at, at + 1), cost=unlike) for at in range(count - 1))
    whole = Program.of(blocks, [2 * count + 1])
    return replace(whole, tables=tables, class_N=np.tile([0, 1], count))


@pytest.mark.parametrize("library", LIBRARIES)
@settings(deadline=None, max_examples=8)
@given(program=programs())
def test_a_library_finds_the_least_value_by_itself(library: Library, program: Program) -> None:
    best = best_value(program)
    answer = solve_milp(program, relax(program).bound, library)
    if best is None:
        assert answer.choice is None
        return
    if answer.choice is not None:
        assert program.feasible(answer.choice)
        assert program.value(answer.choice) == pytest.approx(best, abs=1e-9)
    else:
        assert not answer.finished  # CBC's process fails on some small programs


def test_what_a_library_calls_infeasible_is_solved_all_the_same() -> None:
    """CBC 2.10 finds nothing here, where options 0 and 1 cost nothing."""
    blocks = [
        np.array([[[2, 2]], [[3, 4]], [[4, 4]], [[4, 4]]], np.int16),
        np.array([[[3, 2]], [[4, 4]]], np.int16),
    ]
    program = Program(
        layers=(("layer0",), ("layer1",)),
        start_B1=np.array([0, 4, 6]),
        value_N=np.array([0.0, 0.0, 0.0, 0.125, 0.125, 0.0]),
        cost_MN=np.array([[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 0]]),
        bits=tuple(blocks),
        limits=(1, 1),
        steps=(1, 1),
        tables=(JointCost(row=1, blocks=(0, 1), cost=np.array([[1, 0], [1, 0]])),),
        class_N=np.array([0, 0, 0, 1, 0, 1]),
    )
    best = best_value(program)
    solvers: list[Solver] = ["own", "auto", *LIBRARIES]
    for solver in solvers:
        solution = solve_by(program, solver).solution
        assert solution.choice is not None
        assert program.feasible(solution.choice)
        assert program.value(solution.choice) == best == 0.0
        assert solution.complete


@settings(deadline=None, max_examples=30)
@given(program=programs(), data=st.data())
def test_the_least_cost_in_a_row_is_found_beside_the_other_rows(program: Program, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, program.rows - 1))
    choices = list(itertools.product(*(range(len(options)) for options in program.ranges())))
    others = [one for one in range(program.rows) if one != row]
    kept = [c for c in map(program.costs, choices) if all(c[one] <= program.limits[one] for one in others)]
    asked, numbers = least_in_row(program, row, others)
    solution = solve_by(asked, "auto").solution
    assert solution.complete
    if not kept:
        assert solution.choice is None
        return
    assert solution.choice is not None
    whole = tuple((numbers[asked.places(solution.choice)] - program.start_B1[:-1]).tolist())
    assert program.costs(whole)[row] == min(costs[row] for costs in kept)


@pytest.mark.parametrize("cost", [1, 10**6, 10**15])
def test_what_only_pairs_cost_is_found_where_blocks_cost_nothing(cost: int) -> None:
    one = np.array([[[2, 2]]], np.int16)
    block = Block(layers=("a",), value_K=np.zeros(1), cost_MK=np.zeros((1, 1), np.int64), bits_KG2=one)
    program = replace(
        Program.of([block, replace(block, layers=("b",))], [0]),
        tables=(JointCost(row=0, blocks=(0, 1), cost=np.array([[cost]])),),
        class_N=np.array([0, 0]),
    )
    asked, _ = least_in_row(program, 0, [])
    solution = solve_by(asked, "auto").solution
    assert solution.choice == (0, 0)
    assert solution.complete


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_chain_of_overlapping_groups_is_as_tight_as_one_of_pairs(library: Library) -> None:
    """What two groups say of the blocks that both hold is the same in every fraction too, so that the description has
    no other corners than choices."""
    import pulp

    program = groups_of_four(14)
    problem, picks = milp._model(program, relax(program).bound, [])
    for pick in picks:
        pick.cat = pulp.LpContinuous
        pick.bounds(0, 1)
    problem.solve(milp._cbc(10.0) if library == "cbc" else milp._highs(10.0))
    assert all(min(pick.value(), 1 - pick.value()) < 1e-6 for pick in picks)


def groups_of_four(count: int) -> Program:
    """Blocks of two options, of which any four neighbours are worth something together; a row that never binds."""
    rng = np.random.default_rng(0)
    bits_KG2 = np.array([[[2, 2]], [[4, 4]]], np.int16)
    blocks = [
        Block(layers=(f"l{at}",), value_K=rng.random(2), cost_MK=np.array([[1, 3]]), bits_KG2=bits_KG2)
        for at in range(count)
    ]
    tables = tuple(
        JointCost(row=None, blocks=tuple(range(at, at + 4)), cost=rng.random((2, 2, 2, 2))) for at in range(count - 3)
    )
    return replace(Program.of(blocks, [9 * count]), tables=tables, class_N=np.tile([0, 1], count))
