"""How far BitOps predict latency: known orders give known correlations, lines their residuals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.placement import ActQuantizer, BitPair, LayerPlacement, Placement
from limpq_deploy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.latency.study import (
    LatencyStudy,
    Measured,
    narrow_policies,
    native_policies,
    rank_correlation,
    study,
)
from limpq_deploy.verdict import count_bitops

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
