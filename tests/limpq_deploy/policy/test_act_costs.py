"""Average bits and activation memory: what they count, which moments matter, and what is said where sizes lack."""

from dataclasses import replace
from fractions import Fraction

import pytest

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, SettingError
from limpq_deploy.policy.budgets import budgets_from_options, budgets_of
from limpq_deploy.policy.costs import pinned_cost, total_cost, uniform_pairs
from limpq_deploy.policy.indicators import ActMoment, Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.search import search_policy


def layer(name: str, num_weights: int, act_elements: int | None, act_group: str | None = None) -> LayerIndicators:
    return LayerIndicators(
        name=name,
        macs=1000,
        num_weights=num_weights,
        weight=(4.0, 2.0, 1.0),
        act=(4.0, 2.0, 1.0),
        act_group=act_group,
        act_elements=act_elements,
    )


MODEL = Indicators(
    model="small",
    bits=(2, 4, 8),
    layers=(layer("a", 100, 60, "x"), layer("b", 300, 60, "x"), layer("c", 600, 20)),
    pinned=(PinnedLayer(name="stem", macs=5, num_weights=10_000, weight_bits=8, act_bits=8),),
    moments=(
        ActMoment(name="a", fixed_bits=80, tensors={"a": 60}),
        ActMoment(name="b", fixed_bits=0, tensors={"a": 60}),
        ActMoment(name="c", fixed_bits=10, tensors={"a": 60, "c": 20}),
    ),
)


def mixed(**pairs: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {"a": (2, 2), "b": (2, 2), "c": (2, 2), **pairs}


def test_average_weight_bits_count_every_weight_of_searched_layers_once() -> None:
    [budget] = budgets_of("max_avg_weight_bits", MODEL, 4)
    assert total_cost(budget.cost, MODEL, uniform_pairs(MODEL, 4, 2)) == budget.limit == 4 * 1000
    used = total_cost(budget.cost, MODEL, mixed(c=(8, 2)))
    assert used == 2 * 400 + 8 * 600
    assert budget.figure(used) == "5.6 bits per weight"


def test_average_activation_bits_count_a_shared_tensor_once() -> None:
    [budget] = budgets_of("max_avg_act_bits", MODEL, 4)
    assert total_cost(budget.cost, MODEL, uniform_pairs(MODEL, 2, 4)) == budget.limit == 4 * 80
    assert total_cost(budget.cost, MODEL, mixed(c=(2, 8))) == 2 * 60 + 8 * 20


def test_a_limit_of_average_bits_is_kept_by_the_policy() -> None:
    budgets = budgets_from_options(MODEL, max_avg_weight_bits="3.2", max_avg_act_bits=3)
    policy = search_policy(MODEL, budgets)
    pairs = policy.pairs()
    weights = {"a": 100, "b": 300, "c": 600}
    assert sum(weights[name] * pair[0] for name, pair in pairs.items()) <= 3.2 * 1000
    assert 60 * pairs["a"][1] + 20 * pairs["c"][1] <= 3 * 80
    assert [use.unit for use in policy.costs] == ["bits", "bits"]


def test_activation_memory_has_a_budget_per_moment_that_matters() -> None:
    def moments(bits: int) -> list[str]:
        return [budget.cost.name for budget in budgets_of("max_act_mib", MODEL, Fraction(bits, 2**23))]

    assert moments(400) == ["act_memory at c", "act_memory at a"]
    assert moments(600) == moments(2**23) == ["act_memory at c"]


def test_memory_counts_fixed_tensors_and_every_live_tensor_at_its_bits() -> None:
    at_c, at_a = budgets_of("max_act_mib", MODEL, Fraction(400, 2**23))
    assert pinned_cost(at_c.cost, MODEL) == 10
    assert total_cost(at_c.cost, MODEL, mixed(c=(2, 8))) == 10 + 2 * 60 + 8 * 20
    assert total_cost(at_a.cost, MODEL, mixed(a=(2, 4), b=(2, 4))) == 80 + 4 * 60


def test_the_policy_fits_at_every_moment_and_misses_no_better_one() -> None:
    policy = search_policy(MODEL, budgets_of("max_act_mib", MODEL, Fraction(410, 2**23)))
    assert {name: pair[1] for name, pair in policy.pairs().items()} == {"a": 4, "b": 4, "c": 8}
    assert [(use.used, use.limit) for use in policy.costs] == [(410, 410), (320, 410)]


def test_memory_out_of_reach_names_the_moment_and_what_can_be_reached() -> None:
    with pytest.raises(InfeasiblePolicy, match=r"\(at a\) allows .* and the smallest reachable is 0\.0000238419 MiB"):
        search_policy(MODEL, budgets_of("max_act_mib", MODEL, Fraction(180, 2**23)))


@pytest.mark.parametrize(
    ("option", "field"), [({"max_avg_act_bits": 4}, "act_elements"), ({"max_act_mib": 1}, "moments")]
)
def test_an_old_file_is_told_what_it_lacks_and_how_to_renew_it(option: dict[str, float], field: str) -> None:
    old = replace(MODEL, layers=tuple(replace(one, act_elements=None) for one in MODEL.layers), moments=None)
    with pytest.raises(ModelError, match=f"needs '{field}' .* renew them with"):
        budgets_from_options(old, **option)


@pytest.mark.parametrize("option", ["max_avg_weight_bits", "max_avg_act_bits", "max_act_mib"])
def test_limits_are_numbers_above_0(option: str) -> None:
    with pytest.raises(SettingError, match="expected a number above 0"):
        budgets_from_options(MODEL, **{option: 0})


def test_layers_without_weights_or_activations_limit_nothing() -> None:
    empty = replace(MODEL, layers=(layer("a", 0, 0),), moments=())
    policy = search_policy(empty, budgets_from_options(empty, max_avg_weight_bits=4, max_avg_act_bits=4))
    assert policy.pairs() == {"a": (8, 8)}


@pytest.mark.parametrize(
    ("moment", "sentence"),
    [
        (ActMoment(name="a", fixed_bits=0, tensors={"z": 1}), "names 'z', which is no searched layer"),
        (ActMoment(name="a", fixed_bits=-1, tensors={}), "negative size"),
    ],
)
def test_moments_of_nonsense_are_refused(moment: ActMoment, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(MODEL, moments=(moment,))
