"""Both ends of every grid, written out."""

import pytest

from limpq_deploy.calibration.numbers.grid import QuantGrid


@pytest.mark.parametrize(("bits", "low", "high"), [(2, -2, 1), (3, -4, 3), (4, -8, 7), (7, -64, 63), (8, -128, 127)])
def test_a_signed_grid_has_one_code_more_below_zero_and_a_narrow_one_has_not(bits: int, low: int, high: int) -> None:
    signed, narrow = QuantGrid(bits=bits, signed=True), QuantGrid(bits=bits, signed=True, narrow=True)
    assert (signed.qmin, signed.qmax) == (low, high)
    assert (narrow.qmin, narrow.qmax) == (-high, high)


@pytest.mark.parametrize(("bits", "high"), [(2, 3), (3, 7), (4, 15), (7, 127), (8, 255)])
def test_an_unsigned_grid_begins_at_zero(bits: int, high: int) -> None:
    grid = QuantGrid(bits=bits, signed=False)
    assert (grid.qmin, grid.qmax) == (0, high)


@pytest.mark.parametrize(
    ("bits", "low", "high"),
    [(2, -1, 2), (3, -1, 6), (4, -1, 14), (5, -2, 29), (6, -4, 59), (7, -8, 119), (8, -16, 239)],
)
def test_a_sixteenth_of_an_offset_grid_lies_below_zero_and_one_code_at_least(bits: int, low: int, high: int) -> None:
    grid = QuantGrid(bits=bits, signed=True, offset=True)
    assert (grid.qmin, grid.qmax) == (low, high)
    assert grid.qmax - grid.qmin + 1 == 2**bits


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 1, "signed": True},
        {"bits": 9, "signed": False},
        {"bits": 4, "signed": False, "narrow": True},
        {"bits": 4, "signed": False, "offset": True},
        {"bits": 4, "signed": True, "narrow": True, "offset": True},
    ],
)
def test_grids_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="grid"):
        QuantGrid(**wrong)  # type: ignore[arg-type]
