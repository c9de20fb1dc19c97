"""The Add of Arm kernels, against its steps in plain integers; no Arm machine was at hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.export.reference.arm import Grid, add_table_here, arm_add_table, multipliers
from limpq_deploy.export.reference.operators import add_table

SCALE = st.floats(2.0**-4, 2.0**3, width=32).map(np.float32)
TYPES = st.sampled_from([np.dtype(np.uint8), np.dtype(np.int8)])


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    dtype = draw(TYPES)
    ends = np.iinfo(dtype)
    return draw(SCALE), draw(st.integers(ends.min, ends.max)), dtype


def plain(a: int, b: int, first: Grid, second: Grid, out: Grid) -> int:
    """One pair of codes, step by step as the instructions do it: multiply, add, less one where negative, rounding
    shift, saturate."""
    found = multipliers(np.float32(first[0] / out[0]), np.float32(second[0] / out[0]))
    assert found is not None
    shift, factor_a, factor_b = found
    total = (a - first[1]) * factor_a + (b - second[1]) * factor_b
    assert -(2**31) <= total < 2**31
    total += -1 if total < 0 else 0
    total = (total + (1 << (shift - 1))) >> shift
    ends = np.iinfo(out[2])
    return int(min(max(total + out[1], ends.min), ends.max))


@settings(max_examples=100, deadline=None)
@given(first=grids(), second=grids(), out=grids(), codes=st.lists(st.tuples(*[st.integers(0, 255)] * 2), max_size=20))
def test_every_entry_is_what_the_instructions_give(
    first: Grid, second: Grid, out: Grid, codes: list[tuple[int, int]]
) -> None:
    table = arm_add_table(first, second, out)
    assert table.dtype == out[2]
    for a, b in codes:
        code_a, code_b = (int(np.uint8(code).view(grid[2])) for code, grid in ((a, first), (b, second)))
        assert int(table[a, b]) == plain(code_a, code_b, first, second, out)


@settings(max_examples=50, deadline=None)
@given(first=grids(), second=grids(), out=grids())
def test_it_differs_from_x86_by_one_step_at_most(first: Grid, second: Grid, out: Grid) -> None:
    arm, x86 = (make(first, second, out).astype(int) for make in (arm_add_table, add_table))
    assert np.abs(arm - x86).max() <= 1


def test_ties_go_away_from_zero_where_x86_goes_to_even() -> None:
    one, half = (np.float32(1), 0, np.dtype(np.int8)), (np.float32(0.5), 0, np.dtype(np.int8))
    arm, x86 = arm_add_table(half, half, one), add_table(half, half, one)
    rows = [1, 3, 255, 253]  # codes 1, 3, -1, -3: halves of a step
    assert [int(arm[row, 0]) for row in rows] == [1, 2, -1, -2]
    assert [int(x86[row, 0]) for row in rows] == [0, 2, 0, -2]


@pytest.mark.parametrize("ratio", [2.0**-15, 300.0])
def test_ratios_out_of_range_are_added_in_floats(ratio: float) -> None:
    one = (np.float32(1), 0, np.dtype(np.int8))
    other = (np.float32(ratio), 0, np.dtype(np.int8))
    assert multipliers(np.float32(1), np.float32(ratio)) is None
    assert np.array_equal(arm_add_table(one, other, one), add_table(one, other, one))


@pytest.mark.parametrize(
    ("machine", "form"), [("x86_64", add_table), ("aarch64", arm_add_table), ("arm64", arm_add_table)]
)
def test_the_form_is_that_of_the_machine(machine: str, form: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert add_table_here() is form
