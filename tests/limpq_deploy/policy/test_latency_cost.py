"""Latency budgets from measured times: lookup by precision, fusion groups, and what a table must cover."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, SettingError
from limpq_deploy.calibration.records import from_json, to_json, write_record
from limpq_deploy.cli.main import main
from limpq_deploy.cli.output.search import explanation_table
from limpq_deploy.export.timing.table import Conversion, LatencyTable, PartTime
from limpq_deploy.policy.budgets import budgets_from_options, latency_budget, like_budget
from limpq_deploy.policy.costs import total_cost, uniform_pairs
from limpq_deploy.policy.explain import explain
from limpq_deploy.policy.indicators import Indicators, LayerEdge, LayerIndicators, PinnedLayer
from limpq_deploy.policy.infeasible import explain_conflict
from limpq_deploy.policy.policy import LayerBits
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.search import search_policy


def layer(name: str) -> LayerIndicators:
    return LayerIndicators(name=name, macs=1000, num_weights=10, weight=(4.0, 2.0, 1.0), act=(4.0, 2.0, 1.0))


def part(*layers: str, **ms: float) -> tuple[PartTime, ...]:
    """Times by pair, such as w8a8=0.1."""
    return tuple(
        PartTime(layers=layers, weight_bits=int(pair[1 : pair.index("a")]), act_bits=int(pair.split("a")[1]), ms=time)
        for pair, time in ms.items()
    )


MODEL = Indicators(
    model="small",
    bits=(2, 4, 8),
    layers=(layer("a"), layer("b")),
    pinned=(PinnedLayer(name="stem", macs=5, num_weights=10, weight_bits=8, act_bits=8),),
)
TABLE = LatencyTable(
    model="small",
    device="a device",
    times=(
        *part("stem", w8a8=0.5),
        *part("a", w4a4=0.1, w8a8=0.2),
        *part("b", w4a4=0.3, w4a8=0.35, w8a8=0.4),
    ),
    other_ms=0.25,
)


def test_times_of_all_parts_add_up_in_whole_nanoseconds() -> None:
    budget = latency_budget(MODEL, TABLE, 2)
    assert total_cost(budget.cost, MODEL, uniform_pairs(MODEL, 8, 8)) == 1_350_000
    assert budget.limit == 2_000_000
    assert budget.figure(1_350_000) == "1.35 ms"


def test_a_layer_runs_at_the_narrowest_measured_precision_that_holds_its_bits() -> None:
    cost = latency_budget(MODEL, TABLE, 2).cost
    b = MODEL.layers[1]
    assert [cost.of_layer(b, *pair) for pair in [(2, 2), (4, 4), (2, 8), (8, 2)]] == [
        300_000,
        300_000,
        350_000,
        400_000,
    ]


def test_the_policy_keeps_the_latency_and_takes_the_bits_that_cost_no_time() -> None:
    policy = search_policy(MODEL, [latency_budget(MODEL, TABLE, "1.2")])
    assert policy.pairs() == {"a": (4, 4), "b": (4, 8)}
    assert policy.costs[0].used == 1_200_000


def test_a_latency_out_of_reach_names_the_smallest() -> None:
    with pytest.raises(InfeasiblePolicy, match=r"latency-ms 1 allows 1 ms, and the smallest reachable is 1\.15 ms"):
        search_policy(MODEL, [latency_budget(MODEL, TABLE, 1)])


def test_a_fusion_group_has_one_time_for_its_tied_layers() -> None:
    table = replace(TABLE, times=(*part("stem", w8a8=0.5), *part("a", "b", w4a4=0.1, w8a8=0.4)))
    with pytest.raises(SettingError, match="times a,b together, at one precision; give --tie a,b too"):
        latency_budget(MODEL, table, 1)
    tied = restrict(MODEL, tie=["a,b"])
    policy = search_policy(tied, [latency_budget(tied, table, 1)])
    assert policy.pairs() == {"a": (4, 4), "b": (4, 4)}
    assert policy.costs[0].used == 850_000


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (TABLE.times[1:], "no time for layer 'stem'"),
        ((*TABLE.times, *part("c", w8a8=1.0)), "times layer 'c', which 'small' does not have"),
        (tuple(one for one in TABLE.times if one.layers != ("b",) or one.act_bits < 8), "layer 'b' at w2a8 or wider"),
    ],
)
def test_a_table_that_does_not_cover_the_model_is_told_what_it_lacks(
    times: tuple[PartTime, ...], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        latency_budget(MODEL, replace(TABLE, times=times), 1)


def test_only_precisions_that_a_layer_may_take_must_be_measured() -> None:
    table = replace(TABLE, times=(*part("stem", w8a8=0.5), *part("a", w8a8=0.2), *part("b", w4a4=0.3)))
    restricted = restrict(MODEL, pin=["b=w4a4"])
    assert search_policy(restricted, [latency_budget(restricted, table, 2)]).pairs()["b"] == (4, 4)


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ((*part("a", w8a8=1.0), *part("a", w8a8=2.0)), "a is measured twice at w8a8"),
        (part("a", w8a8=-1.0), "takes -1.0 ms"),
        (part("a", w8a8=float("inf")), "takes inf ms"),
        (part("a", w8a8=float("nan")), "takes nan ms"),
        (part("a", w0a8=1.0), "expected 1 bit or more"),
        (part(w8a8=1.0), "expected one or more different ones"),
        ((*part("a", w8a8=1.0), *part("a", "b", w8a8=1.0)), "'a' stands in two parts"),
    ],
)
def test_a_table_of_nonsense_is_refused(times: tuple[PartTime, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LatencyTable(model="small", device="a device", times=times)


CHAIN = replace(
    MODEL,
    edges=(
        LayerEdge(producer="stem", consumer="a", elements=40),
        LayerEdge(producer="a", consumer="b", elements=1000),
    ),
)
CONVERTED = replace(
    TABLE,
    conversions=(
        Conversion(before=(4, 4), after=(8, 8), ms=0.01, ns_per_element=20),
        Conversion(before=(8, 8), after=(4, 4), ms=0.25),
        Conversion(before=(8, 8), after=(4, 4), ms=0.05, producer="stem", consumer="a"),
    ),
)


def test_neighbours_of_different_precision_pay_for_the_conversion_between_them() -> None:
    budget = latency_budget(CHAIN, CONVERTED, 2)

    def ns(a: tuple[int, int], b: tuple[int, int]) -> int:
        return total_cost(budget.cost, CHAIN, {"a": a, "b": b})

    assert ns((8, 8), (8, 8)) == 1_350_000
    assert ns((4, 4), (8, 8)) == 1_250_000 + 10_000 + 20 * 1000 + 50_000  # the stem runs at 8 bits: an edge of its own
    assert ns((8, 8), (2, 2)) == 1_250_000 + 250_000
    assert ns((4, 4), (2, 2)) == 1_150_000 + 50_000
    assert ns((4, 4), (4, 8)) == 1_200_000 + 50_000  # w4a4 -> w4a8 is not listed


def test_a_conversion_can_change_the_policy() -> None:
    free = search_policy(CHAIN, [latency_budget(CHAIN, TABLE, "1.26")])
    assert free.pairs() == {"a": (8, 8), "b": (4, 4)}
    policy = search_policy(CHAIN, [latency_budget(CHAIN, CONVERTED, "1.26")])
    assert policy.pairs() == {"a": (4, 4), "b": (4, 8)}
    assert policy.costs[0].used == 1_250_000
    assert policy.solver is not None
    assert policy.solver.status == "optimal"


def test_conversions_count_in_what_is_reachable() -> None:
    table = replace(CONVERTED, times=(*TABLE.times[:-3], *part("b", w8a8=0.3)))
    with pytest.raises(
        InfeasiblePolicy, match=r"1\.17 allows 1\.17 ms, and the smallest reachable is 1\.23 ms"
    ) as raised:
        search_policy(CHAIN, [latency_budget(CHAIN, table, "1.17")])
    assert "together" not in str(raised.value)
    conflict = explain_conflict(CHAIN, [latency_budget(CHAIN, table, "1.17")], solve=search_policy)
    assert conflict is not None
    assert conflict.budgets[0].alone == 1_230_000
    assert search_policy(CHAIN, [latency_budget(CHAIN, table, "1.23")]).costs[0].used == 1_230_000


def test_what_is_reachable_is_found_fast_where_many_bits_take_equal_time() -> None:
    """Forty layers of sixteen pairs, of which two precisions tell nearly nothing apart."""
    names = [f"l{at}" for at in range(40)]
    numbers = (4.0, 2.0, 1.0, 0.5)
    layers = tuple(
        LayerIndicators(name=name, macs=100 + at, num_weights=10, weight=numbers, act=numbers)
        for at, name in enumerate(names)
    )
    edges = tuple(LayerEdge(producer=one, consumer=two, elements=1) for one, two in pairwise(names))
    many = Indicators(model="many", bits=(2, 3, 4, 8), layers=layers, edges=edges)
    table = LatencyTable(
        model="many",
        device="a device",
        times=tuple(time for name in names for time in part(name, w4a4=0.1, w8a8=0.2)),
        conversions=(Conversion(before=(4, 4), after=(8, 8), ms=0.05),),
    )
    budgets = [like_budget(many, 4, 4), latency_budget(many, table, "3.9")]
    conflict = explain_conflict(many, budgets, solve=search_policy)
    assert conflict is not None
    assert [(reach.alone, reach.beside) for reach in conflict.budgets][1] == (4_000_000, 4_000_000)


def test_an_explanation_prices_steps_with_their_conversions_and_lists_them() -> None:
    budgets = [latency_budget(CHAIN, CONVERTED, "1.3")]
    policy = replace(
        search_policy(CHAIN, budgets), bits={"a": LayerBits(weight=8, act=8), "b": LayerBits(weight=4, act=4)}
    )
    found = explain(policy, CHAIN, budgets)
    (paid,) = found.handovers
    assert (paid.before, paid.after, paid.used) == ("a", "b", 250_000)
    assert "paid between layers of different precision: a -> b 250,000 ns" in explanation_table(found)
    step = next(one for one in found.steps if (one.layer, one.tensor, one.to_bits) == ("b", "weight", 8))
    assert step.costs == (100_000 - 250_000,)  # b at w8a4 runs at w8a8, as a does


def test_conversions_need_edges_and_only_those_of_the_model() -> None:
    with pytest.raises(ModelError, match="conversions, which need 'edges' in the indicators of 'small'"):
        latency_budget(MODEL, CONVERTED, 1)
    other = replace(CONVERTED, conversions=(Conversion(before=(4, 4), after=(8, 8), ms=1, producer="b", consumer="a"),))
    with pytest.raises(ModelError, match="from 'b' to 'a', which is no edge"):
        latency_budget(CHAIN, other, 1)


@pytest.mark.parametrize(
    ("conversion", "sentence"),
    [
        (Conversion(before=(4, 4), after=(4, 4), ms=1.0), "from w4a4 to w4a4 converts nothing"),
        (Conversion(before=(4, 4), after=(3, 3), ms=1.0), "nothing is measured at w3a3"),
        (Conversion(before=(4, 4), after=(8, 8), ms=-1.0), "takes -1.0 ms and 0.0 ns per element"),
        (Conversion(before=(4, 4), after=(8, 8), ns_per_element=float("nan")), "and nan ns per element"),
        (Conversion(before=(4, 4), after=(8, 8), producer="a"), "names 'a' alone"),
        (CONVERTED.conversions[0], "listed twice for all edges"),
        (CONVERTED.conversions[2], "listed twice for stem -> a"),
    ],
)
def test_a_conversion_of_nonsense_is_refused(conversion: Conversion, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(CONVERTED, conversions=(*CONVERTED.conversions, conversion))


@pytest.mark.parametrize("table", [TABLE, CONVERTED])
def test_a_table_survives_json(table: LatencyTable) -> None:
    assert from_json(LatencyTable, to_json(table), "here") == table


def test_a_table_and_a_limit_need_each_other(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="give --latency-table"):
        budgets_from_options(MODEL, max_latency_ms=1)
    with pytest.raises(SettingError, match="give --max-latency-ms too"):
        budgets_from_options(MODEL, like="w4a4", latency_table=tmp_path / "none.json")


def test_search_reads_the_table_from_its_file(tmp_path: Path) -> None:
    write_record(MODEL, tmp_path / "indicators.json")
    write_record(TABLE, tmp_path / "times.json")
    words = ["search", str(tmp_path / "indicators.json"), "--max-latency-ms", "1.2", "-o", str(tmp_path / "p.json")]
    done = CliRunner().invoke(main, [*words, "--latency-table", str(tmp_path / "times.json")])
    assert done.exit_code == 0, done.output
    assert "latency: 1,200,000 of 1,200,000 ns" in done.output
    refused = CliRunner().invoke(main, [*words, "--latency-table", str(tmp_path / "none.json")])
    assert refused.exit_code == 1
    assert "cannot read" in refused.output
