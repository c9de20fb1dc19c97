"""Lower bounds, pins and ties: what they leave, what they refuse, and that the search keeps them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from limpq_deploy.calibration.errors import InfeasiblePolicy, SettingError
from limpq_deploy.calibration.records import from_json, to_json, write_record
from limpq_deploy.cli.main import main
from limpq_deploy.policy.admitted import admitted_pairs, components
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.costs import total_cost
from limpq_deploy.policy.explain import explain
from limpq_deploy.policy.front import uniform_points
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.search import search_policy

BITS = (2, 4, 6)


def layer(name: str, act_group: str | None = None) -> LayerIndicators:
    return LayerIndicators(
        name=name, macs=1000, num_weights=10, weight=(4.0, 2.0, 1.0), act=(3.0, 2.0, 1.0), act_group=act_group
    )


MODEL = Indicators(
    model="small",
    bits=BITS,
    layers=(layer("stage1.conv1", "x"), layer("stage1.conv2"), layer("stage1.shortcut", "x"), layer("stage2.conv1")),
    pinned=(PinnedLayer(name="stem", macs=5, num_weights=3, weight_bits=8, act_bits=8),),
)


def searched(like: str, **restrictions: Any) -> dict[str, tuple[int, int]]:
    indicators = restrict(MODEL, **restrictions)
    weight_bits, act_bits = int(like[1]), int(like[3])
    return search_policy(indicators, [like_budget(indicators, weight_bits, act_bits)]).pairs()


def test_without_restrictions_nothing_changes() -> None:
    assert restrict(MODEL) is MODEL


def test_a_lower_bound_holds_for_weight_and_activation_or_for_one_of_them() -> None:
    found = searched("w4a4", min_bits=["stage2.conv1=6"])
    assert found["stage2.conv1"] == (6, 6)
    assert (
        min(searched("w3a3", min_bits=["stage?.conv1.weight=4"])[name][0] for name in ("stage1.conv1", "stage2.conv1"))
        >= 4
    )
    assert admitted_pairs(restrict(MODEL, min_bits=["stage1.conv2.act=4"]))["stage1.conv2"] == {
        (weight, act) for weight in BITS for act in (4, 6)
    }


def test_a_lower_bound_of_an_activation_holds_for_all_that_read_the_tensor() -> None:
    admitted = admitted_pairs(restrict(MODEL, min_bits=["stage1.conv1.act=6"]))
    assert {act for _, act in admitted["stage1.shortcut"]} == {6}


def test_the_policy_tells_what_was_asked() -> None:
    indicators = restrict(MODEL, min_bits=["stage2.*=4"], tie=["stage1.*"])
    policy = search_policy(indicators, [like_budget(indicators, 4, 4)])
    assert policy.source == {"source": None, "restrictions": {"min_bits": ["stage2.*=4"], "tie": ["stage1.*"]}}


def test_the_highest_of_several_bounds_holds() -> None:
    admitted = admitted_pairs(restrict(MODEL, min_bits=["*=4", "stage2.*.weight=6", "stage2.*=2"]))
    assert admitted["stage2.conv1"] == {(6, 4), (6, 6)}


def test_a_pin_takes_the_layer_out_of_the_choice_and_stays_in_the_budget() -> None:
    indicators = restrict(MODEL, pin=["stage1.conv2=w2a6"])
    budget = like_budget(indicators, 4, 4)
    policy = search_policy(indicators, [budget])
    assert policy.pairs()["stage1.conv2"] == (2, 6)
    assert budget.limit == like_budget(MODEL, 4, 4).limit
    assert policy.costs[0].used == total_cost(budget.cost, MODEL, policy.pairs())


def test_the_last_pin_of_a_layer_holds_over_patterns_and_lower_bounds() -> None:
    found = searched("w4a4", pin=["stage*=w4a4", "stage2.conv1=w2a2"], min_bits=["*=4"])
    assert found == {**dict.fromkeys(found, (4, 4)), "stage2.conv1": (2, 2)}


def test_a_pin_at_a_width_that_was_not_learned_is_admitted_for_that_layer_only_and_told() -> None:
    indicators = restrict(MODEL, pin=["stage1.conv2=w8a8"])
    assert indicators.bits == (2, 4, 6, 8)
    assert indicators.source["extrapolated"] == {"bits": [8], "from_bits": [2, 4, 6]}
    admitted = admitted_pairs(indicators)
    assert admitted.pop("stage1.conv2") == {(8, 8)}
    assert all(8 not in pair for pairs in admitted.values() for pair in pairs)
    policy = search_policy(indicators, [like_budget(indicators, 5, 5)])
    assert policy.pairs()["stage1.conv2"] == (8, 8)
    assert policy.source == indicators.source


def test_a_pinned_activation_holds_for_all_that_read_the_tensor() -> None:
    admitted = admitted_pairs(restrict(MODEL, pin=["stage1.conv1=w8a8"]))
    assert admitted["stage1.conv1"] == {(8, 8)}
    assert admitted["stage1.shortcut"] == {(2, 8), (4, 8), (6, 8)}


def test_tied_layers_share_both_widths_and_each_counts() -> None:
    indicators = restrict(MODEL, tie=["stage1.conv2,stage2.*"])
    policy = search_policy(indicators, [like_budget(indicators, 3, 3)])
    assert policy.bits["stage1.conv2"] == policy.bits["stage2.conv1"]
    weights = {2: 4.0, 4: 2.0, 6: 1.0}
    acts = {2: 3.0, 4: 2.0, 6: 1.0}
    told = sum(2 * weights[weight] for weight, _ in policy.pairs().values())
    told += sum(acts[act] for name, (_, act) in policy.pairs().items() if name != "stage1.shortcut")
    assert policy.objective == pytest.approx(told, rel=1e-12)


def test_ties_and_shared_tensors_together_are_decided_together() -> None:
    indicators = restrict(MODEL, tie=["stage1.conv1,stage2.conv1"])
    names = [[one.name for one in group] for group in components(indicators.layers)]
    assert names == [["stage1.conv1", "stage1.shortcut", "stage2.conv1"], ["stage1.conv2"]]
    pairs = search_policy(indicators, [like_budget(indicators, 3, 4)]).pairs()
    assert pairs["stage1.conv1"] == pairs["stage2.conv1"]
    assert pairs["stage1.shortcut"][1] == pairs["stage1.conv1"][1]


def test_a_pin_of_one_tied_layer_holds_for_all() -> None:
    found = searched("w4a4", tie=["stage1.*"], pin=["stage1.conv1=w2a2"])
    assert {found[name] for name in found if name.startswith("stage1")} == {(2, 2)}


def test_an_outlier_is_judged_among_what_the_layer_may_take() -> None:
    grows = replace(MODEL.layers[1], weight=(1.0, 2.0, 1.5))
    indicators = replace(MODEL, layers=(MODEL.layers[0], grows, *MODEL.layers[2:]))
    restricted = restrict(indicators, pin=["stage1.conv2=w2a2"])
    policy = search_policy(restricted, [like_budget(restricted, 4, 4)])
    assert policy.pairs()["stage1.conv2"] == (2, 2)
    assert policy.outliers is not None
    assert policy.outliers.entries == ()


def test_explanations_move_tied_layers_together_and_keep_to_what_they_may_take() -> None:
    indicators = restrict(MODEL, tie=["stage1.conv2,stage2.conv1"], min_bits=["stage2.conv1=4"])
    budgets = [like_budget(indicators, 4, 4)]
    found = explain(search_policy(indicators, budgets), indicators, budgets)
    steps = [step for step in found.steps if step.layer == "stage1.conv2"]
    assert {step.layers for step in steps} == {("stage1.conv2", "stage2.conv1")}
    assert all((step.objective is None) == (step.to_bits < 4) for step in steps)
    assert found.improvements == ()


def test_uniform_policies_to_compare_with_keep_to_what_layers_may_take() -> None:
    points = uniform_points(restrict(MODEL, min_bits=["stage2.conv1.weight=4"]))
    assert {point.weight_bits for point in points} == {4, 6}


def test_restrictions_are_options_of_search_and_sweep(tmp_path: Path) -> None:
    file, found = tmp_path / "indicators.json", tmp_path / "found.json"
    write_record(MODEL, file)
    words = ["--min-bits", "stage2.*=4", "--pin", "stage1.conv2=w8a8", "--tie", "stage1.conv1,stage1.shortcut"]
    for command in (["search", str(file), "--like", "w5a5"], ["sweep", str(file), "--gbitops", "0.0001:0.0002:3"]):
        done = CliRunner().invoke(main, [*command, *words, "-o", str(found)])
        assert done.exit_code == 0, done.output
        written = json.loads(found.read_text())
        for policy in [written, *(point["policy"] for point in written.get("points", []))]:
            bits = policy.get("bits", {})
            if bits:
                assert bits["stage1.conv2"] == {"weight": 8, "act": 8}
                assert bits["stage1.conv1"] == bits["stage1.shortcut"]
                assert min(bits["stage2.conv1"].values()) >= 4
    assert "bits" in policy


def test_restrictions_survive_json() -> None:
    indicators = restrict(
        MODEL, min_bits=["stage2.*=4"], pin=["stage1.conv2=w8a8"], tie=["stage1.conv1,stage1.shortcut"]
    )
    assert from_json(Indicators, to_json(indicators), "here") == indicators


@pytest.mark.parametrize(
    ("restrictions", "sentence"),
    [
        ({"min_bits": ["stage1.conv3=4"]}, r"--min-bits 'stage1.conv3' matches no .* did you mean stage1.conv\d or"),
        ({"pin": ["zzz*=w4a4"]}, r"--pin 'zzz\*' matches no searched layer of 'small'; its layers are stage1.conv1,"),
        ({"min_bits": ["stem=4"]}, "'stem', which is pinned in the indicators file already"),
        ({"min_bits": ["stage2.conv1"]}, "expected NAME=BITS"),
        ({"min_bits": ["stage2.conv1=four"]}, "expected NAME=BITS"),
        ({"min_bits": ["stage2.conv1=8"]}, "at least w8a8 in layer 'stage2.conv1', and no candidate is that wide"),
        ({"pin": ["stage2.conv1=8"]}, "expected NAME=wNaM"),
        ({"pin": ["stage2.conv1=w0a8"]}, "expected NAME=wNaM"),
        ({"pin": ["stage1.conv1=w4a4", "stage1.shortcut=w4a6"]}, "share one activation bit-width"),
        ({"tie": ["stage1.*"], "pin": ["stage1.conv1=w4a4", "stage1.conv2=w2a4"]}, "but they are tied"),
        ({"tie": ["stage2.*"]}, "matches only 'stage2.conv1'"),
        ({"tie": ["stage1.*", "*.conv1"]}, r"both hold 'stage1.conv1'"),
    ],
)
def test_what_cannot_be_is_one_clear_sentence(restrictions: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        restrict(MODEL, **restrictions)


def test_a_budget_that_pins_put_out_of_reach_names_the_restricted_layers() -> None:
    sentence = r"the smallest reachable is .*\(2 layers are restricted by pins, lower bounds or the search space: stage"
    with pytest.raises(InfeasiblePolicy, match=sentence):
        searched("w2a2", pin=["stage1.conv2=w6a6"], min_bits=["stage2.conv1=4"])


def test_layers_of_one_tensor_that_a_file_lets_share_nothing_are_named() -> None:
    first, second = replace(MODEL.layers[0], pairs=((2, 2),)), replace(MODEL.layers[2], pairs=((2, 4),))
    indicators = replace(MODEL, layers=(first, second))
    with pytest.raises(SettingError, match=r"stage1\.conv1, stage1\.shortcut share bit-widths"):
        search_policy(indicators, [like_budget(indicators, 4, 4)])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pairs": ((3, 4),)}, "admits w3a4"),
        ({"pairs": ()}, "has no pairs"),
        ({"act_elements": -1}, "negative act_elements"),
    ],
)
def test_a_file_that_admits_nonsense_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(MODEL, layers=(replace(MODEL.layers[1], **change),))  # type: ignore[arg-type]
