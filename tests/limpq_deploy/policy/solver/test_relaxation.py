"""The Lagrangian bound against SciPy's linear program, on random programs: both relaxations have one value."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from limpq_deploy.policy.solver.program import Block, Program
from limpq_deploy.policy.solver.relaxation import relax


def random_program(seed: int, *, blocks: int, options: int, rows: int, tightness: float = 0.4) -> Program:
    """Values fall as costs rise, with noise; every limit lies between the least and the largest cost."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(blocks):
        cost_MK = rng.integers(1, 1000, (rows, options))
        value_K = rng.uniform(0.5, 2) * (4 - cost_MK.mean(axis=0) / 300 + rng.uniform(0, 1, options))
        bits_KG2 = np.stack([np.arange(options), np.arange(options)], axis=1)[:, None].astype(np.int16)
        made.append(Block(layers=(f"l{index}",), value_K=value_K, cost_MK=cost_MK, bits_KG2=bits_KG2))
    least_M = sum(block.cost_MK.min(axis=1) for block in made)
    most_M = sum(block.cost_MK.max(axis=1) for block in made)
    return Program.of(made, [int(limit) for limit in least_M + tightness * (most_M - least_M)])


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_the_value_of_the_linear_program(rows: int, seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy comes with scikit-learn")
    program = random_program(seed, blocks=20, options=8, rows=rows)
    one_each = (np.arange(20)[:, None] == program.block_of[None]).astype(float)
    linear = optimize.linprog(
        program.value_N, A_ub=program.cost_MN, b_ub=program.limits, A_eq=one_each, b_eq=np.ones(20)
    )
    relaxation = relax(program)
    assert relaxation.bound == pytest.approx(linear.fun, rel=1e-9)
    assert relaxation.bound <= linear.fun + 1e-9
    assert (relaxation.prices_M >= 0).all()
    assert (relaxation.reduced_N >= 0).all()


def test_a_choice_is_worth_the_bound_its_reduced_values_and_what_it_leaves_over() -> None:
    """value = bound + allowance + sum reduced + prices . slack, the identity that the exact search rests on."""
    program = random_program(7, blocks=12, options=6, rows=2)
    relaxation = relax(program)
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = tuple(int(number) for number in rng.integers(0, 6, 12))
        slack_M = np.array(program.limits) - np.array(program.costs(choice))
        worth = relaxation.bound + relaxation.allowance + relaxation.reduced_N[program.places(choice)].sum()
        assert worth + relaxation.prices_M @ slack_M == pytest.approx(program.value(choice), rel=1e-12)


def test_few_iterations_give_a_lower_bound_all_the_same() -> None:
    program = random_program(3, blocks=20, options=8, rows=3)
    bounds = [relax(program, iterations=count).bound for count in (0, 1, 3, 10, 400)]
    assert all(bound <= bounds[-1] + 1e-9 for bound in bounds)
    assert bounds[0] < bounds[-1]


def test_limits_that_nothing_reaches_have_no_price() -> None:
    program = random_program(5, blocks=10, options=5, rows=2, tightness=1.0)
    relaxation = relax(program)
    assert relaxation.prices_M.tolist() == [0.0, 0.0]
    least = np.minimum.reduceat(program.value_N, program.start_B1[:-1]).sum()
    assert relaxation.bound == pytest.approx(least, rel=1e-11)


def test_the_bound_is_no_higher_than_the_exact_one_at_its_prices() -> None:
    """The Lagrangian in rational numbers: sums of doubles alone would exceed it for about half of the programs."""
    for seed in range(20):
        program = random_program(seed, blocks=30, options=6, rows=2)
        relaxation = relax(program)
        prices = [Fraction(price) for price in relaxation.prices_M.tolist()]
        priced = [
            Fraction(value) + sum(price * cost for price, cost in zip(prices, costs, strict=True))
            for value, costs in zip(program.value_N.tolist(), program.cost_MN.T.tolist(), strict=True)
        ]
        starts = program.start_B1.tolist()
        exact = sum(min(priced[begin:end]) for begin, end in itertools.pairwise(starts))
        exact -= sum(price * limit for price, limit in zip(prices, program.limits, strict=True))
        assert Fraction(relaxation.bound) <= exact
        assert relaxation.bound == pytest.approx(float(exact), rel=1e-10)
