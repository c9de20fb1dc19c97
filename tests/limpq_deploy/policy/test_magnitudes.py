"""Numbers of any size: importance from 1e-300 to 1e300, macs beyond 64 bits, zeros and equals, against enumeration."""

import itertools
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, PolicyNotFound, RecordError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.cli.output.tables import policy_table
from limpq_deploy.policy import search as search_module
from limpq_deploy.policy.budgets import compression_budget, gbitops_budget, like_budget
from limpq_deploy.policy.costs import Budget, Pairs, total_cost
from limpq_deploy.policy.explain import explain
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.search import PolicySearch, search_policy
from limpq_deploy.policy.solver.deadline import Deadline
from limpq_deploy.policy.solver.exact import Solution
from limpq_deploy.policy.solver.program import MAX_COST
from limpq_deploy.policy.solver.solvers import Solved, Solver

BITS = (2, 4, 8)

IMPORTANCE = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-310, 1e-300, 1e-12, 1.0, 1e15, 1e300]),
    st.floats(1e-12, 1e15),
)

MACS = st.one_of(st.sampled_from([0, 1, 10**15, 10**15 + 1, 3 * 10**18, 2**63, 10**30]), st.integers(1, 10**15))


@st.composite
def nets(draw: st.DrawFn) -> Indicators:
    layers = []
    for index in range(draw(st.integers(1, 3))):
        weight, act = (
            tuple(sorted(draw(st.lists(IMPORTANCE, min_size=3, max_size=3)), reverse=True)) for _ in range(2)
        )
        layers.append(
            LayerIndicators(name=f"l{index}", macs=draw(MACS), num_weights=draw(MACS), weight=weight, act=act)
        )
    return Indicators(model="any size", bits=BITS, layers=tuple(layers))


def best(indicators: Indicators, budgets: tuple[Budget, ...]) -> Fraction | None:
    """The least exact objective (alpha 2) of all policies within the budgets."""
    names = [layer.name for layer in indicators.layers]
    pairs = list(itertools.product(BITS, BITS))
    policies = (dict(zip(names, choice, strict=True)) for choice in itertools.product(pairs, repeat=len(names)))
    return min((exact(indicators, one) for one in policies if kept(indicators, budgets, one)), default=None)


def kept(indicators: Indicators, budgets: tuple[Budget, ...], pairs: Pairs) -> bool:
    return all(total_cost(budget.cost, indicators, pairs) <= budget.limit for budget in budgets)


def exact(indicators: Indicators, pairs: Pairs) -> Fraction:
    return sum(
        (
            2 * Fraction(layer.weight[BITS.index(pairs[layer.name][0])])
            + Fraction(layer.act[BITS.index(pairs[layer.name][1])])
            for layer in indicators.layers
        ),
        Fraction(0),
    )


