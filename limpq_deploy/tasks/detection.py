"""Boxes around what an image shows."""

from __future__ import annotations

import contextlib
import copy
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

Matches = dict[int, dict[str, Any]]
"""Of one image: what pycocotools makes of the boxes of each class that it has or that are found in it."""


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
        return matched([self._boxes(one) for one in found], true)

    def _boxes(self, found: Any) -> NDArray[np.float64]:
        boxes = np.asarray(found, np.float64).reshape(-1, np.shape(found)[-1] if np.size(found) else 6)
        if boxes.shape[1] != 6 or not np.isfinite(boxes).all():
            raise SettingError(
                f"{self._origin!r} gave boxes of shape {list(np.shape(found))}; expected finite numbers [boxes, 6]: "
                "x1, y1, x2, y2, score, class"
            )
        return boxes[np.argsort(-boxes[:, 4], kind="stable")[:MOST_BOXES]]

    def figure(self, statistics: Sequence[Any]) -> float:
        return 100 * float(precisions(statistics).mean())

    def details(self, statistics: Sequence[Any]) -> dict[str, float]:
        return {"mAP_50": 100 * float(precisions(statistics)[0])}


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


def matched(found: Sequence[NDArray[Any]], true: Sequence[NDArray[Any]]) -> list[Matches]:
    """Each image's boxes, matched with the true ones at `THRESHOLDS`."""
    from pycocotools.coco import COCO

    sides = (
        [_entry(image, box[:4], box[4], crowd=box[5]) for image, some in enumerate(true) for box in some.tolist()],
        [_entry(image, box[:4], box[5], score=box[4]) for image, some in enumerate(found) for box in some.tolist()],
    )
    kinds = sorted({entry["category_id"] for side in sides for entry in side})
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
        indexed = []
        for entries in sides:
            one = COCO()
            one.dataset = {
                "images": [{"id": image} for image in range(len(true))],
                "annotations": [entry | {"id": number} for number, entry in enumerate(entries, start=1)],
                "categories": [{"id": kind} for kind in kinds],
            }
            one.createIndex()
            indexed.append(one)
        counted = _counting(*indexed)
        counted.evaluate()
    matches: list[Matches] = [{} for _ in true]
    for one in filter(None, counted.evalImgs):
        matches[one["image_id"]][one["category_id"]] = one
    return matches


def precisions(statistics: Sequence[Matches]) -> NDArray[np.float64]:
    """COCO's average precision at each of `THRESHOLDS`, 0 to 1: the mean over the classes that have a true box."""
    kinds = sorted({kind for one in statistics for kind in one})
    with contextlib.redirect_stdout(io.StringIO()):
        counted = _counting(None, None)
        counted.params.imgIds, counted.params.catIds = list(range(len(statistics))), kinds
        counted._paramsEval = copy.deepcopy(counted.params)
        counted.evalImgs = [one.get(kind) for kind in kinds for one in statistics]
        counted.accumulate()
    found = counted.eval["precision"]  # [thresholds, recalls, kinds, 1, 1]; -1 where a kind has no true box
    there = (found > -1).all(axis=(0, 1, 3, 4))
    if not there.any():
        return np.zeros(len(THRESHOLDS))
    each: NDArray[np.float64] = found[:, :, there].mean(axis=(1, 2, 3, 4))
    return each


def _counting(true: Any, found: Any) -> Any:
    """COCO's counting of boxes of every size."""
    from pycocotools.cocoeval import COCOeval

    counted = COCOeval(true, found, iouType="bbox")
    counted.params.iouThrs = THRESHOLDS
    counted.params.areaRng, counted.params.areaRngLbl = [counted.params.areaRng[0]], ["all"]
    counted.params.maxDets = [MOST_BOXES]
    return counted


def _entry(image: int, corners: list[float], kind: float, *, crowd: float = 0, **more: float) -> dict[str, Any]:
    x1, y1, x2, y2 = corners
    width, height = max(x2 - x1, 0.0), max(y2 - y1, 0.0)
    return {
        "image_id": image,
        "category_id": int(kind),
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "iscrowd": int(crowd),
        "ignore": 0,
        **more,
    }


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True
