"""From image to input tensor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.datasets import Preprocess
from limpq_deploy.calibration.records import from_json, to_json

RGB = Preprocess(height=2, width=2, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_pixels_are_scaled_to_one_then_normalised_per_channel() -> None:
    image = np.full((2, 2, 3), 255, np.uint8)
    out = RGB.apply(image)
    assert out.dtype == np.float32
    assert out.shape == (3, 2, 2)
    np.testing.assert_allclose(out[:, 0, 0], [2.0, 1.0, 0.5], atol=1e-6)


def test_the_formula_holds_for_every_byte() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    preprocess = Preprocess(height=16, width=16, mean=(0.3,), std=(0.2,), channels=1)
    exact = (np.arange(256) / 255 - 0.3) / 0.2
    # two float32 roundings of numbers below 4: a few times 2^-22
    np.testing.assert_allclose(preprocess.apply(image).ravel(), exact, atol=1e-6)


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    image = _noise(2, 2, 3)
    np.testing.assert_array_equal(RGB.fit(image), image.transpose(2, 0, 1))


def test_another_size_is_resized_straight_to_the_input_without_a_crop() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 255
    out = RGB.fit(image)
    assert out[0, 0, 0] < 40
    assert out[0, 0, 1] > 215


def test_a_short_side_resizes_and_crops_the_centre() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    cropping = Preprocess(height=4, width=4, mean=(0.0,) * 3, std=(1.0,) * 3, resize=4)
    np.testing.assert_array_equal(cropping.fit(image), np.full((3, 4, 4), 200))


def test_a_grey_image_fills_three_channels_and_colours_become_grey() -> None:
    grey = _noise(2, 2)
    assert (RGB.fit(grey) == grey).all()
    one = Preprocess(height=2, width=2, mean=(0.0,), std=(1.0,), channels=1)
    np.testing.assert_array_equal(one.fit(np.repeat(grey[..., None], 3, axis=2))[0], grey)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": 0}, "at least one pixel"),
        ({"channels": 0, "mean": (), "std": ()}, "at least one channel"),
        ({"channels": 2}, "each of 2 channels"),
        ({"mean": (0.5,)}, "mean and a std for each"),
        ({"std": (0.0, 1.0, 1.0)}, "std positive"),
        ({"resize": 1}, "too small"),
    ],
)
def test_contradictions_are_refused(change: dict, says: str) -> None:
    arguments = {"height": 2, "width": 2, "mean": (0.5,) * 3, "std": (1.0,) * 3} | change
    with pytest.raises(ValueError, match=says):
        Preprocess(**arguments)


def test_a_float_image_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        RGB.apply(np.zeros((2, 2, 3)))  # type: ignore[arg-type]


finite = st.floats(-2, 2)


@given(st.integers(1, 300), st.sampled_from([1, 3]), st.data())
def test_preprocess_survives_json(size: int, channels: int, data: st.DataObject) -> None:
    mean = tuple(data.draw(finite) for _ in range(channels))
    std = tuple(data.draw(st.floats(0.01, 2)) for _ in range(channels))
    resize = data.draw(st.none() | st.integers(size, 400))
    record = Preprocess(height=size, width=size, mean=mean, std=std, resize=resize, channels=channels)
    assert from_json(Preprocess, to_json(record), "a test") == record
