"""Folders of images without labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limpq_deploy.calibration.datasets import Preprocess, open_dataset
from limpq_deploy.calibration.datasets.images import open_calibration
from limpq_deploy.calibration.errors import DataError

PLAIN = Preprocess(height=4, width=4, mean=(0.0,), std=(1.0,), channels=1)


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def values(root: Path, split: str) -> list[int]:
    images, _ = open_dataset(f"images:{root}", PLAIN).split(split).load(np.arange(len_of(root, split)))
    return [round(255 * float(image.mean())) for image in images]


def len_of(root: Path, split: str) -> int:
    return len(open_dataset(f"images:{root}", PLAIN).split(split))


def test_a_flat_folder_is_drawn_into_splits_that_share_nothing(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / f"{number}.png", number)
    (tmp_path / "notes.txt").write_text("not an image")
    splits = {name: values(tmp_path, name) for name in ("train", "val", "test")}
    assert [len(some) for some in splits.values()] == [24, 3, 3]
    assert sorted(number for some in splits.values() for number in some) == list(range(30))
    assert splits == {name: values(tmp_path, name) for name in splits}, "the same draw every time"


def test_folders_of_splits_are_taken_whatever_lies_in_them(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / "train" / str(number % 2) / f"{number}.png", number)
    save(tmp_path / "test" / "a.png", 100)
    dataset = open_dataset(f"images:{tmp_path}", PLAIN)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 18, "val": 2, "test": 1}
    assert values(tmp_path, "test") == [100]
    assert dataset.classes == ()
    assert not any(split.labelled for split in dataset.splits.values())
    assert not dataset.split("train").subset([0, 1]).labelled


def test_too_few_images_and_none_at_all_are_told(tmp_path: Path) -> None:
    save(tmp_path / "few" / "a.png", 0)
    with pytest.raises(DataError, match="holds 1 images; expected at least 3"):
        open_dataset(f"images:{tmp_path / 'few'}", PLAIN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image; expected files that end in"):
        open_dataset(f"images:{tmp_path / 'empty'}", PLAIN)
    with pytest.raises(DataError, match="does not exist; expected a folder of images"):
        open_dataset(f"images:{tmp_path / 'none'}", PLAIN)
    with pytest.raises(DataError, match="give the model a 'preprocess' attribute"):
        open_dataset(f"images:{tmp_path / 'few'}", None)


def test_calibration_is_all_of_a_folder_and_changes_with_it(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", number)
    split, before = open_calibration(tmp_path, PLAIN)
    assert (len(split), split.labelled) == (3, False)
    save(tmp_path / "more" / "3.png", 3)
    assert open_calibration(tmp_path, PLAIN)[1] != before
