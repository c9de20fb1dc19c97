import dataclasses
from collections.abc import Mapping

import pytest

from limpq_deploy.calibration.errors import InfeasiblePolicy, SettingError
from limpq_deploy.calibration.plain_text import LONGEST
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.preview import Preview
from limpq_deploy.importance.tournament import hold_tournament
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, Measure
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.recipes import Recipe, one_recipe, recipes, usual_recipe

BITS = (2, 3, 4)


def layer(name: str, macs: int, scale: float, kl: float) -> LayerIndicators:
    return LayerIndicators(
        name=name,
        macs=macs,
        num_weights=10,
        weight=(scale, scale / 2, scale / 4),
        act=(scale, scale / 2, scale / 4),
        measures={"kl": Measure(weight=(kl, kl / 5, 0.0), act=(kl, kl / 5, 0.0))},
    )


# The scales call the first layer important, the divergence the last one.
INDICATORS = Indicators(
    model="net", bits=BITS, layers=(layer("a", 100, 9.0, 0.1), layer("b", 100, 1.0, 1.0), layer("c", 100, 0.5, 5.0))
)
RECIPES = recipes(INDICATORS)


def budgets() -> tuple[Budget, ...]:
    return (like_budget(INDICATORS, 3, 3),)


def last_layer_matters(pairs: Mapping[str, BitPair]) -> Preview:
    """A preview in which the last layer's bits count, as ``kl`` says."""
    loss = 10.0 / (pairs["c"][0] * pairs["c"][1])
    return Preview(top1=50.0, loss=loss, images=100, batchnorm_images=200)


def test_the_policy_with_the_least_preview_loss_wins_and_all_are_recorded() -> None:
    policy = hold_tournament(INDICATORS, budgets(), RECIPES, last_layer_matters, uniform=(3, 3))
    assert policy.importance == "kl"
    assert policy.bits["c"].weight == policy.bits["c"].act == 4
    tournament = policy.tournament
    assert tournament is not None
    losses = [candidate.loss for candidate in tournament.candidates]
    assert losses == sorted(losses)
    assert tournament.candidates[0].name == tournament.chosen
    assert {candidate.importance for candidate in tournament.candidates} >= {"kl", "scale", None}
    assert "uniform bits" in tournament.why
    assert from_json(Policy, to_json(policy), "test") == policy


def test_uniform_bits_win_where_no_program_previews_better_and_the_record_says_so() -> None:
    def narrowest_layer_decides(pairs: Mapping[str, BitPair]) -> Preview:
        return Preview(top1=1.0, loss=1 / min(min(pair) for pair in pairs.values()), images=1, batchnorm_images=1)

    policy = hold_tournament(INDICATORS, budgets(), RECIPES, narrowest_layer_decides, uniform=(3, 3))
    assert set(policy.pairs().values()) == {(3, 3)}
    assert policy.tournament is not None
    assert "no program's policy previewed better than uniform bits" in policy.tournament.why
    assert policy.solver is not None
    assert policy.solver.status == "feasible"
    assert policy.solver.gap > 0
    assert policy.objective > policy.solver.bound


def test_a_policy_found_twice_is_previewed_once() -> None:
    looked: list[tuple[BitPair, ...]] = []

    def look(pairs: Mapping[str, BitPair]) -> Preview:
        looked.append(tuple(pairs.values()))
        return last_layer_matters(pairs)

    hold_tournament(INDICATORS, budgets(), RECIPES, look, uniform=None)
    assert len(looked) == len(set(looked)) < len(RECIPES)


def test_the_uniform_policy_keeps_its_name_when_a_program_finds_it_too() -> None:
    same = Indicators(model="net", bits=BITS, layers=(layer("a", 100, 1.0, 1.0), layer("b", 100, 1.0, 1.0)))
    policy = hold_tournament(
        same,
        (like_budget(same, 4, 4),),
        recipes(same),
        lambda pairs: Preview(top1=1.0, loss=1.0, images=1, batchnorm_images=1),
        uniform=(4, 4),
    )
    assert policy.tournament is not None
    assert [candidate.name for candidate in policy.tournament.candidates] == ["uniform w4a4"]


def test_budgets_that_nothing_meets_are_refused_before_any_preview() -> None:
    tight = (dataclasses.replace(budgets()[0], limit=1),)

    def never(pairs: Mapping[str, BitPair]) -> Preview:
        raise AssertionError(pairs)

    with pytest.raises(InfeasiblePolicy):
        hold_tournament(INDICATORS, tight, RECIPES, never, uniform=None)


