"""Latency budgets from measured times: lookup by precision, fusion groups, and what a table must cover."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, SettingError
from limpq_deploy.calibration.records import from_json, to_json, write_record
from limpq_deploy.cli import main
from limpq_deploy.costs import budgets_from_options, total_cost, uniform_pairs
from limpq_deploy.export.latency_table import LatencyTable, PartTime
from limpq_deploy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.latency_cost import latency_budget
from limpq_deploy.restrictions import restrict
from limpq_deploy.search import search_policy


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


def test_a_table_survives_json() -> None:
    assert from_json(LatencyTable, to_json(TABLE), "here") == TABLE


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
