import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.outliers import OutlierMode, non_increasing, treat_outliers


def one_layer(*weight: float) -> Indicators:
    bits = tuple(range(2, 2 + len(weight)))
    layer = LayerIndicators(name="a", macs=1, num_weights=1, weight=weight, act=(1.0,) * len(weight))
    return Indicators(model="one", bits=bits, layers=(layer,))


def test_an_entry_below_its_successor_is_forbidden() -> None:
    importance = treat_outliers(one_layer(4.0, 1.0, 2.0, 0.5), "forbid")
    assert importance.weight["a"] == (4.0, None, 2.0, 0.5)
    (entry,) = importance.outliers.entries
    assert (entry.layer, entry.tensor, entry.bits, entry.learned, entry.used) == ("a", "weight", 3, 1.0, None)


def test_forbidding_always_leaves_the_widest_entry() -> None:
    assert treat_outliers(one_layer(1.0, 2.0, 3.0), "forbid").weight["a"] == (None, None, 3.0)


def test_repair_takes_the_mean_of_neighbours_that_ascend() -> None:
    importance = treat_outliers(one_layer(4.0, 1.0, 2.0, 0.5), "repair")
    assert importance.weight["a"] == (4.0, 1.5, 1.5, 0.5)
    assert [(entry.bits, entry.learned, entry.used) for entry in importance.outliers.entries] == [
        (3, 1.0, 1.5),
        (4, 2.0, 1.5),
    ]


def test_keep_changes_nothing_and_still_says_what_it_found() -> None:
    importance = treat_outliers(one_layer(4.0, 1.0, 2.0, 0.5), "keep")
    assert importance.weight["a"] == (4.0, 1.0, 2.0, 0.5)
    assert [(entry.bits, entry.learned, entry.used) for entry in importance.outliers.entries] == [(3, 1.0, 1.0)]


@pytest.mark.parametrize("mode", ["forbid", "repair", "keep"])
def test_indicators_that_never_rise_are_left_alone(mode: OutlierMode) -> None:
    importance = treat_outliers(one_layer(3.0, 3.0, 1.0), mode)
    assert importance.weight["a"] == (3.0, 3.0, 1.0)
    assert importance.outliers.entries == ()


sequences = st.lists(st.integers(0, 20).map(float), min_size=1, max_size=6).map(tuple)


@given(values=sequences)
def test_a_repaired_sequence_never_rises_and_keeps_its_mean(values: tuple[float, ...]) -> None:
    repaired = non_increasing(values)
    assert all(a >= b for a, b in itertools.pairwise(repaired))
    assert sum(repaired) == pytest.approx(sum(values), abs=1e-9)


@given(values=sequences, other=sequences)
def test_no_other_non_increasing_sequence_is_closer(values: tuple[float, ...], other: tuple[float, ...]) -> None:
    rival = sorted((other * len(values))[: len(values)], reverse=True)
    ours = sum((a - b) ** 2 for a, b in zip(non_increasing(values), values, strict=True))
    theirs = sum((a - b) ** 2 for a, b in zip(rival, values, strict=True))
    assert ours <= theirs + 1e-9  # sums of squares below 3000 in doubles
