"""E4M3 in NumPy, against the implementations of two libraries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.numbers.float8 import (
    FP8_NUMBERS,
    FP8_OF_BYTE,
    LAST_PLACE,
    fp8_bytes,
    fp8_numbers,
    fp8_places,
    nearest_fp8,
)

ml_dtypes = pytest.importorskip("ml_dtypes", reason="comes with onnx")

BYTES = np.arange(256, dtype=np.uint8)


def test_every_byte_is_the_number_that_ml_dtypes_has() -> None:
    expected = BYTES.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(fp8_numbers(BYTES), expected)
    finite = np.isfinite(FP8_OF_BYTE)
    np.testing.assert_array_equal(fp8_bytes(FP8_OF_BYTE[finite]), BYTES[finite])


def test_the_format_has_253_numbers_up_to_448_each_one_place_from_the_next() -> None:
    assert (len(FP8_NUMBERS), FP8_NUMBERS[0], FP8_NUMBERS[-1]) == (253, -448, 448)
    np.testing.assert_array_equal(fp8_places(FP8_NUMBERS), np.arange(-LAST_PLACE, LAST_PLACE + 1))
    np.testing.assert_array_equal(FP8_NUMBERS[fp8_places(FP8_NUMBERS) + LAST_PLACE], FP8_NUMBERS)


def test_floats_of_all_sizes_are_rounded_as_ml_dtypes_rounds_and_large_ones_saturate() -> None:
    values = np.arange(0, 2**32, 99991, dtype=np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        np.testing.assert_array_equal(nearest_fp8(values), expected)
    assert nearest_fp8(np.array([1e30, -np.inf])).tolist() == [448, -448]


@given(place=st.integers(-LAST_PLACE, LAST_PLACE - 1))
def test_half_way_between_two_numbers_the_even_one_is_taken(place: int) -> None:
    below, above = FP8_NUMBERS[place + LAST_PLACE], FP8_NUMBERS[place + LAST_PLACE + 1]
    found = nearest_fp8(np.array([(below + above) / 2], np.float32))
    assert found[0] in (below, above)
    assert fp8_bytes(found)[0] % 2 == 0
