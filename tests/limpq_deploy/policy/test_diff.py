"""Two policies side by side."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import from_json, load_record, to_json
from limpq_deploy.cli.output.search import diff_table
from limpq_deploy.policy.budgets import budgets_from_options
from limpq_deploy.policy.costs import BitOps, WeightSize, total_cost
from limpq_deploy.policy.diff import PolicyDiff, diff_policies
from limpq_deploy.policy.indicators import Found, Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.policy.search import search_policy

GOLDEN = Path(__file__).parents[2] / "golden"

SMALL = Indicators(
    model="small",
    bits=(2, 4),
    layers=(
        LayerIndicators(name="a", macs=300, num_weights=10, weight=(3.0, 2.0), act=(5.0, 4.0), act_group="x"),
        LayerIndicators(name="b", macs=100, num_weights=30, weight=(9.0, 1.0), act=(5.0, 4.0), act_group="x"),
    ),
    pinned=(PinnedLayer(name="stem", macs=50, num_weights=4, weight_bits=8, act_bits=8),),
)


def policy(a: tuple[int, int], b: tuple[int, int], *, alpha: float = 2.0, objective: float = 1.0) -> Policy:
    bits = {"a": LayerBits(weight=a[0], act=a[1]), "b": LayerBits(weight=b[0], act=b[1])}
    return Policy(bits=bits, objective=objective, alpha=alpha)


def test_only_layers_with_other_bits_are_listed_with_what_they_change() -> None:
    diff = diff_policies(policy((4, 2), (2, 2)), policy((4, 2), (4, 2)), indicators=SMALL)
    assert [(one.name, one.bitops, one.size, one.objective) for one in diff.layers] == [("b", 400, 60, -16.0)]
    assert diff.same == 1
    assert [(total.name, total.before, total.after) for total in diff.totals] == [
        ("bitops", 2800 + 3200, 3200 + 3200),
        ("size", 100 + 32, 160 + 32),
        ("objective", 27.0, 11.0),
    ]


def test_a_shared_activation_is_charged_once_to_the_first_layer() -> None:
    diff = diff_policies(policy((2, 2), (2, 2)), policy((2, 4), (2, 4)), indicators=SMALL)
    assert [(one.name, one.objective) for one in diff.layers] == [("a", -1.0), ("b", 0.0)]


pairs = st.tuples(st.sampled_from((2, 4)), st.sampled_from((2, 4)))


@st.composite
def tied(draw: st.DrawFn) -> Policy:
    a, b = draw(pairs), draw(pairs)
    return policy(a, (b[0], a[1]))


@given(first=tied(), second=tied())
def test_changes_of_layers_add_up_to_those_of_the_totals(first: Policy, second: Policy) -> None:
    diff = diff_policies(first, second, indicators=SMALL)
    bitops, size, objective = diff.totals
    assert sum(one.bitops or 0 for one in diff.layers) == bitops.after - bitops.before
    assert sum(one.size or 0 for one in diff.layers) == size.after - size.before
    assert sum(one.objective or 0 for one in diff.layers) == objective.after - objective.before  # small whole numbers
    assert diff.equal == (first.bits == second.bits)
    assert from_json(PolicyDiff, to_json(diff), "here") == diff
    for total, cost in ((bitops, BitOps(pinned=True)), (size, WeightSize())):
        assert total.after == total_cost(cost, SMALL, second.pairs())


def test_without_indicators_recorded_objectives_are_compared_and_said_to_be() -> None:
    diff = diff_policies(policy((4, 2), (2, 2), objective=3.0), policy((4, 4), (2, 2), objective=2.5))
    assert [(total.name, total.before, total.after) for total in diff.totals] == [("objective", 3.0, 2.5)]
    assert "as the files record them" in diff.notes[0]
    assert diff.layers[0].bitops is None


def test_policies_of_different_alpha_are_priced_by_that_of_a_search_and_a_note_says_so() -> None:
    first, second = policy((4, 2), (2, 2), alpha=1.0), policy((2, 2), (2, 2), alpha=2.0)
    assert diff_policies(first, second).totals == ()
    diff = diff_policies(first, second, indicators=SMALL)
    assert "first has alpha 1, second 2: both are priced with the alpha 2 of a search" in diff.notes[0]
    assert (diff.importance, diff.alpha) == ("scale", 2.0)
    found = replace(SMALL, found=Found(importance="scale", alpha=1.0, outliers="keep"))
    assert diff_policies(first, second, indicators=found).alpha == 1.0
    given_one = diff_policies(first, second, indicators=SMALL, alpha=1.0)
    assert (given_one.totals[2].before, given_one.totals[2].after) == (16.0, 17.0)


def test_layers_of_one_policy_only_are_named_and_indicators_must_cover_both() -> None:
    longer = policy((4, 2), (2, 2))
    shorter = replace(longer, bits={"a": longer.bits["a"], "c": longer.bits["b"]})
    diff = diff_policies(longer, shorter)
    assert (diff.only_first, diff.only_second, diff.equal) == (("b",), ("c",), False)
    assert "only in second: c" in diff_table(diff)
    with pytest.raises(ModelError, match=r"new.json does not fit .*no entry for 'b'; unknown 'c'"):
        diff_policies(longer, shorter, indicators=SMALL, names=("old.json", "new.json"))


def test_widths_that_were_not_learned_are_counted_and_the_missing_importance_is_told() -> None:
    diff = diff_policies(policy((8, 8), (8, 8)), policy((4, 4), (4, 4)), indicators=SMALL)
    assert [(total.name, total.before, total.after) for total in diff.totals[:2]] == [
        ("bitops", 400 * 64 + 3200, 400 * 16 + 3200),
        ("size", 40 * 8 + 32, 40 * 4 + 32),
    ]
    assert diff.notes == ("no importance was learned at 8 bits: objectives are estimates, extrapolated from 2, 4 bits",)
    assert 0 < diff.totals[2].before < diff.totals[2].after
    assert "no importance was learned at 8 bits" in diff_table(diff)


def test_at_16_bits_and_above_importance_is_known_to_be_0() -> None:
    diff = diff_policies(policy((16, 16), (32, 16)), policy((4, 4), (4, 4)), indicators=SMALL)
    assert (diff.totals[2].before, diff.totals[2].after) == (0.0, 2 * 3.0 + 4.0)
    assert diff.notes == ()


def test_equal_policies_have_no_lines() -> None:
    one = policy((4, 2), (2, 2))
    diff = diff_policies(one, one, indicators=SMALL, names=("x", "y"))
    assert diff.equal
    assert diff_table(diff).startswith("x and y give all 2 layers the same bits")


def test_with_true_macs_the_published_policy_differs_in_three_weight_and_two_activation_entries() -> None:
    indicators = load_record(Indicators, GOLDEN / "resnet50_true_macs.indicators.json")
    published = load_record(Policy, GOLDEN / "resnet50_w3a4_cr12.2.policy.json")
    ours = search_policy(indicators, budgets_from_options(indicators, like="w3a4", compression_ratio="12.2"))
    diff = diff_policies(published, ours, indicators=indicators, names=("published", "ours"))
    weights = [one for one in diff.layers if one.before.weight != one.after.weight]
    acts = [one for one in diff.layers if one.before.act != one.after.act]
    assert (len(weights), len(acts), diff.same) == (3, 2, 47)
    assert diff.totals[2].after == ours.objective
    text = diff_table(diff)
    assert "layer1.1.conv2" in text
    assert "5 layers with other bits, 47 with the same" in text