@settings(deadline=None, max_examples=60)
@given(indicators=nets(), like=st.tuples(st.integers(1, 8), st.integers(1, 8)), ratio=st.sampled_from([4, 7, 16]))
def test_numbers_of_any_size_give_the_exact_optimum(indicators: Indicators, like: tuple[int, int], ratio: int) -> None:
    budgets = (like_budget(indicators, *like), compression_budget(indicators, ratio))
    least = best(indicators, budgets)
    beyond = any(sum(one.cost.of_layer(layer, 8, 8) for layer in indicators.layers) > MAX_COST for one in budgets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if least is None:
            with pytest.raises(InfeasiblePolicy):
                search_policy(indicators, budgets)
            return
        try:
            policy = search_policy(indicators, budgets)
        except PolicyNotFound:
            assert beyond
            return
    assert kept(indicators, budgets, policy.pairs())
    assert policy.solver is not None
    assert policy.solver.status == "optimal" or beyond  # rounded to units: only what they decide is proved
    tiny = Fraction(1, 10**298)  # values nearer to each other than the least allowance, 1e-300, tie
    found = exact(indicators, policy.pairs())
    if policy.solver.status == "optimal":
        assert found <= least * (1 + Fraction(1, 10**11)) + tiny
    assert Fraction(policy.solver.bound) <= least * (1 + Fraction(1, 10**11)) + tiny
    assert abs(Fraction(policy.objective) - found) <= found * Fraction(1, 10**14) + tiny
    assert policy.solver.bound <= policy.objective


def test_importance_that_adds_up_to_no_double_is_refused() -> None:
    layers = tuple(
        LayerIndicators(name=f"l{at}", macs=1, num_weights=1, weight=(1e308, 1e307), act=(1.0, 0.5)) for at in (0, 1)
    )
    indicators = Indicators(model="huge", bits=(2, 4), layers=layers)
    with pytest.raises(ModelError, match="adds up to more than a double holds; divide all indicators by one number"):
        search_policy(indicators, [like_budget(indicators, 3, 3)])


@pytest.mark.parametrize("entry", ["NaN", "Infinity", "-Infinity", "1e400", "-1.0", "null", '"1"', "1" + "0" * 400])
def test_numbers_that_are_none_are_refused_where_the_file_is_read(entry: str, tmp_path: Path) -> None:
    file = tmp_path / "indicators.json"
    file.write_text(
        '{"format": "limpq.indicators/1", "model": "m", "bits": [2, 4], "layers": [{"name": "a", "macs": 1, '
        f'"num_weights": 1, "weight": [{entry}, 0.5], "act": [1.0, 0.5]}}]}}'
    )
    with pytest.raises(RecordError) as refused:
        load_record(Indicators, file)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def small() -> Indicators:
    layers = tuple(
        LayerIndicators(name=name, macs=10, num_weights=10, weight=weight, act=(2.0, 1.0, 0.5))
        for name, weight in (("a", (3.0, 2.0, 1.0)), ("b", (2.0, 1.5, 1.0)))
    )
    return Indicators(model="small", bits=BITS, layers=layers)


def nothing_found(*_: object, **__: object) -> Solved:
    return Solved(solution=Solution(choice=None, bound=1.0, complete=False), name="stopped")


def test_a_search_that_was_stopped_is_no_worse_than_the_best_uniform_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    indicators = small()
    monkeypatch.setattr(search_module, "solve_by", nothing_found)
    policy = search_policy(indicators, [like_budget(indicators, 4, 4)])
    assert set(policy.pairs().values()) == {(8, 2)}
    assert policy.solver is not None
    assert (policy.solver.status, policy.solver.bound) == ("feasible", 1.0)
    assert policy.objective == 2 * (1 + 1) + 2 + 2


def test_an_unproved_policy_says_so_in_the_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    indicators = small()
    proved = search_policy(indicators, [like_budget(indicators, 4, 4)])
    monkeypatch.setattr(search_module, "solve_by", nothing_found)
    stopped = search_policy(indicators, [like_budget(indicators, 4, 4)])
    assert policy_table(stopped, indicators).splitlines()[0].startswith("not proved optimal: ")
    assert "not proved" not in policy_table(proved, indicators)


def test_a_search_that_was_stopped_without_a_policy_does_not_say_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = small().layers
    layers = (replace(first, pairs=((2, 4),)), replace(second, pairs=((4, 2),)))
    indicators = Indicators(model="no uniform policy", bits=BITS, layers=layers)
    monkeypatch.setattr(search_module, "solve_by", nothing_found)
    with pytest.raises(PolicyNotFound, match="no policy was found in time"):
        search_policy(indicators, [like_budget(indicators, 4, 4)])


def test_an_explanation_without_time_claims_nothing() -> None:
    indicators = small()
    budgets = [like_budget(indicators, 4, 4), compression_budget(indicators, 7)]
    policy = search_policy(indicators, budgets)
    stopped = explain(policy, indicators, budgets, solve=PolicySearch(deadline=Deadline.within(0.0)))
    full = explain(policy, indicators, budgets)
    for hasty, price in zip(stopped.budgets, full.budgets, strict=True):
        assert hasty.proved <= price.proved
        assert hasty.relaxed >= price.relaxed
        assert hasty.without >= price.without


@pytest.mark.parametrize("decades", [3, 12, 60])
@pytest.mark.parametrize("solver", ["auto", "own", "cbc"])
def test_importance_that_falls_by_many_decades_with_a_bit_hides_nothing(decades: int, solver: Solver) -> None:
    """Twelve layers that may all take 8 weight bits beside 2 activation bits, however small what the rest adds is."""
    steps = [10.0 ** (decades * place) for place in (1, 0, -1)]
    layers = tuple(
        LayerIndicators(
            name=f"l{at}",
            macs=1000,
            num_weights=1,
            weight=tuple(step * (1 + at / 100) for step in steps),
            act=(3e-80, 2e-80, 1e-80),
        )
        for at in range(12)
    )
    indicators = Indicators(model="steep", bits=BITS, layers=layers)
    budget = like_budget(indicators, 4, 4)  # w8a2 takes what w4a4 takes
    policy = search_policy(indicators, [budget], solver=solver)
    assert set(policy.pairs().values()) == {(8, 2)}
    assert policy.solver is not None
    assert policy.solver.status == "optimal"
    assert policy.solver.gap < 2e-9
    tighter = replace(budget, limit=budget.limit - 1)  # one layer at w4a2, that of least importance
    second = search_policy(indicators, [tighter], solver=solver).pairs()
    assert second["l0"][0] == 4
    assert all(pair == (8, 2) for name, pair in second.items() if name != "l0")


def test_macs_beyond_64_bits_that_are_alike_are_searched_to_the_end() -> None:
    """Ten layers of 10^30 macs: in units of 2^46, which tell all policies apart."""
    layers = tuple(
        LayerIndicators(name=f"l{at}", macs=10**30, num_weights=1, weight=(3.0 + at, 2.0, 1.0), act=(3.0, 2.0, 1.0))
        for at in range(10)
    )
    large = Indicators(model="large", bits=BITS, layers=layers)
    little = replace(large, layers=tuple(replace(layer, macs=1) for layer in layers))
    found, same = (search_policy(one, [like_budget(one, 4, 5)]) for one in (large, little))
    assert found.pairs() == same.pairs()
    assert found.solver is not None
    assert found.solver.status == "optimal"


def test_a_budget_beyond_every_double_limits_nothing() -> None:
    indicators = small()
    policy = search_policy(indicators, [gbitops_budget(indicators, "1e400")])
    assert set(policy.pairs().values()) == {(8, 8)}
    assert treat_outliers(indicators, "forbid").outliers.entries == ()
