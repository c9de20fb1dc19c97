"""Formats beside bit-widths in policies: records, costs, and a search that chooses between int8, FP8 and FP16."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from limpq_deploy.api.policies import search
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8, bits_of, pair_name
from limpq_deploy.calibration.records import from_json, load_record, to_json, write_record
from limpq_deploy.cli.output.search import layer_table_lines
from limpq_deploy.policy.budgets import budgets_from_options, uniform_policy_within
from limpq_deploy.policy.costs import BitOps, WeightSize
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, Measure
from limpq_deploy.policy.interchange.layer_table import layer_table
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.spaces import in_space
from limpq_deploy.policy.what_if import WhatIfPoint, uniform_points


def layer(name: str, int8: float, fp8: float) -> LayerIndicators:
    values = (int8, fp8)
    return LayerIndicators(
        name=name,
        macs=100,
        num_weights=10,
        weight=values,
        act=values,
        measures={"kl": Measure(weight=values, act=values)},
    )


SMALL = Indicators(
    model="small", bits=(8, FP8), layers=(layer("a", 0.1, 0.3), layer("b", 0.5, 0.2), layer("c", 0.4, 9.0))
)
W8A8 = budgets_from_options(SMALL, like="w8a8")


def test_a_policy_says_fp8_beside_eight_bits_and_old_policies_read_as_before(tmp_path: Path) -> None:
    policy = Policy(bits={"a": LayerBits.of((FP8, FP8)), "b": LayerBits.of((4, 8))}, objective=0.0, alpha=1.0)
    written = json.loads(to_json(policy))
    assert written["bits"] == {"a": {"weight": 8, "act": 8, "format": "fp8"}, "b": {"weight": 4, "act": 8}}
    write_record(policy, tmp_path / "policy.json")
    read = load_record(Policy, tmp_path / "policy.json")
    assert read.pairs() == read.buildable_pairs("p") == {"a": (FP8, FP8), "b": (4, 8)}
    with pytest.raises(ValueError, match="expected 8 and 8"):
        LayerBits(weight=4, act=8, format="fp8")


def test_fp8_costs_what_eight_bits_cost() -> None:
    assert (bits_of(FP8), bits_of(8), pair_name((FP8, FP8)), pair_name((4, 8))) == (8, 8, "fp8", "w4a8")
    for cost in (BitOps(pinned=True), WeightSize()):
        assert cost.of_layer(SMALL.layers[0], FP8, FP8) == cost.of_layer(SMALL.layers[0], 8, 8)


def test_each_layer_takes_the_format_of_less_importance_and_no_layer_mixes_them() -> None:
    found = search_policy(in_space(SMALL, "formats:int8,fp8"), W8A8, importance="kl")
    assert found.pairs() == {"a": (8, 8), "b": (FP8, FP8), "c": (8, 8)}
    assert search_policy(SMALL, W8A8, importance="kl").pairs() == found.pairs()  # FP8 x int8 is never admitted


def test_within_a_larger_budget_fp16_goes_where_it_spares_most() -> None:
    space = in_space(read_by(SMALL, "kl"), "formats:int8,fp8,fp16")
    budgets = budgets_from_options(space, max_gbitops=(100 * (16 * 16 + 2 * 64)) / 1e9)
    found = search_policy(space, budgets, outliers="repair").pairs()
    assert found == {"a": (8, 8), "b": (FP8, FP8), "c": (16, 16)}


@pytest.mark.parametrize("mode", ["forbid", "repair", "keep"])
def test_fp8_is_no_outlier_beside_int8(mode: str) -> None:
    treated = treat_outliers(SMALL, mode)  # type: ignore[arg-type]
    assert treated.weight == {"a": (0.1, 0.3), "b": (0.5, 0.2), "c": (0.4, 9.0)}
    assert treated.outliers.entries == ()
    every = product((8, FP8), repeat=2)
    assert treated.pairs["a"] == {pair for pair in every if pair[0] == pair[1]}


def test_of_uniform_formats_of_one_cost_integers_come_first() -> None:
    assert uniform_policy_within(SMALL, W8A8) == (8, 8)
    assert uniform_policy_within(in_space(SMALL, "formats:fp8"), W8A8) == (FP8, FP8)


def test_native_spaces_have_fp8_where_it_was_measured() -> None:
    known = in_space(SMALL, "native:tensorrt_rtx").layers[0].pairs
    plain = Indicators(
        model="m", bits=(8,), layers=(LayerIndicators(name="a", macs=1, num_weights=1, weight=(1,), act=(1,)),)
    )
    assert known is not None
    assert (FP8, FP8) in known
    assert (FP8, FP8) not in (in_space(plain, "native:tensorrt_rtx").layers[0].pairs or ())
    with pytest.raises(SettingError, match="do not know FP8"):
        in_space(plain, "formats:int8,fp8")


def test_what_no_compiler_takes_is_refused() -> None:
    with pytest.raises(SettingError, match=r"'nvfp4'; expected some of int8, fp8, fp16 .*dynamic scales"):
        in_space(SMALL, "formats:nvfp4")
    with pytest.raises(SettingError, match=r"scales, and those of FP8 say nothing"):
        search_policy(SMALL, W8A8, importance="scale")


def test_fp8_is_eight_bits_and_a_format_in_every_record_and_table() -> None:
    changed = Policy(bits={"a": LayerBits.of((8, 8))}, objective=0.0, alpha=1.0).changed({"a": (FP8, FP8)})
    assert changed.bits["a"].format == "fp8"
    assert changed.changed({"a": changed.bits["a"]}).buildable_pairs("p") == {"a": (FP8, FP8)}
    int8, fp8 = uniform_points(SMALL, None)
    assert (int8.name, fp8.name) == ("w8a8", "fp8")
    assert from_json(WhatIfPoint, to_json(fp8), "a point").pairs() == dict.fromkeys("abc", (FP8, FP8))
    assert json.loads(to_json(fp8))["bits"]["a"] == {"weight": 8, "act": 8, "format": "fp8"}
    table = layer_table(Policy(bits={**fp8.bits, "c": LayerBits.of((8, 8))}, objective=0.0, alpha=1.0), SMALL)
    assert [row.bitops_share for row in table.layers] == pytest.approx([1 / 3] * 3)
    assert layer_table_lines(table).split().count("fp8") == 2


@pytest.mark.parametrize(("like", "bits"), [("w9a9", (4, 8)), ("w9a8", (8, FP8)), ("w8a9", (4, 8)), ("w9a9", (2, 4))])
def test_nine_is_no_width_that_a_budget_counts(like: str, bits: tuple[int, ...]) -> None:
    indicators = replace(SMALL, bits=bits)
    with pytest.raises(SettingError, match=f"--like {like} asks for the BitOps of bits that no layer can have"):
        search(indicators, like=like, importance="kl")


def test_the_bits_of_fp8_are_those_of_int8_where_layers_may_take_it() -> None:
    assert search(SMALL, like="w9a9", importance="kl").pairs() == search(SMALL, like="w8a8", importance="kl").pairs()
