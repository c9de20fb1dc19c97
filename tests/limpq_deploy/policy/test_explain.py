"""Prices of bits and budgets, against brute force."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError
from limpq_deploy.calibration.records import from_json, load_record, to_json
from limpq_deploy.cli.output.search import explanation_table
from limpq_deploy.policy.budgets import budgets_from_options, compression_budget, like_budget
from limpq_deploy.policy.costs import Budget, total_cost
from limpq_deploy.policy.explain import Explanation, explain
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.policy.search import search_policy

GOLDEN = Path(__file__).parents[2] / "golden"

SMALL = Indicators(
    model="small",
    bits=(2, 3, 4),
    layers=(
        LayerIndicators(name="a", macs=300, num_weights=10, weight=(4.0, 2.0, 1.0), act=(5.0, 3.0, 2.0), act_group="x"),
        LayerIndicators(name="b", macs=100, num_weights=30, weight=(9.0, 3.0, 3.5), act=(5.0, 3.0, 2.0), act_group="x"),
    ),
    pinned=(PinnedLayer(name="stem", macs=50, num_weights=4, weight_bits=8, act_bits=8),),
)
BUDGETS = (like_budget(SMALL, 3, 3), compression_budget(SMALL, 10))


def policies(indicators: Indicators) -> list[dict[str, tuple[int, int]]]:
    """Every assignment that keeps the ties."""
    both = [(weight, act) for weight in indicators.bits for act in indicators.bits]
    names = [layer.name for layer in indicators.layers]
    found = [dict(zip(names, choice, strict=True)) for choice in itertools.product(both, repeat=len(names))]
    return [pairs for pairs in found if pairs["a"][1] == pairs["b"][1]]


def best(limits: tuple[int | None, ...]) -> float | None:
    """The least objective with these limits on BUDGETS' costs (None: no limit); outliers kept."""
    importance = treat_outliers(SMALL, "keep")
    values = [
        objective_of(SMALL, importance, pairs, 2.0, "this")
        for pairs in policies(SMALL)
        if all(
            limit is None or total_cost(budget.cost, SMALL, pairs) <= limit
            for budget, limit in zip(BUDGETS, limits, strict=True)
        )
    ]
    return min(values, default=None)


