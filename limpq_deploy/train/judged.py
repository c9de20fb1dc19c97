"""A task's figure of whatever predicts, and of two of them on the same images. No torch here."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import DataError, ModelError
from limpq_deploy.tasks.base import Arrays, Task
from limpq_deploy.tasks.classification import Classification
from limpq_deploy.tasks.score import GROUPS, Difference, Scored, difference, scored
from limpq_deploy.train.evaluate import Evaluation, PairedComparison, compare_hits, compare_paired, evaluate

Predict = Callable[[NDArray[np.float32]], Any]
"""Images NCHW -> what a model gives: an array, or a tuple of them."""

Batches = Iterable[tuple[NDArray[np.float32], NDArray[Any]]]


def judged(
    predict: Predict,
    batches: Batches,
    task: Task,
    *,
    reference: Predict | None = None,
    progress: Callable[[int], None] | None = None,
    interval: bool = True,
) -> Evaluation | Scored:
    """The task's figure of ``predict`` over batches of (images, targets). ``reference``: the float model, for a task
    that judges by it; targets then do not matter. ``interval`` False: the figure alone will do.

    Raises DataError where there are no images, and ModelError where outputs are not finite or not of these images.
    """
    if isinstance(task, Classification) and not task.judges_by_float:
        return evaluate(lambda images: _single(predict(images), len(images)), batches, progress=progress)
    kept: list[Any] = []
    for images_NCHW, given in batches:
        outputs = arrays_of(predict(images_NCHW), len(images_NCHW))
        _require_finite(outputs, len(images_NCHW))
        targets: Any = given
        if task.judges_by_float:
            assert reference is not None, "a task without labels is judged beside a float model"
            targets = arrays_of(reference(images_NCHW), len(images_NCHW))
        kept.extend(task.statistics(outputs, targets))
        if progress is not None:
            progress(len(kept))
    if not kept:
        raise DataError("there are no images to evaluate; expected at least one in this split")
    found = scored(task.measure, kept, task.figure, task.details, most_groups=GROUPS if interval else 0)
    return replace(found, hits=tuple(task.hits(kept)))


def compare(first: Evaluation | Scored, second: Evaluation | Scored) -> PairedComparison | Difference:
    """How much better the first of two models is, on the same images."""
    if isinstance(first, Evaluation) and isinstance(second, Evaluation):
        return compare_paired(first, second)
    assert isinstance(first, Scored)
    assert isinstance(second, Scored)
    if first.hits and second.hits:
        return compare_hits(np.asarray(first.hits), np.asarray(second.hits))
    return difference(first, second)


def value_of(found: Evaluation | Scored) -> float:
    """The figure itself."""
    return found.accuracy.value


def arrays_of(result: Any, images: int) -> Arrays:
    """What a model gives for so many images as a tuple of arrays. A ``squeeze()`` takes away the axis of one image."""
    arrays = tuple(map(np.asarray, result)) if isinstance(result, tuple | list) else (np.asarray(result),)
    return tuple(one[None] if images == 1 and one.shape[:1] != (1,) else one for one in arrays)


def _single(result: Any, images: int) -> Any:
    arrays = arrays_of(result, images)
    if len(arrays) != 1:
        raise ModelError(
            f"the model gives {len(arrays)} tensors and the task is classification; expected one tensor of logits, "
            "name the task with --task"
        )
    return arrays[0]


def _require_finite(outputs: Arrays, images: int) -> None:
    for number, output in enumerate(outputs):
        if output.ndim < 1 or len(output) != images:
            raise ModelError(
                f"output {number} of the model has shape {list(output.shape)} for {images} images; expected one entry "
                "each"
            )
        if not np.isfinite(output).all():
            raise ModelError(f"output {number} of the model is not finite; its weights or scales are damaged")
