"""Supported points are optimal for what they take, and none is missing from the hull of all policies."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.records import load_record
from limpq_deploy.policy.budgets import gbitops_budget
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.supported import supported_front

GOLDEN = Path(__file__).parents[2] / "golden"
BITS = (2, 4, 6)


@st.composite
def small_models(draw: st.DrawFn) -> Indicators:
    scale = st.floats(0.01, 4, allow_nan=False)
    layers = [
        LayerIndicators(
            name=f"layer{number}",
            macs=draw(st.integers(1, 50)),
            num_weights=1,
            weight=tuple(sorted((draw(scale) for _ in BITS), reverse=True)),
            act=tuple(sorted((draw(scale) for _ in BITS), reverse=True)),
        )
        for number in range(draw(st.integers(1, 3)))
    ]
    pinned = (PinnedLayer(name="stem", macs=7, num_weights=3, weight_bits=8, act_bits=8),)
    return Indicators(model="small", bits=BITS, layers=tuple(layers), pinned=pinned)


def every_policy(indicators: Indicators) -> list[tuple[int, float]]:
    """(BitOps, objective at alpha 2) of all policies."""
    found = []
    options = list(product(range(len(BITS)), repeat=2))
    for chosen in product(options, repeat=len(indicators.layers)):
        bitops = 7 * 64
        objective = 0.0
        for layer, (weight, act) in zip(indicators.layers, chosen, strict=True):
            bitops += layer.macs * BITS[weight] * BITS[act]
            objective += 2 * layer.weight[weight] + layer.act[act]
        found.append((bitops, objective))
    return found


@settings(deadline=None, max_examples=60)
@given(small_models())
def test_every_vertex_of_the_hull_of_all_policies_is_there_and_every_point_is_optimal(indicators: Indicators) -> None:
    policies = every_policy(indicators)
    front = supported_front(indicators)
    points = [(point.bitops, point.policy.objective) for point in front.points]
    assert points == sorted(points)
    for bitops, objective in points:
        best = min(value for cost, value in policies if cost <= bitops)
        assert objective == pytest.approx(best, rel=1e-9)
    for price in np.geomspace(1e-6, 1e3, 60):
        least = min(value + price * cost for cost, value in policies)
        reached = min(value + price * cost for cost, value in points)
        assert reached == pytest.approx(least, rel=1e-9)


def test_points_of_the_published_indicators_are_what_the_search_finds_for_their_bitops() -> None:
    indicators = load_record(Indicators, GOLDEN / "resnet50_true_macs.indicators.json")
    front = supported_front(indicators)
    assert len(front.points) > 200
    assert front.worst_gap is not None
    assert front.worst_gap < 1e-9
    objectives = [point.policy.objective for point in front.points]
    assert objectives == sorted(objectives, reverse=True)
    for point in front.points[:: len(front.points) // 7]:
        best = search_policy(indicators, [gbitops_budget(indicators, point.gbitops_limit)])
        assert best.objective == pytest.approx(point.policy.objective, rel=1e-9)
        assert point.solver.bound <= best.objective


def test_where_nothing_is_lost_the_gap_is_none() -> None:
    """The widest bits of an importance that starts from them: 0, and a bound that rounding puts below it."""
    layers = tuple(
        LayerIndicators(name=name, macs=macs, num_weights=1, weight=(3.0, 0.3, 0.0), act=(2.0, 0.1, 0.0))
        for name, macs in (("a", 3), ("b", 7), ("c", 11))
    )
    front = supported_front(Indicators(model="small", bits=BITS, layers=layers, pinned=()))
    widest = front.points[-1]
    assert widest.policy.objective == 0.0
    assert (widest.solver.bound, widest.solver.gap) == (0.0, 0.0)
