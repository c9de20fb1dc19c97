"""Bound and proof against the enumeration of every choice, on small random programs of one to three rows."""

import itertools

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from limpq_deploy.pareto import undominated
from limpq_deploy.program import Block, Option, Program
from limpq_deploy.relaxation import ROUNDING, Relaxation, prove, relax


@st.composite
def programs(draw: st.DrawFn) -> Program:
    rows = draw(st.integers(1, 3))
    costs = st.tuples(*[st.integers(0, 9)] * rows)
    blocks = []
    for index in range(draw(st.integers(1, 5))):
        drawn = draw(st.lists(st.tuples(st.integers(0, 30), costs), min_size=1, max_size=5))
        options = [Option(value=value / 8, costs=cost, pairs=((2, 2),)) for value, cost in sorted(drawn)]
        blocks.append(Block(layers=(f"layer{index}",), options=tuple(options)))
    limits = draw(st.tuples(*[st.integers(0, 30)] * rows))
    return Program(blocks=tuple(blocks), limits=limits, steps=(1,) * rows)


def optimum(program: Program) -> float | None:
    """Values are multiples of 1/8: their sums are exact."""
    choices = itertools.product(*(range(len(block.options)) for block in program.blocks))
    return min((value_of(program, choice) for choice in choices if program.feasible(choice)), default=None)


def value_of(program: Program, choice: tuple[int, ...]) -> float:
    return sum(block.options[number].value for block, number in zip(program.blocks, choice, strict=True))


def allowed_below(best: float, relaxation: Relaxation) -> float:
    """The rounding allowance, twice: `prove` may use it for the incumbent and for what it found."""
    return best - 2 * ROUNDING * (best + 1 + float(relaxation.prices_M.sum()))


@settings(deadline=None)
@given(program=programs())
def test_the_lagrangian_bound_is_never_above_the_optimum(program: Program) -> None:
    best = optimum(program)
    assume(best is not None)
    assert best is not None
    assert relax(program).bound <= best


@settings(deadline=None, max_examples=200)
@given(program=programs())
def test_without_an_incumbent_the_proof_finds_the_optimum_or_that_there_is_none(program: Program) -> None:
    relaxation = relax(program)
    proof = prove(program, relaxation, None)
    best = optimum(program)
    assert proof.complete
    if best is None:
        assert proof.better is None
    else:
        assert proof.better is not None
        assert program.feasible(proof.better)
        assert value_of(program, proof.better) == best
        assert allowed_below(best, relaxation) <= proof.bound <= best


@settings(deadline=None, max_examples=200)
@given(program=programs(), extra=st.sampled_from([0.0, 1e-6, 1.0]))
def test_the_proof_betters_a_runner_up_and_confirms_an_optimum(program: Program, extra: float) -> None:
    best = optimum(program)
    assume(best is not None)
    assert best is not None
    relaxation = relax(program)
    proof = prove(program, relaxation, best + extra)
    assert proof.complete
    if extra:
        assert proof.better is not None
        assert value_of(program, proof.better) == best
    else:
        assert proof.better is None
    assert allowed_below(best, relaxation) <= proof.bound <= best


def test_an_optimum_that_uses_the_whole_limit_is_found_from_just_above_it() -> None:
    """All of the room between the bound (3.867) and the incumbent is then needed: none of it is slack in the limit."""
    blocks = tuple(
        Block(
            layers=(name,),
            options=(
                Option(value=0.0, costs=(cost,), pairs=((2, 2),)),
                Option(value=value, costs=(0,), pairs=((4, 4),)),
            ),
        )
        for name, value, cost in (("a", 4.0, 4), ("b", 2.9, 3), ("c", 2.9, 3))
    )
    program = Program(blocks=blocks, limits=(6,), steps=(1,))
    assert prove(program, relax(program), 4.0 + 1e-9).better == (1, 0, 0)


@settings(deadline=None, max_examples=200)
@given(program=programs(), labels=st.integers(1, 3))
def test_a_proof_cut_short_claims_no_more_than_it_knows(program: Program, labels: int) -> None:
    best = optimum(program)
    assume(best is not None)
    assert best is not None
    proof = prove(program, relax(program), best + 1.0, max_labels=labels)
    assert proof.bound <= best
    if proof.complete:
        assert proof.better is not None
        assert value_of(program, proof.better) == best


def test_a_narrow_enumeration_says_that_it_is_incomplete() -> None:
    options = tuple(Option(value=7.0 - k - k * k / 64, costs=(k,), pairs=((2, 2),)) for k in reversed(range(6)))
    program = Program(
        blocks=tuple(Block(layers=(str(i),), options=options) for i in range(6)), limits=(13,), steps=(1,)
    )
    relaxation = relax(program)
    wide, narrow = prove(program, relaxation, None), prove(program, relaxation, None, max_labels=1)
    assert wide.complete
    assert not narrow.complete
    assert relaxation.bound <= narrow.bound < wide.bound


@given(
    points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=12),
    rows=st.integers(1, 3),
)
def test_what_is_dropped_is_matched_by_what_is_kept_and_nothing_kept_is(
    points: list[tuple[int, int, int, int]], rows: int
) -> None:
    cut = [point[: rows + 1] for point in points]
    array = np.array(cut, np.int64).reshape(-1, rows + 1)
    kept = undominated(array[:, 0].astype(float), array[:, 1:]).tolist()

    def matches(a: int, b: int) -> bool:
        return all(x <= y for x, y in zip(cut[a], cut[b], strict=True))

    assert all(any(matches(k, index) for k in kept) for index in range(len(points)))
    assert not any(matches(a, b) for a in kept for b in kept if a != b)
    assert [cut[k][0] for k in kept] == sorted(cut[k][0] for k in kept)
