"""How far BitOps predict latency: known orders give known correlations, lines their residuals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.placement import ActQuantizer, BitPair, LayerPlacement, Placement
from limpq_deploy.latency.study import (
    LatencyStudy,
    Measured,
    narrow_policies,
    native_policies,
    rank_correlation,
    study,
)
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.verdict.record import count_bitops

NAMES = ("a", "b", "c", "d")
MACS = 10**6


def placement() -> Placement:
    layers = [("stem", 8), *((name, None) for name in NAMES)]
    return Placement(
        model="net",
        target="onnxruntime",
        input_shape=(3, 8, 8),
        layers=tuple(
            LayerPlacement(
                name=name,
                kind="conv",
                input=f"{name}.in",
                macs=MACS,
                num_weights=10,
                out_channels=1,
                pinned_bits=pinned,
            )
            for name, pinned in layers
        ),
        quantizers=tuple(
            ActQuantizer(name=f"{name}.in", tensor=name, signed=False, bits=pinned, layers=(name,))
            for name, pinned in layers
        ),
    )


INDICATORS = Indicators(
    model="net",
    bits=(4, 8),
    layers=tuple(
        LayerIndicators(
            name=name, macs=MACS, num_weights=10, weight=(2.0 * loss, loss), act=(2.0 * loss, loss), kind="conv"
        )
        for name, loss in zip(NAMES, (4.0, 3.0, 2.0, 1.0), strict=True)
    ),
    pinned=(PinnedLayer(name="stem", macs=MACS, num_weights=10, weight_bits=8, act_bits=8),),
)


def measured(policies: dict[str, dict[str, BitPair]], *, off: float = 0.0) -> dict[str, Measured]:
    """Latency on a line of executed BitOps; every second engine ``off`` beside it."""
    found = {}
    for number, (name, policy) in enumerate(policies.items()):
        ms = 1 + count_bitops(name, placement(), policy).realised_all / 1e9 + (off if number % 2 else -off)
        found[name] = Measured(ms=ms, low_ms=ms - 0.01, high_ms=ms + 0.01)
    return found


def all_policies() -> dict[str, dict[str, BitPair]]:
    return {**native_policies(INDICATORS, placement(), 5), **narrow_policies(placement())}


def run(off: float = 0.0) -> LatencyStudy:
    policies = all_policies()
    return study(placement(), policies, measured(policies, off=off), device="a device", threads="default")


def test_budgets_between_all_integers_and_all_floats_give_one_policy_each() -> None:
    policies = native_policies(INDICATORS, placement(), 5)
    floats = [sum(pair == (32, 32) for pair in policy.values()) for policy in policies.values()]
    assert floats == [0, 1, 2, 3, 4]
    assert list(policies.values())[1]["a"] == (32, 32)  # the most important layer first


def test_latency_that_follows_executed_bitops_is_on_its_line() -> None:
    found = run()
    assert found.realised.value == pytest.approx(1)
    assert found.explained == pytest.approx(1)
    assert (found.base_ms, found.ms_per_gbitops) == (pytest.approx(1), pytest.approx(1))
    assert all(abs(point.residual_ms or 0) < 1e-9 for point in found.points)
    assert "order 5 engines of native pairs well by latency (rank correlation 1.00" in found.sentence


def test_over_2_to_8_bits_nominal_bitops_vary_and_latency_stays() -> None:
    found = run()
    narrow = [point for point in found.points if point.sweep == "narrow"]
    assert len({point.nominal for point in narrow}) == 5
    assert len({point.realised for point in narrow}) == 1
    assert found.narrow_spread == 0
    assert found.nominal_narrow.value is None
    assert "latency stays where it is (within 0 %)" in found.sentence


def test_engines_off_the_line_have_residuals_that_are_told() -> None:
    found = run(off=0.2)
    assert found.explained < 1
    assert max(abs(point.residual_ms or 0) for point in found.points) == pytest.approx(0.2, rel=0.3)
    assert "off by up to" in found.sentence


def test_engines_that_leave_integers_below_8_bits_are_not_said_to_execute_them() -> None:
    policies = all_policies()
    found = study(
        placement(),
        policies,
        measured(policies),
        realised={"w2a2": {"a": (16, 16)}},
        device="a device",
        threads="default",
        batch=4,
    )
    assert "On a device at batch 4 executed BitOps order" in found.sentence
    assert "Over 2 to 8 bits, of which 1 engines leave integers in places, nominal BitOps" in found.sentence
    by_name = {point.name: point.realised for point in found.points}
    assert by_name["w2a2"] - by_name["w4a4"] == MACS * (16 * 16 - 8 * 8)


def test_two_engines_say_nothing_of_an_order_and_those_not_built_are_named() -> None:
    policies = dict(list(native_policies(INDICATORS, placement(), 5).items())[:2])
    found = study(
        placement(),
        policies,
        measured(policies),
        device="a device",
        threads="default",
        refused={"native 3 G": "no kernel"},
    )
    assert found.realised.value is None
    assert "2 engines of native pairs were timed, too few" in found.sentence
    assert found.sentence.endswith(" No engine is built of native 3 G.")


@settings(max_examples=10)
@given(st.permutations(range(8)))
def test_rank_correlation_is_that_of_the_order_alone(order: list[int]) -> None:
    found = rank_correlation(list(range(8)), [2.0**place for place in order], seed=0)
    again = rank_correlation(list(range(8)), [float(place) for place in order], seed=0)
    assert found == again
    assert found.value is not None
    assert -1 - 1e-9 <= found.value <= 1 + 1e-9


def test_reversed_order_is_minus_one_and_equal_bitops_have_no_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0], seed=0).value == pytest.approx(-1)
    assert rank_correlation([1, 1, 1, 1], [4.0, 3.0, 2.0, 1.0], seed=0).value is None


def test_the_study_survives_json() -> None:
    assert from_json(LatencyStudy, to_json(run(off=0.1)), "study") == run(off=0.1)
