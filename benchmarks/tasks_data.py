"""Data for the tasks' benchmark, made here: drawn shapes with masks and boxes, and the digits without their labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tasks_nets import KINDS, SIDE

from limpq_deploy.calibration.datasets import Split, open_dataset

NAMES = ("circle", "square", "triangle")


def draw(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[list[Any]]]:
    """Images [N, H, W, 3], masks [N, H, W] (0: background) and boxes [x1, y1, x2, y2, kind] of each."""
    rng = np.random.default_rng(seed)
    images, masks, boxes = [], [], []
    for _ in range(count):
        picture = Image.fromarray(rng.integers(0, 120, (SIDE // 8, SIDE // 8, 3), np.uint8)).resize((SIDE, SIDE))
        mask, found = Image.new("L", (SIDE, SIDE)), []
        for corner in rng.permutation(4)[: rng.integers(1, 5)].tolist():
            kind, size = int(rng.integers(KINDS)), int(rng.integers(14, 27))
            room = SIDE // 2 - size
            x, y = (int(rng.integers(0, room + 1)) + at * SIDE // 2 for at in (corner % 2, corner // 2))
            colour = tuple(int(value) for value in rng.integers(130, 256, 3))
            for board, fill in ((picture, colour), (mask, kind + 1)):
                _shape(ImageDraw.Draw(board), kind, (x, y, x + size - 1, y + size - 1), fill)
            found.append([x, y, x + size, y + size, kind])
        noise = rng.normal(0, 12, (SIDE, SIDE, 3))
        images.append(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
        masks.append(np.asarray(mask))
        boxes.append(found)
    return np.stack(images), np.stack(masks), boxes


def write_shapes(root: Path, counts: dict[str, int]) -> dict[str, tuple[NDArray[np.uint8], list[list[Any]]]]:
    """``root/masks`` for masks:PATH and ``root/coco`` for coco:PATH, of the same images; gives these and boxes."""
    made = {}
    for seed, (split, count) in enumerate(counts.items()):
        images, masks, boxes = draw(count, seed)
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            name = f"{index:05}.png"
            _save(root / "masks" / split / "images" / name, image)
            _save(root / "masks" / split / "masks" / name, mask)
            _save(root / "coco" / split / name, image)
        (root / "coco" / f"{split}.json").write_text(json.dumps(_coco(boxes)))
        made[split] = images, boxes
    return made


def write_digits(root: Path) -> None:
    """``root/<split>/00000.png``: the digits' images alone."""
    for name, split in open_dataset("digits").splits.items():
        for index, image in enumerate(_pixels(split)):
            _save(root / name / f"{index:05}.png", image)


def _pixels(split: Split) -> NDArray[np.uint8]:
    images, _ = split.load(np.arange(len(split)))
    return split.preprocess.pixels(images)[:, 0]


def _shape(pen: ImageDraw.ImageDraw, kind: int, box: tuple[int, int, int, int], fill: Any) -> None:
    x1, y1, x2, y2 = box
    if kind == 0:
        pen.ellipse(box, fill=fill)
    elif kind == 1:
        pen.rectangle(box, fill=fill)
    else:
        pen.polygon([(x1, y2), (x2, y2), ((x1 + x2) // 2, y1)], fill=fill)


def _coco(boxes: list[list[Any]]) -> dict[str, Any]:
    annotations = [
        {"image_id": image, "category_id": kind, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for image, some in enumerate(boxes)
        for x1, y1, x2, y2, kind in some
    ]
    return {
        "images": [
            {"id": image, "file_name": f"{image:05}.png", "width": SIDE, "height": SIDE} for image in range(len(boxes))
        ],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations)],
        "categories": [{"id": kind, "name": name} for kind, name in enumerate(NAMES)],
    }


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
