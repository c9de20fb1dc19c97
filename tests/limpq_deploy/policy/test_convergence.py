from dataclasses import replace

import pytest

from limpq_deploy.policy.convergence import (
    REGRET,
    Snapshots,
    Stability,
    as_json,
    at_snapshot,
    convergence_sentence,
    due,
    from_json,
    snapshots_of,
    spread,
    stability_at_uniform,
)
from limpq_deploy.policy.indicators import Indicators, LayerIndicators

BITS = (2, 3, 4)


def indicators(*weights: tuple[float, ...], pairs: tuple[tuple[int, int], ...] | None = None) -> Indicators:
    """Layers of equal cost, whose activations matter alike."""
    return Indicators(
        model="two",
        bits=BITS,
        layers=tuple(
            LayerIndicators(
                name=name,
                macs=100,
                num_weights=10,
                weight=weight,
                act=(0.4, 0.2, 0.1),
                weight_init=(1.0, 0.5, 0.25),
                act_init=(0.4, 0.2, 0.1),
                pairs=pairs,
            )
            for name, weight in zip("ab", weights, strict=True)
        ),
    )


STEEP, FLAT = (1.0, 0.5, 0.1), (0.2, 0.19, 0.18)
FIRST_MATTERS, SECOND_MATTERS = indicators(STEEP, FLAT), indicators(FLAT, STEEP)


def taken(*found: Indicators) -> Snapshots:
    """Snapshots after 10, 20, ... steps."""
    snapshots = Snapshots()
    for number, one in enumerate(found):
        snapshots.take(10 * (number + 1), one)
    return snapshots


def test_a_policy_that_stays_has_no_regret() -> None:
    found = stability_at_uniform(FIRST_MATTERS, taken(FIRST_MATTERS, FIRST_MATTERS).taken)
    assert list(found) == ["w3a3"]
    assert found["w3a3"] == Stability(steps=(10, 20), changed=(0.0, 0.0), regret=(0.0, 0.0))
    assert found["w3a3"].stands


def test_an_earlier_policy_that_favoured_the_wrong_layer_is_regretted() -> None:
    found = stability_at_uniform(FIRST_MATTERS, taken(SECOND_MATTERS, FIRST_MATTERS).taken)["w3a3"]
    assert found.changed == (1.0, 0.0)
    assert found.regret[0] > 0.2
    assert found.regret[1] == 0
    assert not found.stands
    assert found.sentence().startswith("policy since step 10: 100 % of layers changed, regret ")


def test_policies_of_nearly_equal_worth_stand_although_bits_change() -> None:
    almost = indicators((0.5, 0.3, 0.2001), (0.5, 0.3, 0.2)), indicators((0.5, 0.3, 0.2), (0.5, 0.3, 0.2001))
    found = stability_at_uniform(almost[0], taken(almost[1]).taken)["w3a3"]
    assert found.regret[0] <= REGRET
    assert found.stands


def test_where_activations_have_one_width_the_budgets_have_it_too() -> None:
    pairs = tuple((bits, 4) for bits in BITS)
    found = stability_at_uniform(
        indicators(STEEP, FLAT, pairs=pairs), taken(indicators(FLAT, STEEP, pairs=pairs)).taken
    )
    assert list(found) == ["w3a4"]
    assert found["w3a4"].changed == (1.0,)


def test_only_snapshots_of_the_last_part_count() -> None:
    snapshots = taken(*[FIRST_MATTERS] * 10)
    assert [one.step for one in snapshots.last_part(100)] == [70, 80, 90]
    assert snapshots.last_part(10) == []


def test_a_snapshot_is_due_twenty_times_and_at_the_end() -> None:
    assert [step for step in range(1, 101) if due(step, 100)] == list(range(5, 101, 5))
    assert [step for step in range(1, 8) if due(step, 7)] == list(range(1, 8))
    assert sum(due(step, 1010) for step in range(1, 1011)) == 21


def test_snapshots_survive_a_file_and_a_killed_training() -> None:
    snapshots = taken(FIRST_MATTERS, SECOND_MATTERS)
    again = Snapshots()
    again.restore(*snapshots.state())
    assert again.taken == snapshots.taken
    assert from_json(as_json(snapshots.taken)) == snapshots.taken
    assert at_snapshot(FIRST_MATTERS, snapshots.taken[1]) == SECOND_MATTERS


def test_movement_and_swing_are_relative() -> None:
    found = spread(FIRST_MATTERS, taken(indicators((2.0, 0.5, 0.1), FLAT)).taken)["a"]
    assert found["weight_moved"] == [0.0, 0.0, -0.6]
    assert found["weight_swing"] == [1.0, 0.0, 0.0]
    assert found["act_swing"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("source", [None, "elsewhere", {}, {"convergence": {"policies": {}}}])
def test_indicators_from_elsewhere_say_nothing(source: object) -> None:
    assert convergence_sentence(source) == ""
    assert snapshots_of(Indicators(model="m", bits=BITS, layers=(), source=source)) == []


def test_activations_kept_in_float_have_scales_that_do_not_move() -> None:
    layers = tuple(replace(layer, act=(0.0,) * 3, act_init=(0.0,) * 3) for layer in FIRST_MATTERS.layers)
    floats = replace(FIRST_MATTERS, layers=layers)
    entry = spread(floats, taken(floats).taken)["a"]
    assert entry["act_moved"] == entry["act_swing"] == [0.0, 0.0, 0.0]
    assert entry["weight_moved"][2] == round(0.1 / 0.25 - 1, 4)
