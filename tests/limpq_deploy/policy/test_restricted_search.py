"""The search under restrictions and several kinds of budgets against brute force on small random instances."""

import contextlib
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import InfeasiblePolicy, SettingError
from limpq_deploy.export.timing.table import Conversion, LatencyTable, PartTime
from limpq_deploy.policy.act_costs import ActMemory
from limpq_deploy.policy.budgets import budgets_of, compression_budget, latency_budget, like_budget
from limpq_deploy.policy.costs import Budget, total_cost
from limpq_deploy.policy.indicators import ActMoment, Indicators, LayerEdge, LayerIndicators, PinnedLayer
from limpq_deploy.policy.latency_cost import Latency
from limpq_deploy.policy.outliers import OutlierMode
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.solver.solvers import Solver

Pairs = dict[str, tuple[int, int]]


@st.composite
def restricted_models(draw: st.DrawFn) -> Indicators:
    """Up to four layers with random admitted pairs, ties, shared tensors, equal numbers and zeros."""
    bits = draw(st.sampled_from([(4,), (2, 4), (2, 3, 8)]))
    both = list(itertools.product(bits, bits))
    numbers = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 7.0])
    importances = st.lists(numbers, min_size=len(bits), max_size=len(bits)).map(tuple)
    shared, elements = draw(importances), draw(st.integers(0, 30))
    some_pairs = st.sets(st.sampled_from(both), min_size=1).map(lambda some: tuple(sorted(some)))
    layers = []
    for index in range(draw(st.integers(1, 4))):
        group = draw(st.sampled_from([None, None, "x"]))
        layers.append(
            LayerIndicators(
                name=f"layer{index}",
                macs=draw(st.sampled_from([0, 1, 7, 10, 1_000_003])),
                num_weights=draw(st.sampled_from([0, 1, 9, 100])),
                weight=draw(importances),
                act=shared if group else draw(importances),
                act_group=group,
                act_elements=elements if group else draw(st.integers(0, 30)),
                pairs=draw(st.none() | some_pairs),
                tie=draw(st.sampled_from([None, None, "t", "u"])),
            )
        )
    pinned = (PinnedLayer(name="stem", macs=5, num_weights=3, weight_bits=8, act_bits=8),)
    names = st.sampled_from([layer.name for layer in layers])
    moments = st.builds(
        ActMoment,
        name=st.sampled_from(["m", "n"]),
        fixed_bits=st.integers(0, 40),
        tensors=st.dictionaries(names, st.integers(0, 30)),
    )
    ends = st.permutations(["stem", *(layer.name for layer in layers)]).map(lambda some: (some[0], some[1]))
    edges = [
        LayerEdge(producer=before, consumer=after, elements=draw(st.integers(0, 30)))
        for before, after in draw(st.lists(ends, unique=True, max_size=5))
    ]
    return Indicators(
        model="random",
        bits=bits,
        layers=tuple(layers),
        pinned=pinned,
        moments=tuple(draw(st.lists(moments, min_size=1, max_size=4))),
        edges=tuple(edges),
    )


@st.composite
def tables(draw: st.DrawFn, indicators: Indicators) -> LatencyTable:
    """Every layer at some precisions, and conversions between some of them."""
    times = [
        PartTime(layers=(layer,), weight_bits=weight_bits, act_bits=act_bits, ms=draw(st.integers(0, 9)) / 8)
        for layer in [*(one.name for one in indicators.layers), *(one.name for one in indicators.pinned)]
        for weight_bits, act_bits in draw(st.sampled_from([[(8, 8)], [(4, 4), (8, 8)], [(2, 2), (4, 8), (8, 8)]]))
    ]
    measured = sorted({(time.weight_bits, time.act_bits) for time in times})
    edges = [(None, None), *((edge.producer, edge.consumer) for edge in indicators.edges or ())]
    conversions = {
        (edge, before, after): Conversion(
            before=before,
            after=after,
            ms=draw(st.sampled_from([0.0, 0.125, 0.5, 3.0])),
            ns_per_element=draw(st.sampled_from([0.0, 2500.0])),
            producer=edge[0],
            consumer=edge[1],
        )
        for edge in draw(st.lists(st.sampled_from(edges), max_size=4))
        for before, after in itertools.permutations(measured, 2)
        if draw(st.booleans())
    }
    return LatencyTable(
        model="random", device="none", times=tuple(times), other_ms=0.125, conversions=tuple(conversions.values())
    )