def test_prices_of_budgets_are_those_of_brute_force() -> None:
    policy = search_policy(SMALL, BUDGETS, outliers="keep")
    found = explain(policy, SMALL, BUDGETS)
    limits = tuple(budget.limit for budget in BUDGETS)
    assert found.objective == found.best == best(limits)
    for row, price in enumerate(found.budgets):
        nudge = max(1, -(-limits[row] // 100)), max(1, limits[row] // 100)

        def moved(limit: int | None, row: int = row) -> float | None:
            return best(tuple(limit if at == row else one for at, one in enumerate(limits)))

        assert price.relaxed == moved(limits[row] + nudge[0])
        assert price.tightened == moved(limits[row] - nudge[1])
        assert price.without == moved(None)
        assert price.binding == (price.without < found.best)
        assert price.shadow_price == (found.best - price.relaxed) / nudge[0]
        assert price.slack == price.limit - price.used >= 0
        assert price.proved
    assert [price.binding for price in found.budgets] == [True, True]


def test_a_budget_beyond_every_policy_binds_nothing() -> None:
    budgets = (BUDGETS[0], compression_budget(SMALL, "0.001"))
    found = explain(search_policy(SMALL, budgets), SMALL, budgets)
    assert [(price.binding, price.shadow_price) for price in found.budgets][1] == (False, 0.0)


def test_a_budget_that_cannot_be_smaller_says_so() -> None:
    budgets = (like_budget(SMALL, 2, 2),)
    found = explain(search_policy(SMALL, budgets), SMALL, budgets)
    assert found.budgets[0].tightened is None
    assert found.budgets[0].slack == 0
    assert "infeasible" in explanation_table(found)


def test_a_step_tells_what_one_width_more_buys_and_costs() -> None:
    bits = {"a": LayerBits(weight=2, act=3), "b": LayerBits(weight=3, act=3)}
    policy = Policy(bits=bits, objective=17.0, alpha=2.0)
    found = explain(policy, SMALL, BUDGETS, outliers="keep")
    steps = {(step.layer, step.tensor, step.to_bits): step for step in found.steps}
    assert set(steps) == {("a", "weight", 3), ("b", "weight", 2), ("b", "weight", 4), ("a", "act", 2), ("a", "act", 4)}
    more = steps["a", "weight", 3]
    assert (more.objective, more.costs, more.bits) == (-4.0, (300 * 3, 10), 2)
    assert more.price == (-4.0 * BUDGETS[0].limit / 900, -4.0 * BUDGETS[1].limit / 10)
    shared = steps["a", "act", 4]
    assert (shared.layers, shared.objective) == (("a", "b"), -1.0)
    assert shared.costs == (300 * 2 + 100 * 3, 0)
    assert shared.price[1] is None
    assert steps["b", "weight", 4].objective == 1.0  # an outlier: it grows with the bits
    assert "+1" in explanation_table(found)


def test_a_step_to_a_forbidden_outlier_has_no_price() -> None:
    # of (9, 3, 3.5), the 3 stands before something larger
    bits = {"a": LayerBits(weight=2, act=2), "b": LayerBits(weight=2, act=2)}
    found = explain(Policy(bits=bits, objective=31.0, alpha=2.0), SMALL, BUDGETS)
    (step,) = [step for step in found.steps if (step.layer, step.tensor) == ("b", "weight")]
    assert (step.to_bits, step.objective, step.price) == (3, None, (None, None))
    assert "forbidden" in explanation_table(found)


def test_a_policy_that_is_not_the_best_shows_its_improvements() -> None:
    bits = {"a": LayerBits(weight=2, act=2), "b": LayerBits(weight=2, act=2)}
    found = explain(Policy(bits=bits, objective=31.0, alpha=2.0), SMALL, BUDGETS, outliers="keep")
    assert found.best < found.objective == 31.0
    assert found.improvements
    assert all(step.to_bits > step.bits for step in found.improvements)
    changes = [step.objective or 0.0 for step in found.improvements]
    assert changes == sorted(changes)
    first = found.improvements[0]
    said = " ".join(explanation_table(found).split())
    assert f"would lower the objective: {first.layer} {first.tensor}" in said.replace("act.", "act")
    assert "would lower" not in explanation_table(explain(search_policy(SMALL, BUDGETS), SMALL, BUDGETS))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Indicators, tuple[Budget, ...]]:
    scales = st.tuples(*[st.sampled_from((0.0, 0.1, 1.0, 3.0, 8.0))] * 3)
    layers = tuple(
        LayerIndicators(
            name=name, macs=draw(st.integers(0, 9)), num_weights=draw(st.integers(0, 9)), weight=draw(scales),
            act=draw(scales),
        )
        for name in "ab"
    )  # fmt: skip
    indicators = Indicators(model="random", bits=(2, 3, 4), layers=layers)
    budgets: tuple[Budget, ...] = (like_budget(indicators, draw(st.integers(2, 4)), draw(st.integers(2, 4))),)
    if any(layer.num_weights for layer in layers):
        budgets += (compression_budget(indicators, draw(st.sampled_from(("8", "10", "13")))),)
    return indicators, budgets


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_nothing_improves_an_optimum_and_more_of_a_budget_never_hurts(
    case: tuple[Indicators, tuple[Budget, ...]],
) -> None:
    indicators, budgets = case
    try:
        policy = search_policy(indicators, budgets, outliers="keep")
    except InfeasiblePolicy:
        return
    found = explain(policy, indicators, budgets)
    assert all((step.objective or 0.0) > -1e-9 for step in found.improvements)
    assert from_json(Explanation, to_json(found), "here") == found
    for price in found.budgets:
        assert price.without <= price.relaxed <= found.best + 1e-9
        assert price.tightened is None or price.tightened >= found.best - 1e-9
        assert price.shadow_price >= 0


def test_the_published_instance_is_bound_by_both_budgets() -> None:
    indicators = load_record(Indicators, GOLDEN / "resnet50_official_macs.indicators.json")
    budgets = budgets_from_options(indicators, like="w3a4", compression_ratio="12.2")
    published = load_record(Policy, GOLDEN / "resnet50_w3a4_cr12.2.policy.json")
    found = explain(published, indicators, budgets)
    assert [price.binding for price in found.budgets] == [True, True]
    assert all(price.shadow_price > 0 for price in found.budgets)
    assert found.improvements == ()
    assert found.best == pytest.approx(4.61743923, abs=1e-8)  # published with eight decimals


def test_a_policy_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="the policy does not fit"):
        explain(Policy(bits={"z": LayerBits(weight=2, act=2)}, objective=0.0, alpha=2.0), SMALL, BUDGETS)
