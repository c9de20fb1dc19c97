"""Our exact search against the enumeration of every choice, on small random programs of one to three rows."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from limpq_deploy.policy.solver.exact import solve
from limpq_deploy.policy.solver.program import Block, Choice, Program
from limpq_deploy.policy.solver.relaxation import Relaxation, relax


def block(name: str, options: Sequence[tuple[float, tuple[int, ...], tuple[int, int]]]) -> Block:
    """Options as (value, costs, (weight_bits, act_bits))."""
    return Block(
        layers=(name,),
        value_K=np.array([value for value, _, _ in options]),
        cost_MK=np.array([costs for _, costs, _ in options], np.int64).T,
        bits_KG2=np.array([pair for _, _, pair in options], np.int16)[:, None],
    )


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Values are multiples of 1/8, so their sums are exact, and many are equal."""
    rows = draw(st.integers(1, 3))
    values = st.integers(0, draw(st.sampled_from([1, 5, 30]))).map(lambda value: value / 8)
    costs = st.tuples(*[st.integers(0, draw(st.sampled_from([1, 9, 1000])))] * rows)
    pairs = st.tuples(st.sampled_from([2, 3, 4]), st.sampled_from([2, 3, 4]))
    options = st.lists(st.tuples(values, costs, pairs), min_size=1, max_size=5)
    blocks = [block(f"layer{index}", draw(options)) for index in range(draw(st.integers(1, 5)))]
    most = [max(1, sum(int(one.cost_MK[row].max()) for one in blocks)) for row in range(rows)]
    return Program.of(blocks, [draw(st.integers(0, limit)) for limit in most])


def enumerated(program: Program) -> Choice | None:
    """The best choice by the documented rule, out of all."""

    def rule(choice: Choice) -> tuple[object, ...]:
        pairs = [bits[number, 0].tolist() for bits, number in zip(program.bits, choice, strict=True)]
        bits = [(-min(pair), -pair[0], -pair[1], number) for pair, number in zip(pairs, choice, strict=True)]
        return program.value(choice), program.costs(choice), bits

    choices = itertools.product(*(range(len(options)) for options in program.ranges()))
    return min(filter(program.feasible, choices), key=rule, default=None)


def allowed_below(best: float, relaxation: Relaxation) -> float:
    return best - 10 * relaxation.allowance


@settings(deadline=None, max_examples=300)
@given(program=programs())
def test_the_search_finds_the_best_choice_by_the_documented_rule_or_that_there_is_none(program: Program) -> None:
    relaxation = relax(program)
    solution = solve(program, relaxation)
    best = enumerated(program)
    assert solution.complete
    assert solution.choice == best
    if best is not None:
        value = program.value(best)
        assert relaxation.bound <= value
        assert allowed_below(value, relaxation) <= solution.bound <= value


@settings(deadline=None, max_examples=100)
@given(program=programs(), data=st.data())
def test_an_incumbent_changes_nothing(program: Program, data: st.DataObject) -> None:
    best = enumerated(program)
    assume(best is not None)
    incumbent = tuple(data.draw(st.integers(0, len(options) - 1)) for options in program.ranges())
    assert solve(program, relax(program), incumbent=incumbent).choice == best


@settings(deadline=None, max_examples=200)
@given(program=programs(), labels=st.integers(1, 6))
def test_a_search_cut_short_claims_no_more_than_it_knows(program: Program, labels: int) -> None:
    solution = solve(program, relax(program), max_labels=labels)
    best = enumerated(program)
    if best is None:
        assert solution.choice is None
        return
    assert solution.bound <= program.value(best)
    if solution.choice is not None:
        assert program.feasible(solution.choice)
    if solution.complete:
        assert solution.choice is not None
        assert program.value(solution.choice) == program.value(best)


def test_the_dearest_choice_is_found_where_the_bound_is_nothing() -> None:
    """The allowance is relative to the bound, and vanishes beside the one value that is left."""
    options = [(0.0, (0, 2), (2, 2)), (0.0, (3, 0), (2, 2)), (0.125, (0, 0), (2, 2))]
    program = Program.of([block("only", options)], [2, 1])
    solution = solve(program, relax(program))
    assert solution.choice == (2,)
    assert solution.complete


def test_a_search_cut_short_says_so() -> None:
    options = [(7.0 - k - k * k / 64, (k,), (2, 2)) for k in range(6)]
    program = Program.of([block(str(index), options) for index in range(6)], [13])
    wide, narrow = solve(program, relax(program)), solve(program, relax(program), max_labels=1)
    assert wide.complete
    assert not narrow.complete
    assert narrow.bound <= wide.bound


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_many_equal_optima_are_told_apart_by_the_rule_without_listing_them_all(rows: int) -> None:
    """Eight layers alike, of which either half has 81 choices, and lists of 60: labels of one cost are merged, the
    preferred one kept."""
    options = [
        (value, cost[:rows], pair)
        for value, cost, pair in [(1, (4, 4, 1), (4, 4)), (2, (2, 2, 1), (3, 3)), (3, (1, 1, 3), (2, 4))]
    ]
    program = Program.of([block(str(index), options) for index in range(8)], (21, 21, 14)[:rows])
    solution = solve(program, relax(program), max_labels=60)
    assert solution.complete
    assert solution.choice == enumerated(program)


def test_a_gap_that_is_enough_ends_the_search_with_an_honest_bound() -> None:
    rng = np.random.default_rng(4)
    blocks = [
        block(
            str(index), [(float(5 - k + rng.uniform()), (int(200 * k + rng.integers(100)),), (2, 2)) for k in range(5)]
        )
        for index in range(200)
    ]
    program = Program.of(blocks, [70_000])
    relaxation = relax(program)
    near, best = solve(program, relaxation, gap=1e-2), solve(program, relaxation)
    assert near.choice is not None
    assert best.choice is not None
    assert near.gap(program.value(near.choice)) <= 1e-2
    assert near.bound <= program.value(best.choice) <= program.value(near.choice)


def test_an_optimum_that_uses_the_whole_limit_is_found() -> None:
    """All of the room between the bound (3.867) and the optimum is needed: none of it is slack in the limit."""
    blocks = [
        block(name, [(0.0, (cost,), (2, 2)), (value, (0,), (4, 4))])
        for name, value, cost in (("a", 4.0, 4), ("b", 2.9, 3), ("c", 2.9, 3))
    ]
    program = Program.of(blocks, [6])
    assert solve(program, relax(program)).choice == (1, 0, 0)