@st.composite
def some_budgets(draw: st.DrawFn, indicators: Indicators) -> tuple[Budget, ...]:
    """One to three kinds of budgets; activation memory brings one for each of some moments."""
    average = st.floats(1, 9)
    table = draw(tables(indicators))
    made = (
        lambda: [like_budget(indicators, draw(st.integers(1, 8)), draw(st.integers(1, 8)))],
        lambda: [compression_budget(indicators, draw(st.sampled_from(["4", "5", "6", "8", "9.5"])))],
        lambda: budgets_of("max_avg_weight_bits", indicators, draw(average)),
        lambda: budgets_of("max_avg_act_bits", indicators, draw(average)),
        lambda: budgets_of("max_act_mib", indicators, draw(st.integers(1, 800)) / 2**23),
        lambda: [latency_budget(indicators, table, draw(st.integers(1, 30)) / 8)],
    )
    kinds = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return tuple(budget for make in kinds for budget in make())


def admissible(indicators: Indicators, pairs: Pairs) -> bool:
    groups: dict[str, int] = {}
    ties: dict[str, tuple[int, int]] = {}
    for layer in indicators.layers:
        pair = pairs[layer.name]
        if layer.pairs is not None and pair not in layer.pairs:
            return False
        if layer.act_group is not None and groups.setdefault(layer.act_group, pair[1]) != pair[1]:
            return False
        if layer.tie is not None and ties.setdefault(layer.tie, pair) != pair:
            return False
    return True


def objective(indicators: Indicators, pairs: Pairs, alpha: float) -> float:
    value = 0.0
    groups = set()
    for layer in indicators.layers:
        weight_bits, act_bits = pairs[layer.name]
        value += alpha * layer.weight[indicators.bits.index(weight_bits)]
        if layer.act_group is None or layer.act_group not in groups:
            value += layer.act[indicators.bits.index(act_bits)]
        groups.add(layer.act_group)
    return value


def peak(indicators: Indicators, pairs: Pairs) -> int:
    """Bits of activations at the worst of all moments."""
    return max(
        moment.fixed_bits + sum(elements * pairs[name][1] for name, elements in moment.tensors.items())
        for moment in indicators.moments or ()
    )


def latency(indicators: Indicators, table: LatencyTable, pairs: Pairs) -> int:
    """Nanoseconds of a policy, straight from the table and the edges."""
    whole = {**pairs, **{layer.name: (layer.weight_bits, layer.act_bits) for layer in indicators.pinned}}
    runs_at, total = {}, table.other_ms
    for name, pair in whole.items():
        held = [
            one
            for one in table.times
            if one.layers == (name,) and one.weight_bits >= pair[0] and one.act_bits >= pair[1]
        ]
        part = min(held, key=lambda one: (one.weight_bits * one.act_bits, one.weight_bits))
        runs_at[name] = (part.weight_bits, part.act_bits)
        total += part.ms
    ns = round(total * 10**6)
    for edge in indicators.edges or ():
        for ends in ((edge.producer, edge.consumer), (None, None)):
            found = [
                one
                for one in table.conversions
                if (one.producer, one.consumer) == ends
                and (one.before, one.after) == (runs_at[edge.producer], runs_at[edge.consumer])
            ]
            if found:
                ns += round(found[0].ms * 10**6 + found[0].ns_per_element * edge.elements)
                break
    return ns


def admissible_policies(indicators: Indicators) -> list[Pairs]:
    """Every assignment that keeps pairs, ties and shared tensors."""
    both = list(itertools.product(indicators.bits, indicators.bits))
    names = [layer.name for layer in indicators.layers]
    everything = (dict(zip(names, some, strict=True)) for some in itertools.product(both, repeat=len(names)))
    return [pairs for pairs in everything if admissible(indicators, pairs)]


