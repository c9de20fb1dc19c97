"""Seeded augmentation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.datasets import Augment, Preprocess
from limpq_deploy.calibration.datasets.augment import mean_fill


def _images(num: int = 64, size: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 256, (num, 3, size, size), dtype=np.uint8)


@given(pad=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 2**32))
def test_every_result_is_a_crop_of_the_padded_image_or_of_its_mirror(pad: int, flip: bool, seed: int) -> None:
    images = _images(num=4)
    out = Augment(pad=pad, flip=flip).apply(images, np.random.default_rng(seed))
    for image, got in zip(images, out, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        crops = [padded[:, y : y + 6, x : x + 6] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        wanted = [*crops, *(crop[..., ::-1] for crop in crops)] if flip else crops
        assert any((got == crop).all() for crop in wanted)


def test_equal_seeds_give_equal_batches_and_another_seed_another() -> None:
    augment = Augment(pad=2, flip=True)
    first, again, other = (augment.apply(_images(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_about_half_of_the_images_are_mirrored_and_all_offsets_occur() -> None:
    images = _images(num=400)
    mirrored = (Augment(pad=0, flip=True).apply(images, np.random.default_rng(0)) != images).any(axis=(1, 2, 3))
    assert 150 < mirrored.sum() < 250  # five standard deviations around 200
    marked = np.zeros((400, 1, 3, 3), np.uint8)
    marked[:, :, 1, 1] = 1
    moved = Augment(pad=1, flip=False).apply(marked, np.random.default_rng(0))
    assert (moved.sum(axis=(0, 1)) > 0).all()


def test_the_original_is_left_alone() -> None:
    images = _images()
    before = images.copy()
    Augment(pad=2, flip=True).apply(images, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)


def test_a_negative_pad_is_refused() -> None:
    with pytest.raises(ValueError, match="number of pixels"):
        Augment(pad=-1, flip=False)


def test_the_border_has_the_fill_colour_and_the_image_is_untouched() -> None:
    images = _images(num=200)
    out = Augment(pad=2, flip=False, fill=(7, 8, 9)).apply(images, np.random.default_rng(0))
    for image, got in zip(images, out, strict=True):
        padded = np.stack(
            [np.pad(plane, 2, constant_values=colour) for plane, colour in zip(image, (7, 8, 9), strict=True)]
        )
        crops = [padded[:, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
        assert any((got == crop).all() for crop in crops)
    with pytest.raises(ValueError, match="0 to 255"):
        Augment(pad=1, flip=False, fill=(256,))


def test_the_mean_colour_is_next_to_zero_after_normalisation() -> None:
    preprocess = Preprocess(height=4, width=4, mean=(0.485, 0.456, -0.2), std=(0.229, 0.224, 0.225))
    fill = mean_fill(preprocess)
    assert fill == (124, 116, 0)
    image = np.broadcast_to(np.array(fill, np.uint8)[None, :, None, None], (1, 3, 4, 4))
    assert abs(preprocess.normalise(image)[:, :2]).max() < 0.01
