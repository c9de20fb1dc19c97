"""Budgets that no policy meets: how far each can go, and which ones are to blame."""

import itertools
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.cli.output.search import conflict_table
from limpq_deploy.policy.budgets import compression_budget, like_budget
from limpq_deploy.policy.costs import Budget, LayerShape, total_cost
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.infeasible import Conflict, explain_conflict
from limpq_deploy.policy.search import search_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """A cost that falls with the weight bits, so that it fights with the others."""

    name: str = "waste"
    unit: str = "bits"
    pinned: bool = False

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return layer.num_weights * (8 - weight_bits)


def waste(limit: int) -> Budget:
    return Budget(cost=Waste(), limit=limit, option=f"--waste {limit}", figure_unit="bits", multiplier=Fraction(1))


def model(*sizes: tuple[int, int], weight: tuple[float, float] = (2.0, 1.0)) -> Indicators:
    layers = tuple(
        LayerIndicators(name=f"l{at}", macs=macs, num_weights=count, weight=weight, act=(2.0, 1.0))
        for at, (macs, count) in enumerate(sizes)
    )
    pinned = (PinnedLayer(name="stem", macs=7, num_weights=3, weight_bits=8, act_bits=8),)
    return Indicators(model="small", bits=(2, 4), layers=layers, pinned=pinned)


TWO = model((1000, 10), (1000, 10))


def test_budgets_that_can_be_met_have_no_conflict() -> None:
    assert explain_conflict(TWO, [like_budget(TWO, 2, 2)], solve=search_policy) is None


def test_a_budget_that_cannot_be_met_alone_is_the_whole_conflict() -> None:
    found = explain_conflict(TWO, [like_budget(TWO, 4, 4), compression_budget(TWO, 20)], solve=search_policy)
    assert found is not None
    assert found.conflicting == ("--compression-ratio 20",)
    size = found.budgets[1]
    # 20 weights of 2 bits and 3 of 8: 64 bits instead of 23 * 32
    assert (size.alone, size.beside, size.figure_alone, size.reachable) == (64, 64, "11.5 times smaller", False)
    assert found.budgets[0].beside is None
    text = conflict_table(found)
    assert "--compression-ratio 20 cannot be met, even alone" in text
    assert "beside the others nothing, as they conflict already" in text


def test_budgets_that_conflict_together_tell_how_far_each_would_have_to_go() -> None:
    found = explain_conflict(TWO, [like_budget(TWO, 2, 2), waste(100)], solve=search_policy)
    assert found is not None
    assert found.conflicting == ("--like w2a2", "--waste 100")
    bitops, other = found.budgets
    assert (bitops.alone, bitops.beside, bitops.reachable) == (8000, 12000, True)
    assert (other.alone, other.beside) == (80, 120)
    assert "--like w2a2 and --waste 100 cannot be met together" in conflict_table(found)
    assert from_json(Conflict, to_json(found), "here") == found


def test_a_budget_that_has_no_part_in_the_conflict_is_not_named() -> None:
    found = explain_conflict(
        TWO, [like_budget(TWO, 2, 2), compression_budget(TWO, "1.5"), waste(100)], solve=search_policy
    )
    assert found is not None
    assert found.conflicting == ("--like w2a2", "--waste 100")


def test_forbidden_entries_are_counted_because_they_may_be_the_reason() -> None:
    rising = model((1000, 10), weight=(1.0, 2.0))
    found = explain_conflict(rising, [like_budget(rising, 2, 2)], solve=search_policy)
    assert found is not None
    assert (found.forbidden_entries, found.budgets[0].alone) == (1, 8000)
    assert "1 outlier entry is forbidden" in conflict_table(found)
    assert explain_conflict(rising, [like_budget(rising, 2, 2)], outliers="keep", solve=search_policy) is None


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    like=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    limit=st.integers(0, 60),
)
def test_what_is_reachable_equals_brute_force(sizes: list[tuple[int, int]], like: tuple[int, int], limit: int) -> None:
    indicators = model(*sizes)
    budgets = (like_budget(indicators, *like), waste(limit))
    both = [(weight, act) for weight in indicators.bits for act in indicators.bits]
    names = [layer.name for layer in indicators.layers]
    costs = [
        [total_cost(budget.cost, indicators, dict(zip(names, choice, strict=True))) for budget in budgets]
        for choice in itertools.product(both, repeat=len(names))
    ]
    found = explain_conflict(indicators, budgets, solve=search_policy)
    met = any(cost[0] <= budgets[0].limit and cost[1] <= limit for cost in costs)
    assert (found is None) == met
    if found is None:
        return
    for row, reach in enumerate(found.budgets):
        other = 1 - row
        assert reach.alone == min(cost[row] for cost in costs)
        beside = min((cost[row] for cost in costs if cost[other] <= budgets[other].limit), default=None)
        assert reach.beside == beside
    alone = [reach.option for reach in found.budgets if not reach.reachable]
    expected = alone[:1] or [budget.option for budget in budgets]
    assert list(found.conflicting) == expected
