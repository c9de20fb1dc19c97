"""Images with boxes around what they show, as COCO's JSON names them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets.augment import Moves
from limpq_deploy.calibration.datasets.base import SPLITS, DataSet, Split, digest_of_arrays
from limpq_deploy.calibration.datasets.imagefolder import ImageFile, fingerprint_of
from limpq_deploy.calibration.datasets.images import fit_of, split_of_files
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.datasets.text import shown
from limpq_deploy.calibration.errors import DataError

COLUMNS = ("x1", "y1", "x2", "y2", "class", "crowd")
"""Of a box: corners in pixels of the model's input, class index (-1: no box, to fill up rows), 1 for a crowd."""

NO_BOX = (0.0, 0.0, 0.0, 0.0, -1.0, 0.0)

PLACES = ("annotations/instances_{split}.json", "{split}/_annotations.coco.json", "{split}.json")
"""Where the boxes of a split may be named, below PATH."""

LEAST_SIDE = 1.0
"""Pixels of the input; a box that is left with less, by a crop or by shrinking, is none."""


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Images of one file in the order of their ids, the boxes of each [boxes, 6], and categories by id."""

    files: list[ImageFile]
    boxes: list[NDArray[np.float64]]
    sizes: list[tuple[int, int]]
    categories: dict[int, str]


def open_boxes(
    root: Path, preprocess: Preprocess | None, classes_file: Path | None, needs: tuple[str, ...] = SPLITS
) -> DataSet:
    """Splits of COCO's JSON at one of `PLACES`, images in PATH/<split>/ (or where the file names lead from PATH).

    Targets are [N, most boxes of an image, 6], see `COLUMNS`. Classes are the categories in the order of their ids.
    Raises DataError for files that are missing or of another form.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; expected COCO's JSON files and images below it")
    if classes_file is not None:
        raise DataError("--classes has no meaning for coco:PATH, whose categories have an order; leave it away")
    preprocess = fit_of(root, preprocess)
    found = {name: _read(root, name) for name in needs or SPLITS if needs or _json_of(root, name) is not None}
    categories = {key: name for one in found.values() for key, name in one.categories.items()}
    order = {key: index for index, key in enumerate(sorted(categories))}
    return DataSet(
        name=f"coco:{root}",
        classes=tuple(categories[key] for key in order),
        splits={name: _split(one, order, preprocess) for name, one in found.items()},
        fingerprint=fingerprint_of(root, [file for one in found.values() for file in one.files])
        + "".join(_digest(one) for one in found.values()),
        one_label=False,
    )


def _split(found: _Boxes, order: Mapping[int, int], preprocess: Preprocess) -> Split:
    placed = [_placed(boxes, size, order, preprocess) for boxes, size in zip(found.boxes, found.sizes, strict=True)]
    most = max(1, max(map(len, placed)))
    rows = np.full((len(placed), most, len(COLUMNS)), NO_BOX, np.float32)
    for row, boxes in zip(rows, placed, strict=True):
        row[: len(boxes)] = boxes

    def targets(indices: NDArray[np.int64], moves: Moves | None) -> NDArray[np.float32]:
        assert moves is None, "boxes do not move with their images: this data set is not augmented"
        chosen: NDArray[np.float32] = rows[indices]
        return chosen

    return split_of_files(found.files, preprocess, targets=targets)


def _placed(
    boxes: NDArray[np.float64], size: tuple[int, int], order: Mapping[int, int], preprocess: Preprocess
) -> NDArray[np.float64]:
    """Boxes of an image as they lie in the model's input."""
    ends = (preprocess.width, preprocess.height)
    corners = [np.clip(preprocess.fit_points(boxes[:, at : at + 2], *size), 0, ends) for at in (0, 2)]
    classes = np.array([order[int(key)] for key in boxes[:, 4]], np.float64).reshape(-1, 1)
    found = np.concatenate([*corners, classes, boxes[:, 5:]], axis=1)
    return found[((corners[1] - corners[0]) >= LEAST_SIDE).all(axis=1)]


def _read(root: Path, split: str) -> _Boxes:
    path = _json_of(root, split)
    if path is None:
        places = ", ".join(place.format(split=split) for place in PLACES)
        raise DataError(f"{root} names no boxes of the split {split}; expected one of {places}")
    try:
        text = json.loads(path.read_bytes())
        categories = {int(one["id"]): str(one["name"]) for one in text["categories"]}
        boxes: dict[int, list[tuple[float, ...]]] = {int(one["id"]): [] for one in text["images"]}
        for one in text["annotations"]:
            x, y, width, height = map(float, one["bbox"])
            key, crowd = int(one["category_id"]), float(one.get("iscrowd", 0))
            if key not in categories:
                raise KeyError(f"category {key}")
            boxes[int(one["image_id"])].append((x, y, x + width, y + height, key, crowd))
        images = sorted(text["images"], key=lambda one: int(one["id"]))
        sizes = [(int(one["width"]), int(one["height"])) for one in images]
        files = [_image(root, path, split, str(one["file_name"])) for one in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{shown(path)} is not COCO's JSON of boxes ({type(error).__name__}: {error}); expected images, "
            "annotations and categories"
        ) from error
    if not files or not categories:
        raise DataError(f"{shown(path)} names no images or no categories; expected at least one of each")
    arrays = [np.array(boxes[int(one["id"])], np.float64).reshape(-1, len(COLUMNS)) for one in images]
    return _Boxes(files, arrays, sizes, categories)


def _json_of(root: Path, split: str) -> Path | None:
    return next((root / at for place in PLACES if (root / (at := place.format(split=split))).is_file()), None)


def _image(root: Path, beside: Path, split: str, name: str) -> ImageFile:
    for folder in (root / split / "images", root / split, beside.parent, root / "images", root):
        path = folder / name
        if path.is_file():
            stat = path.stat()
            return ImageFile(path, "", stat.st_size, stat.st_mtime_ns)
    raise DataError(f"{shown(beside)} names an image {shown(name)} that is not in {root / split}; add it")


def _digest(found: _Boxes) -> str:
    return digest_of_arrays(*found.boxes, np.frombuffer(json.dumps(found.categories).encode(), np.uint8))
