"""Policies as tables with one line per layer, and back."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, RecordError, SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.records import from_json, load_record, to_json
from limpq_deploy.policy.budgets import budgets_from_options, like_budget
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.interchange.layer_table import (
    LayerTable,
    TableRow,
    layer_table,
    load_layer_table,
    policy_from_table,
    table_from_csv,
    table_to_csv,
    write_layer_table,
)
from limpq_deploy.policy.policy import LayerBits, Policy

GOLDEN = Path(__file__).parents[3] / "golden"

SMALL = Indicators(
    model="small",
    bits=(2, 4, 8),
    layers=(
        LayerIndicators(name="a", macs=300, num_weights=10, weight=(3.0, 2.0, 1.0), act=(5.0, 4.0, 3.0), act_group="x"),
        LayerIndicators(name="b", macs=100, num_weights=30, weight=(9.0, 1.0, 2.0), act=(5.0, 4.0, 3.0), act_group="x"),
    ),
    pinned=(PinnedLayer(name="stem", macs=50, num_weights=4, weight_bits=8, act_bits=8),),
)
POLICY = Policy(
    bits={"a": LayerBits(weight=4, act=2), "b": LayerBits(weight=2, act=2)},
    objective=2 * (2.0 + 9.0) + 5.0,
    alpha=2.0,
    model="small",
)


def csv_of(*lines: str, header: str = "name,weight_bits,act_bits") -> str:
    return "\n".join((header, *lines, ""))


def test_a_table_holds_bits_sizes_and_shares_of_all_layers() -> None:
    assert table_to_csv(layer_table(POLICY, SMALL)).splitlines() == [
        "name,weight_bits,act_bits,macs,num_weights,bitops_share,pinned",
        "a,4,2,300,10,0.4,no",  # 2400 of 6000 BitOps
        "b,2,2,100,30,0.06666666666666667,no",
        "stem,8,8,50,4,0.5333333333333333,yes",
    ]


FORMATS = Indicators(
    model="formats",
    bits=(8, FP8),
    layers=(
        LayerIndicators(name="a", macs=300, num_weights=10, weight=(1.0, 2.0), act=(1.0, 2.0)),
        LayerIndicators(name="b", macs=100, num_weights=30, weight=(1.0, 2.0), act=(1.0, 2.0)),
    ),
    pinned=(),
)
IN_FP8 = Policy(bits={"a": LayerBits.of((8, 8)), "b": LayerBits.of((FP8, FP8))}, objective=5.0, alpha=1.0)


def test_a_layer_in_fp8_has_8_bits_and_a_format_and_is_read_back(tmp_path: Path) -> None:
    found = layer_table(IN_FP8, FORMATS)
    assert [(row.weight_bits, row.act_bits, row.format) for row in found.layers] == [(8, 8, None), (8, 8, "fp8")]
    assert table_to_csv(found).splitlines() == [
        "name,weight_bits,act_bits,macs,num_weights,bitops_share,pinned,format",
        "a,8,8,300,10,0.75,no,",
        "b,8,8,100,30,0.25,no,fp8",
    ]
    for name in ("table.csv", "table.json"):
        write_layer_table(found, tmp_path / name)
        again = load_layer_table(tmp_path / name)
        assert again.layers == found.layers
        assert policy_from_table(again, FORMATS).pairs() == IN_FP8.pairs()


def test_a_format_that_is_none_or_has_other_bits_is_refused(tmp_path: Path) -> None:
    header = "name,weight_bits,act_bits,format"
    with pytest.raises(RecordError, match="line 2: format is 'fp8' beside 4 and 8 bits; expected nothing, or fp8"):
        table_from_csv(csv_of("a,4,8,fp8", header=header), "t.csv")
    with pytest.raises(RecordError, match="format is 'nvfp4'"):
        table_from_csv(csv_of("a,8,8,nvfp4", header=header), "t.csv")
    path = tmp_path / "t.json"
    row = '{"name": "a", "weight_bits": 4, "act_bits": 8, "format": "fp8"}'
    path.write_text(f'{{"format": "limpq.layer-table/1", "layers": [{row}]}}')
    with pytest.raises(RecordError, match="the format is fp8 and the bits are 4 and 8"):
        load_layer_table(path)


def test_without_indicators_a_table_holds_bits_alone() -> None:
    assert table_to_csv(layer_table(POLICY)).splitlines()[1:] == ["a,4,2,,,,no", "b,2,2,,,,no"]


@pytest.mark.parametrize("name", ["policy.csv", "policy.json", "policy.CSV"])
def test_the_published_policy_survives_a_file_with_its_objective(tmp_path: Path, name: str) -> None:
    indicators = load_record(Indicators, GOLDEN / "resnet50_official_macs.indicators.json")
    published = load_record(Policy, GOLDEN / "resnet50_w3a4_cr12.2.policy.json")
    write_layer_table(layer_table(published, indicators), tmp_path / name)
    budgets = budgets_from_options(indicators, like="w3a4", compression_ratio="12.2")
    found = policy_from_table(load_layer_table(tmp_path / name), indicators, budgets=budgets)
    assert found.bits == published.bits
    assert found.objective == pytest.approx(published.objective, abs=1e-8)  # printed with eight decimals
    assert all(use.used <= use.limit for use in found.costs)


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)
counts = st.none() | st.integers(0, 10**29)
shares = st.none() | st.floats(0, 1)
rows = st.builds(
    TableRow,
    name=names,
    weight_bits=st.integers(1, 32),
    act_bits=st.integers(1, 32),
    macs=counts,
    num_weights=counts,
    bitops_share=shares,
    pinned=st.booleans(),
)
tables = st.lists(rows, min_size=1, max_size=6, unique_by=lambda row: row.name).map(
    lambda found: LayerTable(layers=tuple(found))
)


@given(table=tables)
def test_every_table_survives_csv_and_json(table: LayerTable) -> None:
    assert table_from_csv(table_to_csv(table), "here") == table
    assert from_json(LayerTable, to_json(table), "here") == table


@given(data=st.data())
def test_every_policy_survives_csv(data: st.DataObject) -> None:
    act = data.draw(st.sampled_from(SMALL.bits))
    bits = {layer.name: LayerBits(weight=data.draw(st.sampled_from(SMALL.bits)), act=act) for layer in SMALL.layers}
    csv = table_to_csv(layer_table(replace(POLICY, bits=bits), SMALL))
    assert policy_from_table(table_from_csv(csv, "here"), SMALL, outliers="keep").bits == bits


def test_a_spreadsheets_file_with_a_mark_other_columns_and_other_order_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.csv"
    text = csv_of("2,4,first,a", "2,2,second,b", header="act_bits,weight_bits,remark,name").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert policy_from_table(load_layer_table(path), SMALL).bits == POLICY.bits


def test_objective_and_costs_are_computed_and_not_believed() -> None:
    found = policy_from_table(layer_table(POLICY), SMALL, budgets=[like_budget(SMALL, 4, 4)])
    assert found.objective == POLICY.objective  # the shared activation counted once
    assert [(use.name, use.used, use.limit) for use in found.costs] == [("bitops_searched", 2800, 6400)]
    assert policy_from_table(layer_table(POLICY), SMALL, alpha=0.0).objective == 5.0


def test_a_table_at_widths_that_were_not_learned_is_priced_with_a_marked_estimate() -> None:
    table = table_from_csv(csv_of("a,3,16", "b,16,16"), "here")
    found = policy_from_table(table, SMALL, budgets=[like_budget(SMALL, 16, 16)])
    assert found.costs[0].used == 300 * 3 * 16 + 100 * 16 * 16
    assert found.objective == pytest.approx(2 * 6**0.5)  # 3 bits: between 3 at 2 and 2 at 4; 16 bits cost nothing
    assert found.source["extrapolated"] == {"bits": [3], "from_bits": [2, 4, 8]}
    wide = policy_from_table(table_from_csv(csv_of("a,16,16", "b,16,16"), "here"), SMALL)
    assert (wide.objective, wide.source) == (0.0, None)
    with pytest.raises(SettingError, match="a width of 99 bits makes no sense"):
        policy_from_table(table_from_csv(csv_of("a,99,2", "b,2,2"), "here"), SMALL)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,4,2"], r"here does not fit .*2 searched layers: no entry for 'b'"),
        (["a,4,2", "b,2,2", "c,2,2"], r"unknown 'c'"),
        (["a,9,9", "b,2,2"], r"gives 'a' 9 bits, which nothing here has; FP8 is 8 and 8 bits, and fp8 under format"),
        (["a,4,2", "b,2,4"], r"'a' 2 and 'b' 4 activation bits, but both read the tensor 'x'"),
        (["a,4,2", "b,4,2"], r"'b' 4 weight bits, an outlier entry that the indicators forbid"),
        (["a,4,2", "b,2,2", "stem,4,8"], r"gives 'stem' w4a8; the indicators of 'small' pin it to w8a8"),
    ],
)
def test_a_table_that_does_not_fit_the_model_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        policy_from_table(table_from_csv(csv_of(*lines), "here"), SMALL, origin="here")


def test_other_sizes_than_the_indicators_have_are_refused() -> None:
    table = layer_table(POLICY, replace(SMALL, layers=(replace(SMALL.layers[0], macs=301), SMALL.layers[1])))
    with pytest.raises(ModelError, match=r"301 MACs for layer 'a', the indicators 300"):
        policy_from_table(table, SMALL)


def test_a_table_beyond_the_budget_is_refused() -> None:
    with pytest.raises(InfeasiblePolicy, match=r"takes 0\.0000028 G .*--like w2a2 allows 0\.0000016 G"):
        policy_from_table(layer_table(POLICY), SMALL, budgets=[like_budget(SMALL, 2, 2)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column 'name'"),
        ("layer;weight_bits;act_bits\na;2;2\n", r"no column 'name' \(found 'layer;weight_bits;act_bits'\)"),
        (csv_of(), "lists no layer"),
        (csv_of("a,2"), r"line 2 has another number of cells"),
        (csv_of("a,2,2,2"), r"line 2 has another number of cells"),
        (csv_of("a,2,2", "b,x,2"), r"line 3: weight_bits is 'x'; expected a whole number"),
        (csv_of("a,,2"), r"line 2: layer 'a' has no bits"),
        (csv_of("a,-2,2"), r"weight_bits is '-2'"),
        (csv_of("a,2,2", "a,2,2"), r"layer 'a' twice"),
        (csv_of('"a,2,2'), r"unexpected end of data after line 1; expected closed quotes"),
        (csv_of("a,2,2,nan", header="name,weight_bits,act_bits,bitops_share"), r"bitops_share is 'nan'"),
        (csv_of("a,2,2,perhaps", header="name,weight_bits,act_bits,pinned"), r"pinned is 'perhaps'"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        table_from_csv(text, "here")


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="not UTF-8"):
        load_layer_table(tmp_path / "bad.csv")
    with pytest.raises(RecordError, match="cannot read"):
        load_layer_table(tmp_path / "absent.csv")


def test_a_policy_of_another_model_gives_no_table() -> None:
    with pytest.raises(ModelError, match="'other' is not among the 2 searched layers"):
        layer_table(replace(POLICY, bits={"other": LayerBits(weight=2, act=2)}), SMALL)
