"""Masks beside images."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from limpq_deploy.calibration.datasets import IGNORED, Preprocess, open_dataset
from limpq_deploy.calibration.errors import DataError


def fit(side: int, resize: int | None = None) -> Preprocess:
    return Preprocess(height=side, width=side, mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(root: Path, count: int = 1, side: int = 8) -> NDArray[np.uint8]:
    """Images whose red channel is ten times their mask."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 5, (count, side, side), np.uint8)
    for number, mask in enumerate(masks):
        save(root / "masks" / f"{number:02}.png", mask)
        save(root / "images" / f"{number:02}.png", np.stack([10 * mask] * 3, 2))
    return masks


def test_masks_lie_beside_their_images_in_a_split_or_are_drawn_with_them(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / "split" / split)
    write(tmp_path / "flat", count=20)
    assert len(open_dataset(f"masks:{tmp_path / 'split'}", fit(8)).split("train")) == 1
    drawn = open_dataset(f"masks:{tmp_path / 'flat'}", fit(8))
    assert {name: len(split) for name, split in drawn.splits.items()} == {"train": 16, "val": 2, "test": 2}
    images, masks = drawn.split("train").load(np.arange(16))
    assert np.array_equal(np.rint(images[:, 0] * 25.5), masks)


def test_a_mask_moves_with_its_image(tmp_path: Path) -> None:
    write(tmp_path, count=3)
    dataset = open_dataset(f"masks:{tmp_path}", fit(8), needs=())
    assert dataset.augment is not None
    split = next(iter(dataset.splits.values()))
    images, masks = split.load(np.zeros(16, np.int64), augment=dataset.augment, seed=3)
    inside = masks != IGNORED
    assert 0 < (~inside).sum() < masks.size / 2, "some are moved past their border"
    assert np.array_equal(np.rint(images[:, 0] * 25.5)[inside], masks[inside])


@pytest.mark.parametrize("resize", [None, 8])
def test_a_mask_is_placed_as_its_image_is_and_mixes_no_classes(tmp_path: Path, resize: int | None) -> None:
    halves = np.zeros((8, 12), np.uint8)
    halves[:, 6:] = 4
    save(tmp_path / "images" / "a.png", np.stack([10 * halves] * 3, 2))
    save(tmp_path / "masks" / "a.png", halves)
    for number in "bc":
        save(tmp_path / "images" / f"{number}.png", np.zeros((8, 8, 3), np.uint8))
        save(tmp_path / "masks" / f"{number}.png", np.zeros((8, 8), np.uint8))
    dataset = open_dataset(f"masks:{tmp_path}", fit(4, resize))
    loaded = [split.load(np.arange(len(split))) for split in dataset.splits.values()]
    images, masks = (np.concatenate(one) for one in zip(*loaded, strict=True))
    [at] = np.flatnonzero(masks.any((1, 2)))
    assert masks[at].tolist() == [[0, 0, 4, 4]] * 4
    assert (images[at, 0, :, 0] < images[at, 0, :, 3]).all()


def test_an_image_without_its_mask_and_a_mask_of_colours_are_told(tmp_path: Path) -> None:
    write(tmp_path / "lost", count=3)
    (tmp_path / "lost" / "masks" / "01.png").unlink()
    with pytest.raises(DataError, match=r"01\.png has no mask .*masks/01\.png; expected a mask for every image"):
        open_dataset(f"masks:{tmp_path / 'lost'}", fit(8))
    write(tmp_path / "red", count=3)
    for number in range(3):
        save(tmp_path / "red" / "masks" / f"{number:02}.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="picture of mode RGB; expected one channel of class indices, or a palette"):
        open_dataset(f"masks:{tmp_path / 'red'}", fit(8)).split("train").load(np.arange(1))
