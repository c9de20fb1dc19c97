"""Search spaces and indicators at widths that no training saw."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.cli.main import main
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.budgets import budgets_from_options, like_budget
from limpq_deploy.policy.indicators import ActMoment, Indicators, LayerIndicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.spaces import in_space
from limpq_deploy.policy.widths import estimated, source_notes, with_widths

HALVING = (8.0, 4.0, 2.0)
LAYERS = tuple(
    LayerIndicators(name=name, macs=macs, num_weights=10, weight=HALVING, act=(3.0, 2.0, 1.0))
    for name, macs in (("a", 1000), ("b", 3000))
)
MODEL = Indicators(model="small", bits=(2, 3, 4), layers=LAYERS, source={"method": "by hand"})


def test_all_candidates_with_all_candidates_is_the_default() -> None:
    assert in_space(MODEL, None) is MODEL
    assert in_space(MODEL, "w*a*") is MODEL


def test_weights_only_keeps_activations_at_one_width() -> None:
    indicators = in_space(MODEL, "w*a8")
    assert admitted_pairs(indicators)["a"] == {(2, 8), (3, 8), (4, 8)}
    policy = search_policy(indicators, budgets_from_options(indicators, max_avg_weight_bits=3))
    assert {act for _, act in policy.pairs().values()} == {8}
    assert policy.source["space"] == "w*a8"
    assert policy.source["method"] == "by hand"
    assert policy.source["extrapolated"] == {"bits": [8], "from_bits": [2, 3, 4]}


def test_float_activations_cost_nothing_in_importance_and_32_bits_in_bitops() -> None:
    indicators = in_space(MODEL, "w*a32")
    policy = search_policy(indicators, [like_budget(indicators, 3, 32)])
    assert policy.objective == 2 * sum(
        dict(zip((2, 3, 4), HALVING, strict=True))[w] for w, _ in policy.pairs().values()
    )
    assert policy.costs[0].used == sum(
        {"a": 1000, "b": 3000}[name] * weight * 32 for name, (weight, _) in policy.pairs().items()
    )
    assert "extrapolated" not in policy.source


def test_activations_only_keeps_weights_at_one_width() -> None:
    assert admitted_pairs(in_space(MODEL, "w4a*"))["b"] == {(4, 2), (4, 3), (4, 4)}


@pytest.mark.parametrize(
    ("target", "pairs"), [("tensorrt", {(8, 8), (16, 16), (32, 32)}), ("onnxruntime", {(8, 8), (32, 32)})]
)
def test_native_pairs_are_those_of_the_target(target: str, pairs: set[tuple[int, int]]) -> None:
    assert admitted_pairs(in_space(MODEL, f"native:{target}")) == {"a": pairs, "b": pairs}


KINDS = replace(MODEL, layers=(replace(LAYERS[0], kind="conv"), replace(LAYERS[1], kind="linear")))


def test_weight_only_pairs_of_a_target_are_for_linear_layers() -> None:
    native = {(8, 8), (16, 16), (32, 32)}
    indicators = in_space(KINDS, "native:tensorrt")
    assert admitted_pairs(indicators) == {"a": native, "b": native | {(4, 16)}}
    assert "space_note" not in indicators.source
    assert admitted_pairs(in_space(KINDS, "native:onnxruntime"))["b"] == {(8, 8), (32, 32)}
    assert in_space(KINDS, "native:tensorrt").layers[1].act[-2:] == (0.0, 0.0)
    policy = search_policy(indicators, budgets_from_options(indicators, max_avg_weight_bits=6))
    assert policy.pairs() == {"a": (8, 8), "b": (4, 16)}  # of 20 weights, 10 at 8 and 10 at 4 bits
    assert policy.objective == pytest.approx(2 * 0.125 + estimated((2, 3, 4), (3.0, 2.0, 1.0), 8) + 2 * 2.0)


def test_a_file_without_kinds_is_read_and_the_space_says_what_it_does_not_know(tmp_path: Path) -> None:
    indicators = in_space(MODEL, "native:tensorrt")
    (note,) = [one for one in source_notes(indicators.source) if "w4a16" in one]
    assert "do not say which of 2 layers are" in note
    write_record(MODEL, tmp_path / "indicators.json")
    words = ["search", str(tmp_path / "indicators.json"), "--space", "native:tensorrt", "--like", "w16a16"]
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "policy.json")])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert note in said
    assert "no importance was learned at 8 bits: it is extrapolated from 2, 3, 4 bits" in said


def test_among_native_pairs_the_layer_that_matters_most_per_bitop_stays_wide() -> None:
    indicators = in_space(MODEL, "native:tensorrt")
    limit = 1000 * 16 * 16 + 3000 * 8 * 8
    budget = replace(like_budget(indicators, 16, 16), limit=limit)
    policy = search_policy(indicators, [budget])
    assert policy.pairs() == {"a": (16, 16), "b": (8, 8)}
    assert policy.objective == pytest.approx(2 * 0.125 + estimated((2, 3, 4), (3.0, 2.0, 1.0), 8))


def test_a_learned_8_bit_indicator_is_taken_as_it_is_and_nothing_is_marked() -> None:
    eight = Indicators(
        model="small", bits=(4, 8), layers=tuple(replace(one, weight=(2.0, 0.7), act=(2.0, 0.6)) for one in LAYERS)
    )
    indicators = in_space(eight, "native:onnxruntime")
    assert indicators.layers[0].weight == (2.0, 0.7, 0.0)
    assert indicators.source == {"source": None, "space": "native:onnxruntime"}


def test_restrictions_narrow_a_space_further() -> None:
    indicators = restrict(MODEL, space="w*a8", min_bits=["a.weight=3"], pin=["b=w6a6"])
    assert admitted_pairs(indicators) == {"a": frozenset({(3, 8), (4, 8)}), "b": frozenset({(6, 6)})}
    assert indicators.source["extrapolated"] == {"bits": [6, 8], "from_bits": [2, 3, 4]}


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("w4a4", "expected w"),
        ("weights", "expected w"),
        ("w*a0", "expected w"),
        ("w*a64", "expected w"),
        ("native:abacus", "names no target; expected one of onnxruntime, tensorrt"),
        ("native:reference", "executes floats only"),
    ],
)
def test_a_space_that_makes_no_sense_is_one_sentence(space: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        in_space(MODEL, space)


def test_space_and_the_newer_budgets_are_options_of_search(tmp_path: Path) -> None:
    file, found = tmp_path / "indicators.json", tmp_path / "policy.json"
    moment = ActMoment(name="b", fixed_bits=8, tensors={"a": 10, "b": 10})
    sized = tuple(replace(layer, act_elements=10) for layer in LAYERS)
    write_record(replace(MODEL, layers=sized, moments=(moment,)), file)
    words = ["search", str(file), "--space", "w3a*", "--max-avg-act-bits", "3.5", "--max-avg-weight-bits", "3"]
    done = CliRunner().invoke(main, [*words, "--max-act-mib", "0.0000075", "-o", str(found), "--json"])
    assert done.exit_code == 0, done.output
    policy = load_record(Policy, found)
    assert policy.pairs() == {"a": (3, 3), "b": (3, 2)}  # of equally good ones, the first layer is wide
    assert [use.name for use in policy.costs] == ["weight_bits_searched", "act_bits_searched", "act_memory at b"]
    assert policy.costs[-1].used == 8 + 10 * (2 + 3) <= policy.costs[-1].limit == 62


def test_a_file_that_admits_nothing_native_is_told_which_layer() -> None:
    narrow = replace(MODEL, layers=(replace(LAYERS[0], pairs=((2, 2),)), LAYERS[1]))
    with pytest.raises(SettingError, match="layer 'a' may take no pair of --space native:onnxruntime"):
        in_space(narrow, "native:onnxruntime")


def test_an_indicator_that_halves_with_every_bit_goes_on_halving() -> None:
    assert estimated((2, 3, 4), HALVING, 8) == pytest.approx(0.125)
    assert estimated((2, 3, 4), HALVING, 1) == pytest.approx(16.0)
    assert estimated((2, 4), (8.0, 2.0), 3) == pytest.approx(4.0)


def test_one_learned_width_is_enough_and_zeros_stay_zeros() -> None:
    assert estimated((4,), (2.0,), 8) == pytest.approx(0.125)
    assert estimated((4,), (0.0,), 8) == 0.0
    assert estimated((2, 4), (1.0, 0.0), 8) == 0.0
    assert estimated((), (), 8) == 0.0


@given(
    values=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
    width=st.integers(1, 32),
)
def test_an_estimate_is_finite_and_lies_on_the_right_side_of_what_was_learned(values: list[float], width: int) -> None:
    bits = (2, 4, 6)
    found = estimated(bits, values, width)
    assert 0 <= found < float("inf")
    if width > 6:
        assert found <= values[-1]
    if width < 2:
        assert found >= values[0]
    if width in bits:
        assert found == values[bits.index(width)]


WIDTHS = st.integers(1, 32).filter(lambda width: width != FP8)
"""9 stands for FP8, which no other width tells anything of."""


@given(widths=st.lists(st.lists(WIDTHS, max_size=3), max_size=3))
def test_widths_asked_for_one_after_another_or_at_once_are_the_same(widths: list[list[int]]) -> None:
    step_by_step = MODEL
    for some in widths:
        step_by_step = with_widths(step_by_step, some)
    at_once = with_widths(MODEL, {width for some in widths for width in some})
    assert step_by_step.bits == at_once.bits
    assert [one.weight for one in step_by_step.layers] == [one.weight for one in at_once.layers]
    assert step_by_step.source == at_once.source
    both = set(product(MODEL.bits, MODEL.bits))
    assert all(one.pairs is None or set(one.pairs) == both for one in at_once.layers)


def test_a_width_beyond_all_reason_is_refused() -> None:
    with pytest.raises(SettingError, match="a width of 40 bits makes no sense"):
        with_widths(MODEL, [40])
