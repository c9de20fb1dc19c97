"""Boxes around what an image shows."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import DataError, MissingExtra, SettingError
from limpq_deploy.calibration.factories import call_factory, load_factory
from limpq_deploy.tasks.base import Arrays, Task
from limpq_deploy.tasks.score import Measure

Decode = Callable[[Arrays], Sequence[NDArray[np.floating]]]
"""What the network gives for N images -> for each its boxes [boxes, 6]: x1, y1, x2, y2 in pixels of the model's input,
score, class index; non-maximum suppression done."""

MOST_BOXES = 100
"""Of an image, by their scores, as COCO counts."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)


class Detection(Task):
    """The network gives raw heads, which are what is quantized; ``decode``, the user's, makes boxes of them.

    The figure is COCO's mAP, over IoU 0.50 to 0.95 (Lin et al., 2014), counted by pycocotools. The float model's heads
    teach.
    """

    name = "detection"
    measure = Measure(name="mAP")

    def __init__(self, decode: Decode, origin: str) -> None:
        require_coco()
        self._decode, self._origin = decode, origin

    def require_data(self, dataset: DataSet, split: Split) -> None:
        targets = split.load(np.arange(1))[1]
        if split.labelled and (targets.ndim != 3 or targets.shape[2] != 6):
            raise DataError(
                f"data set {dataset.name!r} has no boxes and the task is detection; give coco:PATH, or a data set of "
                "your own whose targets are boxes [N, M, 6]"
            )

    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        found = call_factory(self._origin, self._decode, SettingError, outputs)
        if not isinstance(found, list | tuple) or len(found) != len(targets):
            raise SettingError(
                f"{self._origin!r} gave a {type(found).__name__} for {len(targets)} images; expected a list of their "
                "boxes [boxes, 6], one array an image"
            )
        true = [truth[truth[:, 4] >= 0] for truth in np.asarray(targets)]
        return list(zip(map(self._boxes, found), true, strict=True))

    def _boxes(self, found: Any) -> NDArray[np.float64]:
        boxes = np.asarray(found, np.float64).reshape(-1, np.shape(found)[-1] if np.size(found) else 6)
        if boxes.shape[1] != 6 or not np.isfinite(boxes).all():
            raise SettingError(
                f"{self._origin!r} gave boxes of shape {list(np.shape(found))}; expected finite numbers [boxes, 6]: "
                "x1, y1, x2, y2, score, class"
            )
        return boxes[np.argsort(-boxes[:, 4], kind="stable")[:MOST_BOXES]]

    def figure(self, statistics: Sequence[Any]) -> float:
        return 100 * mean_precision(statistics, THRESHOLDS)

    def details(self, statistics: Sequence[Any]) -> dict[str, float]:
        return {"mAP_50": 100 * mean_precision(statistics, THRESHOLDS[:1])}


def open_detection(name: str) -> Detection:
    """The task of a user's ``module:decode``: the function itself, or one without arguments that returns it."""
    function: Any = load_factory(name, SettingError)
    if _takes_nothing(function):
        function = call_factory(name, function, SettingError)
        if not callable(function):
            raise SettingError(f"{name!r} returned a {type(function).__name__}; expected a function that makes boxes")
    return Detection(function, name)


def require_coco() -> None:
    """Raise MissingExtra where mAP cannot be counted."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "mAP is counted by pycocotools, which is not installed; run: pip install 'limpq-deploy[detection]'"
        ) from error


def mean_precision(statistics: Sequence[tuple[NDArray[Any], NDArray[Any]]], thresholds: NDArray[np.float64]) -> float:
    """COCO's mean average precision, 0 to 1, of (found, true boxes) of images; 0 where there is no true box."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found, classes = [], [], set()
    for image, (boxes, true) in enumerate(statistics, start=1):
        for x1, y1, x2, y2, kind, crowd in true.tolist():
            box = _entry(image, x1, y1, x2, y2, kind) | {"id": len(truth) + 1, "iscrowd": int(crowd), "ignore": 0}
            truth.append(box)
            classes.add(int(kind))
        for x1, y1, x2, y2, score, kind in boxes.tolist():
            found.append(_entry(image, x1, y1, x2, y2, kind) | {"id": len(found) + 1, "score": score})
    if not truth or not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
        sides = [COCO(), COCO()]
        for side, boxes in zip(sides, (truth, found), strict=True):
            side.dataset = {
                "images": [{"id": image} for image in range(1, len(statistics) + 1)],
                "annotations": boxes,
                "categories": [{"id": kind} for kind in sorted(classes)],
            }
            side.createIndex()
        counted = COCOeval(*sides, iouType="bbox")
        counted.params.iouThrs = thresholds
        counted.params.areaRng, counted.params.areaRngLbl = [counted.params.areaRng[0]], ["all"]
        counted.params.maxDets = [MOST_BOXES]
        counted.evaluate()
        counted.accumulate()
    precision = counted.eval["precision"]
    return float(precision[precision > -1].mean())


def _entry(image: int, x1: float, y1: float, x2: float, y2: float, kind: float) -> dict[str, Any]:
    width, height = max(x2 - x1, 0.0), max(y2 - y1, 0.0)
    box = [x1, y1, width, height]
    return {"image_id": image, "category_id": int(kind), "bbox": box, "area": width * height, "iscrowd": 0}


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True