def test_recipes_vary_what_was_not_asked_for() -> None:
    assert one_recipe(INDICATORS) == Recipe(importance="kl", alpha=1.0, outliers="repair")
    assert one_recipe(INDICATORS, importance="scale") == Recipe(importance="scale", alpha=2.0, outliers="forbid")
    assert {(one.importance, one.alpha, one.outliers) for one in RECIPES} == {
        *(("scale", alpha, mode) for alpha in (1.0, 2.0, 4.0) for mode in ("forbid", "repair")),
        *(("kl", alpha, "repair") for alpha in (0.5, 1.0, 2.0)),
    }
    asked = recipes(INDICATORS, importance="scale", alpha=3.0, outliers="keep")
    assert asked == (Recipe(importance="scale", alpha=3.0, outliers="keep"),)
    with pytest.raises(SettingError, match="fisher is not in the indicators"):
        hold_tournament(
            INDICATORS, budgets(), recipes(INDICATORS, importance="fisher"), last_layer_matters, uniform=None
        )


def noisy(pairs: Mapping[str, BitPair]) -> Preview:
    """Losses of eight images: the last layer's bits help on average, and other bits shake every image by as much."""
    better = pairs["c"][0] / 100
    shaken = [(-1) ** image * (pairs["a"][0] + pairs["b"][1]) for image in range(8)]
    losses = tuple(10.0 - better + shake for shake in shaken)
    return Preview(top1=50.0, loss=sum(losses) / 8, images=8, batchnorm_images=8, losses=losses)


def test_what_the_images_do_not_tell_apart_goes_to_uniform_bits_then_to_the_simpler_policy() -> None:
    policy = hold_tournament(INDICATORS, budgets(), RECIPES, noisy, uniform=(3, 3))
    tournament = policy.tournament
    assert tournament is not None
    assert tournament.chosen == "uniform w3a3" != tournament.candidates[0].name
    assert "a tie with the least of 4, 9.9600 (8 images, 95 % " in tournament.why
    chosen = next(one for one in tournament.candidates if one.name == tournament.chosen)
    assert chosen.behind is not None
    assert chosen.behind_low is not None
    assert chosen.behind_low < 0 < chosen.behind
    alone = hold_tournament(INDICATORS, budgets(), RECIPES, noisy, uniform=None)
    assert alone.tournament is not None
    ties = [one for one in alone.tournament.candidates if (one.behind_low or 0) <= 0]
    assert len(set(alone.pairs().values())) == min(len(set(map(str, one.bits.values()))) for one in ties)


def test_of_ties_the_usual_recipes_policy_is_taken_before_uniform_bits_and_the_least() -> None:
    usual = one_recipe(INDICATORS, importance="scale")
    policy = hold_tournament(INDICATORS, budgets(), RECIPES, noisy, uniform=(3, 3), usual=usual)
    tournament = policy.tournament
    assert tournament is not None
    assert tournament.chosen == usual.title != tournament.candidates[0].name
    assert policy.importance == "scale"
    uniform = next(one for one in tournament.candidates if one.importance is None)
    assert uniform.behind_low is not None
    assert uniform.behind_low <= 0  # a tie as well
    assert "a tie with the least of 4, 9.9600 (8 images, 95 % " in tournament.why
    assert ", the usual measure's; uniform bits 9.9700" in tournament.why
    assert len(tournament.why) < LONGEST - 15  # of more the middle is not printed


def test_the_usual_recipes_policy_gives_way_where_the_images_tell_that_it_is_worse() -> None:
    def first_layer_matters(pairs: Mapping[str, BitPair]) -> Preview:
        losses = tuple(image + 10.0 / pairs["a"][0] for image in range(8))
        return Preview(top1=50.0, loss=sum(losses) / 8, images=8, batchnorm_images=8, losses=losses)

    policy = hold_tournament(
        INDICATORS, budgets(), RECIPES, first_layer_matters, uniform=(3, 3), usual=usual_recipe(INDICATORS)
    )
    assert policy.importance == "scale"


def test_there_is_no_usual_recipe_where_indicators_carry_no_divergence() -> None:
    scales = dataclasses.replace(
        INDICATORS, layers=tuple(dataclasses.replace(layer, measures=None) for layer in INDICATORS.layers)
    )
    assert usual_recipe(scales) is None
    assert usual_recipe(INDICATORS) == Recipe(importance="kl", alpha=1.0, outliers="repair")


def test_a_policy_that_every_image_calls_worse_is_no_tie() -> None:
    def steady(pairs: Mapping[str, BitPair]) -> Preview:
        losses = tuple(image + last_layer_matters(pairs).loss for image in range(8))
        return dataclasses.replace(last_layer_matters(pairs), losses=losses)

    assert hold_tournament(INDICATORS, budgets(), RECIPES, steady, uniform=(3, 3)).importance == "kl"
