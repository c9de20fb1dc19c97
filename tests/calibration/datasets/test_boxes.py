"""Boxes of COCO's JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limpq_deploy.calibration.datasets import Preprocess, open_dataset
from limpq_deploy.calibration.errors import DataError

IMAGES = [
    {"id": 7, "file_name": "b.png", "width": 20, "height": 10},
    {"id": 3, "file_name": "a.png", "width": 8, "height": 8},
]
BOXES = [
    {"id": 1, "image_id": 7, "category_id": 90, "bbox": [2, 1, 4, 8], "iscrowd": 0},
    {"id": 2, "image_id": 7, "category_id": 5, "bbox": [10, 0, 10, 10], "iscrowd": 1},
]
CATEGORIES = [{"id": 90, "name": "cat"}, {"id": 5, "name": "dog"}]


def fit(side: int, resize: int | None = None) -> Preprocess:
    return Preprocess(height=side, width=side, mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize)


def write(root: Path, place: str = "{split}.json", **changes: Any) -> Path:
    for split in ("train", "val", "test"):
        path = root / place.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": IMAGES, "annotations": BOXES, "categories": CATEGORIES, **changes}))
        (root / split).mkdir(exist_ok=True)
        for one in IMAGES:
            picture = Image.new("RGB", (int(str(one["width"])), int(str(one["height"]))))
            picture.save(root / split / str(one["file_name"]))
    return root


@pytest.mark.parametrize(
    "place", ["{split}.json", "annotations/instances_{split}.json", "{split}/_annotations.coco.json"]
)
def test_boxes_lie_in_the_models_input_in_the_order_of_ids(tmp_path: Path, place: str) -> None:
    dataset = open_dataset(f"coco:{write(tmp_path, place)}", fit(40))
    assert dataset.classes == ("dog", "cat")
    images, boxes = dataset.split("train").load(np.arange(2))
    assert images.shape == (2, 3, 40, 40)
    assert boxes[0].tolist() == [[0, 0, 0, 0, -1, 0]] * 2, "image 3 has none"
    assert boxes[1].tolist() == [[4, 4, 12, 36, 1, 0], [20, 0, 40, 40, 0, 1]]


def test_a_crop_cuts_boxes_and_takes_those_away_that_lie_outside(tmp_path: Path) -> None:
    dataset = open_dataset(f"coco:{write(tmp_path)}", fit(4, resize=10))
    _, boxes = dataset.split("test").load(np.arange(2))
    # 20 x 10 stays; the middle 4 x 4 begins at (8, 3): the first box ends at x = 6, the second is cut to its part
    assert boxes[1].tolist() == [[2, 0, 4, 4, 0, 1]]


def test_other_boxes_are_other_data(tmp_path: Path) -> None:
    before = open_dataset(f"coco:{write(tmp_path)}", fit(4)).digest()
    moved = [{**BOXES[0], "bbox": [2, 1, 4, 7]}, BOXES[1]]
    assert open_dataset(f"coco:{write(tmp_path, annotations=moved)}", fit(4)).digest() != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations": [{"image_id": 9, "category_id": 5, "bbox": [0, 0, 1, 1]}]}, "not COCO's JSON of boxes"),
        ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [0, 0, 1]}]}, "not COCO's JSON of boxes"),
        ({"annotations": [{"image_id": 7, "category_id": 6, "bbox": [0, 0, 1, 1]}]}, "not COCO's JSON of boxes"),
        ({"images": []}, "not COCO's JSON of boxes"),
        ({"images": [{**IMAGES[0], "file_name": "c.png"}], "annotations": []}, r"names an image c\.png that is not in"),
        ({"categories": 3}, "not COCO's JSON of boxes"),
    ],
)
def test_files_of_another_form_are_told(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_dataset(f"coco:{write(tmp_path, **changes)}", fit(4))


def test_a_split_without_boxes_lists_where_they_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no boxes of the split train; expected one of annotations/instances_train\.json"
    ):
        open_dataset(f"coco:{tmp_path}", fit(4))
