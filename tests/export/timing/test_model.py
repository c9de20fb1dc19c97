"""Latency as a sum, fitted to whole graphs: known sums come back, guesses stay where nothing tells them apart."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.model import (
    Guess,
    Key,
    Skeleton,
    fit,
    from_table,
    left_out,
    predict,
    scaled,
    to_table,
)
from limpq_deploy.export.timing.table import LatencyTable

INT8, FLOAT32 = (8, 8), (32, 32)

BONES = Skeleton(
    searched=("a", "b", "c"),
    pinned={"stem": INT8},
    measured=(INT8, FLOAT32),
    edges=(("stem", "a", 1000), ("a", "b", 500), ("b", "c", 2000)),
)

TRUTH: dict[Key, float] = {
    ("other",): 0.1,
    **{("part", layer, INT8): ms for layer, ms in (("a", 0.2), ("b", 0.3), ("c", 0.5), ("stem", 0.4))},
    **{("part", layer, FLOAT32): ms for layer, ms in (("a", 0.9), ("b", 0.8), ("c", 1.5))},
    ("fixed", "integer", 32): 0.01,
    ("element", "integer", 32): 2e-5,
    ("fixed", 32, "integer"): 0.02,
    ("element", 32, "integer"): 1e-5,
}

POLICIES: list[dict[str, BitPair]] = [
    {"a": a, "b": b, "c": c} for a in (INT8, FLOAT32) for b in (INT8, FLOAT32) for c in (INT8, FLOAT32)
]


def guesses(error: float, seed: int = 0) -> dict[Key, Guess]:
    """The truth, off by as much as ``error``."""
    draw = random.Random(seed).uniform
    found = {key: ms * (1 + draw(-error, error)) for key, ms in TRUTH.items()}
    return {key: Guess(ms, 0.15 * ms + 1e-6) for key, ms in found.items()}


def test_a_row_counts_parts_and_the_edges_where_precision_changes() -> None:
    row = BONES.row({"a": FLOAT32, "b": INT8, "c": (4, 6)})
    assert row["part", "a", FLOAT32] == row["part", "c", INT8] == row["part", "stem", INT8] == row["other",] == 1
    assert row["element", "integer", 32] == 1000
    assert row["element", 32, "integer"] == 500
    assert ("part", "a", INT8) not in row


def test_bits_wider_than_all_that_is_timed_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' has bits"):
        Skeleton(searched=("a",), pinned={}, measured=(INT8,), edges=()).row({"a": FLOAT32})


def test_whole_graphs_correct_a_guess_that_is_off() -> None:
    rows = [BONES.row(policy) for policy in POLICIES]
    measured = [predict(TRUTH, row) for row in rows]
    for number, row in enumerate(rows):
        assert left_out(guesses(0.3), rows, measured, number) == pytest.approx(measured[number], rel=0.04)
        assert predict(fit(guesses(0.3), rows, measured), row) == pytest.approx(measured[number], rel=0.01)


def test_without_graphs_the_guess_stays_and_one_graph_moves_the_most_doubtful_figures() -> None:
    start = guesses(0)
    assert fit(start, [], []) == pytest.approx(TRUTH)
    row = BONES.row(POLICIES[0])
    slower = fit(start, [row], [1.2 * predict(TRUTH, row)])
    assert predict(slower, row) == pytest.approx(1.2 * predict(TRUTH, row), rel=0.03)
    assert slower["part", "c", INT8] > 1.1 * TRUTH["part", "c", INT8]
    assert slower["part", "c", FLOAT32] == pytest.approx(TRUTH["part", "c", FLOAT32])


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 5), min_size=8, max_size=8), st.integers(0, 99))
def test_no_figure_is_ever_negative(measured: list[float], seed: int) -> None:
    found = fit(guesses(0.3, seed), [BONES.row(policy) for policy in POLICIES], measured)
    assert all(ms >= 0 for ms in found.values())


def test_a_table_holds_the_figures_and_gives_them_back_and_a_slower_machine_scales_them_all() -> None:
    empty = LatencyTable(model="m", device="d", times=())
    table = to_table(BONES, TRUTH, (), empty)
    back = {key: guess.ms for key, guess in from_table(BONES, table).items()}
    assert back == pytest.approx(TRUTH)
    twice = from_table(BONES, scaled(table, 2.0))
    for policy in POLICIES:
        row = BONES.row(policy)
        assert predict({key: guess.ms for key, guess in twice.items()}, row) == pytest.approx(2 * predict(TRUTH, row))