def check_against_brute_force(
    indicators: Indicators, budgets: Sequence[Budget], alpha: float, solver: Solver = "auto"
) -> None:
    policies = admissible_policies(indicators)
    limit = next((budget.limit for budget in budgets if isinstance(budget.cost, ActMemory)), None)
    if not policies:
        with pytest.raises(SettingError, match="share bit-widths"):
            search_policy(indicators, budgets, alpha=alpha, outliers="keep")
        return
    values = [
        objective(indicators, pairs, alpha)
        for pairs in policies
        if all(total_cost(budget.cost, indicators, pairs) <= budget.limit for budget in budgets)
        and (limit is None or peak(indicators, pairs) <= limit)
    ]
    if not values:
        with pytest.raises(InfeasiblePolicy, match=r"reachable|with the rest kept|nor all but one"):
            search_policy(indicators, budgets, alpha=alpha, outliers="keep")
        return
    policy = search_policy(indicators, budgets, alpha=alpha, outliers="keep", solver=solver)
    assert policy.objective == pytest.approx(min(values), rel=1e-11, abs=1e-11)  # sums of a few doubles
    assert admissible(indicators, policy.pairs())
    assert limit is None or peak(indicators, policy.pairs()) <= limit
    assert policy.solver is not None
    assert policy.solver.status == "optimal"
    for budget, use in zip(budgets, policy.costs, strict=True):
        assert use.used == total_cost(budget.cost, indicators, policy.pairs()) <= budget.limit == use.limit


@settings(max_examples=150, deadline=None)
@given(data=st.data(), alpha=st.sampled_from([0.0, 1.0, 2.0]))
def test_the_restricted_search_equals_brute_force(data: st.DataObject, alpha: float) -> None:
    indicators = data.draw(restricted_models())
    try:
        budgets = data.draw(some_budgets(indicators))
    except SettingError:  # a latency table asks what layers may take
        budgets = (like_budget(indicators, 4, 4),)
    check_against_brute_force(indicators, budgets, alpha)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), solver=st.sampled_from(["auto", "auto", "auto", "cbc"]))
def test_latency_with_conversions_equals_brute_force(data: st.DataObject, solver: Solver) -> None:
    """One to three other constraints beside, pinned neighbours, ties, shared tensors."""
    indicators = data.draw(restricted_models())
    table = data.draw(tables(indicators))
    try:
        budget = latency_budget(indicators, table, data.draw(st.integers(1, 48)) / 8)
        others = data.draw(
            some_budgets(indicators).filter(lambda some: not any(isinstance(one.cost, Latency) for one in some))
        )
    except SettingError:  # layers that share bit-widths have none in common
        return
    for pairs in admissible_policies(indicators)[:20]:
        assert total_cost(budget.cost, indicators, pairs) == latency(indicators, table, pairs)
    check_against_brute_force(indicators, (budget, *others), 2.0, solver)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_another_solver_ends_there_too(data: st.DataObject) -> None:
    indicators = data.draw(restricted_models())
    budgets = (
        *budgets_of("max_act_mib", indicators, data.draw(st.integers(100, 800)) / 2**23),
        like_budget(indicators, 4, 4),
    )
    check_against_brute_force(indicators, budgets, 2.0, "cbc")


@settings(max_examples=80, deadline=None)
@given(data=st.data(), outliers=st.sampled_from(["forbid", "repair"]))
def test_with_outliers_treated_there_is_an_admitted_policy_or_one_sentence(
    data: st.DataObject, outliers: OutlierMode
) -> None:
    indicators = data.draw(restricted_models())
    policy = None
    with contextlib.suppress(InfeasiblePolicy, SettingError):  # any other error fails
        policy = search_policy(indicators, data.draw(some_budgets(indicators)), outliers=outliers)
    assert policy is None or admissible(indicators, policy.pairs())
