"""Fronts: every point the best within its budget, none dominated, bounds that hold."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import InfeasiblePolicy, SettingError
from limpq_deploy.calibration.records import from_json, load_record, to_json
from limpq_deploy.cli.output.search import front_table
from limpq_deploy.policy.budgets import compression_budget, like_budget
from limpq_deploy.policy.costs import BitOps, Budget, total_cost
from limpq_deploy.policy.front import Front, drop_dominated, parse_range, sweep, uniform_points
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import OutlierMode, treat_outliers
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import search_policy

GOLDEN = Path(__file__).parents[2] / "golden"
PINNED = (PinnedLayer(name="stem", macs=10**9, num_weights=3, weight_bits=8, act_bits=8),)


def model(*layers: LayerIndicators, bits: tuple[int, ...] = (2, 4)) -> Indicators:
    return Indicators(model="small", bits=bits, layers=layers, pinned=PINNED)


def giga_layer(name: str, weight: tuple[float, ...], act: tuple[float, ...], gigamacs: int = 1) -> LayerIndicators:
    return LayerIndicators(name=name, macs=gigamacs * 10**9, num_weights=10, weight=weight, act=act)


TWO = model(giga_layer("a", (3.0, 1.0), (2.0, 1.0)), giga_layer("b", (5.0, 1.0), (4.0, 1.0), 2))


def every_policy(indicators: Indicators, alpha: float = 2.0) -> list[tuple[int, float]]:
    """(BitOps, objective) of every assignment."""
    importance = treat_outliers(indicators, "keep")
    both = [(weight, act) for weight in indicators.bits for act in indicators.bits]
    found = []
    for choice in itertools.product(both, repeat=len(indicators.layers)):
        pairs = dict(zip((layer.name for layer in indicators.layers), choice, strict=True))
        bitops = total_cost(BitOps(pinned=True), indicators, pairs)
        found.append((bitops, objective_of(indicators, importance, pairs, alpha, "this")))
    return found


def test_a_range_is_evenly_spaced_with_both_ends() -> None:
    assert parse_range("20:60:5") == (20.0, 30.0, 40.0, 50.0, 60.0)
    assert parse_range(" 0.1:0.4:4") == (0.1, 0.2, 0.3, 0.4)
    assert parse_range("7:7:1") == (7.0,)
    assert len(parse_range("20:60:50")) == 50


@pytest.mark.parametrize(
    "text",
    [
        *("", "20", "20:60", "20:60:5:1", "a:60:5", "20:60:2.5", "60:20:5", "20:20:3", "0:60:5", "-1:60:5", "1:2:1"),
        *("1:2:0", "1:2:10001", "nan:2:3", "1:inf:3", "1/0:2:3"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--gbitops"):
        parse_range(text)


@given(low=st.decimals("0.000000001", 10**6, places=9), high=st.decimals("0.000000001", 10**6, places=9),
       number=st.integers(2, 60))  # fmt: skip
def test_limits_of_a_range_ascend_between_its_ends(low: object, high: object, number: int) -> None:
    low, high = sorted((low, high), key=float)  # type: ignore[arg-type]
    if low == high:
        return
    limits = parse_range(f"{low}:{high}:{number}")
    assert (limits[0], limits[-1]) == (float(low), float(high))  # type: ignore[arg-type]
    assert all(a < b for a, b in itertools.pairwise(limits))
    assert len(limits) <= number


def test_a_sweep_gives_the_best_policy_of_every_budget() -> None:
    seen: list[tuple[int, int]] = []
    front = sweep(TWO, parse_range("70:115:10"), progress=lambda done, total: seen.append((done, total)))
    everything = every_policy(TWO)
    limits = [budget.gbitops_limit for budget in front.infeasible]
    assert limits == [70.0, 75.0]  # the stem takes 64 G, the rest at least 12 G
    assert "smallest reachable is 76 G BitOps" in front.infeasible[0].reason
    for point in front.points:
        best = min(objective for bitops, objective in everything if bitops <= point.gbitops_limit * 1e9)
        assert point.policy.objective == best
        assert point.policy.costs[0].used == point.bitops <= point.policy.costs[0].limit
        assert point.solver == point.policy.solver
    assert len(front.points) + len(front.infeasible) + len(front.dominated) == 10
    assert seen == [(done, 10) for done in range(1, 11)]


def test_budgets_that_buy_nothing_are_listed_apart() -> None:
    front = sweep(TWO, (112.0, 120.0, 200.0))  # 112 G is everything at 4 bits
    assert [point.gbitops_limit for point in front.points] == [112.0]
    assert [(one.gbitops_limit, one.dominated_by) for one in front.dominated] == [(120.0, 112.0), (200.0, 112.0)]
    assert front.worst_gap is not None
    assert front.worst_gap < 1e-9
    assert "no better than a smaller budget: 120, 200" in front_table(front)


def test_other_budgets_hold_at_every_point_and_bitops_budgets_are_refused() -> None:
    size = compression_budget(TWO, "10")
    front = sweep(TWO, (90.0, 112.0), budgets=[size])
    assert front.others == ("--compression-ratio 10",)
    for point in front.points:
        assert [use.name for use in point.policy.costs] == ["bitops", "size"]
        assert point.policy.costs[1].used <= size.limit
    with pytest.raises(SettingError, match="leave them away"):
        sweep(TWO, (90.0,), budgets=[like_budget(TWO, 4, 4)])


layers = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.tuples(*[st.sampled_from((0.0, 0.5, 1.0, 4.0))] * 2),
        st.tuples(*[st.sampled_from((0.0, 0.5, 2.0, 4.0))] * 2),
    ),
    min_size=1,
    max_size=3,
)


def lazy(indicators: Indicators, budgets: Sequence[Budget], *, alpha: float, outliers: OutlierMode) -> Policy:
    """A real solver that is far from the optimum for every other budget: a third of the budget, and its true bound."""
    best = search_policy(indicators, budgets, alpha=alpha, outliers=outliers)
    if budgets[0].limit % 2 == 0:
        return best
    cut = replace(budgets[0], limit=budgets[0].limit // 3 + 43 * 10**9)
    try:
        found = search_policy(indicators, [cut, *budgets[1:]], alpha=alpha, outliers=outliers)
    except InfeasiblePolicy:
        return best
    assert best.solver is not None
    if total_cost(budgets[0].cost, indicators, found.pairs()) > budgets[0].limit:
        return best
    solver = replace(best.solver, status="feasible", gap=found.objective - best.solver.bound)
    return replace(found, costs=best.costs, solver=solver)


@settings(max_examples=40, deadline=None)
@given(found=layers, limits=st.lists(st.integers(64, 170), min_size=1, max_size=5, unique=True), slow=st.booleans())
def test_points_never_dominate_each_other_and_bounds_hold(
    found: list[tuple[int, tuple[float, float], tuple[float, float]]], limits: list[int], slow: bool
) -> None:
    indicators = model(*(giga_layer(f"l{at}", weight, act, macs) for at, (macs, weight, act) in enumerate(found)))
    gbitops = [limit + (1e-9 if limit % 2 else 0.0) for limit in limits]
    front = sweep(indicators, gbitops, outliers="keep", solve=lazy if slow else search_policy)
    everything = every_policy(indicators)
    for point in front.points:
        best = min(objective for bitops, objective in everything if bitops <= point.gbitops_limit * 1e9 + 1)
        assert point.solver.bound <= best + 1e-9
        assert point.policy.objective >= best - 1e-9
        assert slow or point.policy.objective == pytest.approx(best, abs=1e-9)  # sums in another order
        assert (point.bitops, point.policy.objective) in everything
    for one, other in itertools.pairwise(front.points):
        assert one.bitops < other.bitops
        assert one.policy.objective > other.policy.objective
        assert one.solver.bound >= other.solver.bound
    asked = [one.gbitops_limit for part in (front.points, front.dominated, front.infeasible) for one in part]
    assert sorted(asked) == sorted(gbitops)
    assert from_json(Front, to_json(front), "here") == front


def test_an_answer_serves_every_budget_that_it_meets() -> None:
    """A solver that stops early at 101 G is corrected by what it finds at 100 G, and by the bound at 112 G."""
    front = sweep(TWO, (100.0, 101.0 + 1e-9, 112.0), solve=lazy)
    alone = search_policy(TWO, [replace(like_budget(TWO, 4, 4), cost=BitOps(pinned=True), limit=100 * 10**9)])
    assert front.points[0].policy.objective == alone.objective
    assert front.points[0].gbitops_limit == 100.0
    assert [one.gbitops_limit for one in front.dominated] == [101.000000001]


def test_of_equal_points_the_smaller_limit_stays() -> None:
    (point,) = sweep(TWO, (100.0,)).points
    later = replace(point, gbitops_limit=101.0)
    kept, dominated = drop_dominated([later, point])
    assert kept == (point,)
    assert [one.dominated_by for one in dominated] == [100.0]


def test_uniform_policies_are_priced_by_the_same_definition() -> None:
    points = uniform_points(TWO)
    assert [(one.weight_bits, one.act_bits) for one in points] == [(2, 2), (4, 2), (2, 4), (4, 4)]
    assert (points[-1].bitops, points[-1].objective) == (112 * 10**9, 2 * 2.0 + 2.0)
    small = uniform_points(TWO, budgets=[compression_budget(TWO, "10")])
    assert {one.weight_bits for one in small} == {2}


def test_a_front_of_the_published_indicators_is_convex_enough_to_be_one() -> None:
    indicators = load_record(Indicators, GOLDEN / "resnet50_true_macs.indicators.json")
    front = sweep(indicators, (20.0, 40.0, 100.0))
    assert [budget.gbitops_limit for budget in front.infeasible] == [20.0]
    assert [point.solver.status for point in front.points] == ["optimal", "optimal"]
    for uniform in uniform_points(indicators, outliers="keep"):
        for point in front.points:
            assert not (uniform.bitops <= point.bitops and uniform.objective < point.policy.objective)
    text = front_table(front)
    assert "infeasible at 20 G" in text
    assert "optimal" in text
