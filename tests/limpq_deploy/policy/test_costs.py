from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.policy.budgets import (
    budgets_from_options,
    budgets_of,
    compression_budget,
    gbitops_budget,
    like_budget,
    parse_like,
    uniform_policy_within,
)
from limpq_deploy.policy.costs import BitOps, Budget, WeightSize, total_cost, uniform_pairs
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.restrictions import restrict


def two_layers(bits: tuple[int, ...] = (2, 4, 8)) -> Indicators:
    """a: 100 MACs, 10 weights; b: 50 MACs, 30 weights; pinned at 8 bits: 7 MACs, 5 weights."""
    scales = tuple(1 / width for width in bits)
    return Indicators(
        model="two",
        bits=bits,
        layers=(
            LayerIndicators(name="a", macs=100, num_weights=10, weight=scales, act=scales),
            LayerIndicators(name="b", macs=50, num_weights=30, weight=scales, act=scales),
        ),
        pinned=(PinnedLayer(name="stem", macs=7, num_weights=5, weight_bits=8, act_bits=8),),
    )


def test_bitops_are_macs_times_both_bit_widths() -> None:
    pairs = {"a": (2, 4), "b": (4, 8)}
    assert total_cost(BitOps(pinned=False), two_layers(), pairs) == 100 * 2 * 4 + 50 * 4 * 8
    assert total_cost(BitOps(pinned=True), two_layers(), pairs) == 100 * 2 * 4 + 50 * 4 * 8 + 7 * 8 * 8


def test_size_counts_weights_of_pinned_layers_too() -> None:
    assert total_cost(WeightSize(), two_layers(), {"a": (2, 4), "b": (4, 8)}) == 10 * 2 + 30 * 4 + 5 * 8


def test_like_limits_the_searched_layers_only() -> None:
    assert like_budget(two_layers(), 3, 5).limit == 150 * 3 * 5


def test_gbitops_are_thousand_millions_and_count_pinned_layers() -> None:
    budget = gbitops_budget(two_layers(), "0.1")
    assert budget.limit == 10**8  # as typed: the float 0.1 is above one tenth, its decimal is not
    assert budget.cost.pinned


def test_compression_ratio_compares_with_32_bits_pinned_included() -> None:
    assert compression_budget(two_layers(), 8).limit == 32 * 45 // 8


def mib_budget(indicators: Indicators, mib: float | str) -> Budget:
    return budgets_of("max_mib", indicators, mib)[0]


def test_a_mebibyte_is_two_to_the_twenty_bytes() -> None:
    assert mib_budget(two_layers(), 1.5).limit == 3 * 2**22


@pytest.mark.parametrize(("text", "pair"), [("w4a4", (4, 4)), ("W3A8", (3, 8)), ("w16a16", (16, 16))])
def test_like_is_read(text: str, pair: tuple[int, int]) -> None:
    assert parse_like(text) == pair


@pytest.mark.parametrize("text", ["", "4", "w4", "a4w4", "w0a4", "w4a33", "w-4a4", "w4.5a4", "w4a4x"])
def test_an_unreadable_like_says_what_was_expected(text: str) -> None:
    with pytest.raises(SettingError, match="expected wNaM"):
        parse_like(text)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "much"])
def test_a_budget_is_a_number_above_zero(value: float | str) -> None:
    with pytest.raises(SettingError, match="above 0"):
        gbitops_budget(two_layers(), value)


def test_two_budgets_of_one_kind_are_refused() -> None:
    with pytest.raises(SettingError, match="one of them"):
        budgets_from_options(two_layers(), like="w4a4", max_gbitops=1)
    with pytest.raises(SettingError, match="one of them"):
        budgets_from_options(two_layers(), max_mib=1, compression_ratio=8)


def test_no_budget_at_all_is_refused() -> None:
    with pytest.raises(SettingError, match="no budget"):
        budgets_from_options(two_layers())


@given(used=st.integers(1, 10**12))
def test_a_figure_typed_as_the_limit_admits_the_cost_it_tells(used: int) -> None:
    def typed(budget: Budget) -> str:
        return budget.figure(used).split()[0]

    shape = Indicators(
        model="one",
        bits=(2,),
        layers=(LayerIndicators(name="a", macs=1, num_weights=10**11, weight=(1.0,), act=(1.0,)),),
    )
    assert gbitops_budget(shape, typed(gbitops_budget(shape, 1))).limit >= used
    assert mib_budget(shape, typed(mib_budget(shape, 1))).limit >= used
    assert compression_budget(shape, typed(compression_budget(shape, 1))).limit >= used


@given(used=st.integers(1, 10**12))
def test_a_figure_is_within_six_digits_of_the_cost(used: int) -> None:
    told = Fraction(gbitops_budget(two_layers(), 1).figure(used).split()[0]) * 10**9
    assert 0 <= told / used - 1 <= Fraction(1, 10**5)


def test_the_like_policy_is_the_one_to_compare_with_where_it_fits() -> None:
    indicators = two_layers()
    budget = like_budget(indicators, 4, 4)
    assert uniform_policy_within(indicators, [budget], like=(4, 4)) == (4, 4)


def test_a_like_that_breaks_another_budget_gives_way_to_the_largest_that_fits() -> None:
    indicators = two_layers()
    budgets = [like_budget(indicators, 4, 4), compression_budget(indicators, 9)]  # at most 160 bits: weights at 2 bits
    assert uniform_policy_within(indicators, budgets, like=(4, 4)) == (2, 8)


def test_a_like_that_is_no_candidate_only_sets_the_limit() -> None:
    indicators = two_layers()
    assert uniform_policy_within(indicators, [like_budget(indicators, 3, 5)], like=(3, 5)) == (4, 2)


def test_equal_bitops_go_to_the_larger_minimum_then_to_the_weights() -> None:
    indicators = two_layers()
    assert uniform_policy_within(indicators, [like_budget(indicators, 4, 4)]) == (4, 4)  # 2 x 8 is as much
    assert uniform_policy_within(indicators, [like_budget(indicators, 2, 4)]) == (4, 2)


def test_no_uniform_policy_may_fit() -> None:
    indicators = two_layers()
    assert uniform_policy_within(indicators, [like_budget(indicators, 1, 2)], like=(1, 2)) is None


def test_a_uniform_policy_to_compare_with_keeps_lower_bounds_pins_and_spaces() -> None:
    indicators, budgets = two_layers(), [like_budget(two_layers(), 4, 4)]
    bounded = restrict(indicators, min_bits=["a.weight=4"])
    assert uniform_policy_within(bounded, [like_budget(indicators, 2, 8)]) == (4, 4)  # 2 x 8 breaks the bound
    assert uniform_policy_within(restrict(indicators, space="w*a8"), budgets, like=(4, 4)) == (2, 8)
    assert uniform_policy_within(restrict(indicators, pin=["b=w8a2"]), budgets, like=(4, 4)) == (8, 2)
    assert uniform_policy_within(restrict(indicators, pin=["b=w8a2", "a=w2a2"]), budgets) is None


def test_uniform_pairs_cover_every_searched_layer() -> None:
    assert uniform_pairs(two_layers(), 4, 8) == {"a": (4, 8), "b": (4, 8)}
