"""A task's figure of a torch model and statistics of its BatchNorms, alone or with the processes that train
together."""

from collections.abc import Callable, Iterator
from math import fsum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from limpq_deploy.calibration.batchnorm import reestimate_batchnorm
from limpq_deploy.calibration.datasets import Augment, Split
from limpq_deploy.model.results import Outputs, tensors_of
from limpq_deploy.progress import counted
from limpq_deploy.tasks.base import Arrays, Task
from limpq_deploy.tasks.score import TOP1, Scored
from limpq_deploy.train.at_once import FEWEST_FOR_BATCHNORM, images_at_once
from limpq_deploy.train.device import CPU, device_of
from limpq_deploy.train.evaluate import Evaluation, evaluate
from limpq_deploy.train.judge import CLASSES, Judge
from limpq_deploy.train.judged import Predict, judged, value_of
from limpq_deploy.train.kept_memory import freed_memory_kept
from limpq_deploy.train.processes import add_up, count, rank

ON_GPU, ON_GPU_PIXELS = 250, 1_600_000
"""Images and pixels of a batch that is evaluated on a GPU, which has work for all its cores by then."""
BATCHNORM_BATCH = 128
"""Images of a batch that BatchNorm takes its statistics from."""


def evaluated(split: Split, device: torch.device = CPU) -> Iterator[tuple[NDArray[np.float32], Any]]:
    """A split's batches (images NCHW, labels) in the data's order; the progress that is under way counts them."""
    size = evaluation_batch(split, device)
    return counted(split.batches(size), -(-len(split) // size), f"batches of {len(split):,} images evaluated")


def evaluation_batch(split: Split, device: torch.device = CPU) -> int:
    """Images of a batch."""
    if device.type != "cpu":
        return max(1, min(ON_GPU, ON_GPU_PIXELS // (split.preprocess.height * split.preprocess.width)))
    return images_at_once(split, least=8, most=ON_GPU)


def predictor(model: nn.Module) -> Predict:
    """Images NCHW -> what the model gives, in NumPy: an array, or a tuple of them where it gives several; in evaluation
    mode."""

    def predict(images_NCHW: NDArray[np.float32]) -> Any:
        with torch.no_grad():
            outputs = tensors_of(model(torch.from_numpy(images_NCHW).to(device_of(model))))
        arrays = tuple(output.cpu().numpy() for output in outputs)
        return arrays[0] if len(arrays) == 1 else arrays

    model.eval()
    return predict


@freed_memory_kept()
def figure(model: nn.Module, split: Split, judge: Judge = CLASSES) -> float:
    """The judge's figure of a split; leaves the model in evaluation mode."""
    reference = predictor(judge.reference.to(device_of(model))) if judge.reference is not None else None
    batches = evaluated(split, device_of(model))
    return value_of(judged(predictor(model), batches, judge.of(split), reference=reference, interval=False))


def figure_and_losses(model: nn.Module, split: Split, judge: Judge = CLASSES) -> tuple[float, tuple[float, ...]]:
    """The judge's figure and the losses of `judged_with_losses`."""
    found, losses = judged_with_losses(model, split, judge, interval=False)
    return value_of(found), losses


def judged_with_losses(
    model: nn.Module, split: Split, judge: Judge = CLASSES, *, interval: bool
) -> tuple[Evaluation | Scored, tuple[float, ...]]:
    """What the judge finds, and of each image what its labels teach; without labels, or where those teach nothing, the
    distance to the float model's outputs. Losses tell near models apart sooner than counting."""
    losses = _distances if not judge.of(split).labels_teach else _losses
    return _evaluated(model, split, judge, losses, interval=interval)


def evaluation_and_distance(model: nn.Module, split: Split, judge: Judge) -> tuple[Evaluation | Scored, float]:
    """The judge's evaluation (its interval only where images are right or wrong), and the mean distance to the outputs
    of the judge's float model."""
    found, each = _evaluated(model, split, judge, _distances, interval=False)
    return found, fsum(each) / len(each)


PerImage = Callable[[Judge, Task, Outputs, torch.Tensor, Any], list[float]]
"""Of the images of one batch: the judge, the split's task, outputs, images NCHW and targets -> a number for each."""


def _losses(judge: Judge, task: Task, outputs: Outputs, images_NCHW: torch.Tensor, targets: Any) -> list[float]:
    known = torch.as_tensor(targets).to(images_NCHW.device)
    each = [slice(at, at + 1) for at in range(len(images_NCHW))]
    return torch.stack([task.loss_sum(tuple(one[at] for one in outputs), known[at]) for at in each]).tolist()


def _distances(judge: Judge, task: Task, outputs: Outputs, images_NCHW: torch.Tensor, targets: Any) -> list[float]:
    found: list[float] = task.distances(outputs, judge.by_float(images_NCHW)).tolist()
    return found


@freed_memory_kept()
def _evaluated(
    model: nn.Module, split: Split, judge: Judge, per_image: PerImage, *, interval: bool
) -> tuple[Evaluation | Scored, tuple[float, ...]]:
    task = judge.of(split)
    numbers: list[float] = []

    def predict(images_NCHW: NDArray[np.float32]) -> Arrays:
        tensor = torch.from_numpy(images_NCHW).to(device_of(model))
        with torch.no_grad():
            outputs = tuple(output.double() for output in tensors_of(model(tensor)))
            numbers.extend(per_image(judge, task, outputs, tensor, given[-1]))
        return tuple(output.cpu().numpy() for output in outputs)

    model.eval()
    given: list[Any] = []

    def batches() -> Iterator[tuple[NDArray[np.float32], Any]]:
        for images_NCHW, targets in evaluated(split, device_of(model)):
            given[:] = [targets]
            yield images_NCHW, targets

    reference = None if judge.reference is None else predictor(judge.reference.to(device_of(model)))
    return judged(predict, batches(), task, reference=reference, interval=interval), tuple(numbers)


def figure_together(model: nn.Module, split: Split, judge: Judge = CLASSES) -> float:
    """The same in every process. Where images are right or wrong, each looks at a share of them; else each at all."""
    if count() == 1 or not (split.labelled and judge.task.measure == TOP1):
        return figure(model, split, judge)
    return top1_together(model, split)


def top1(model: nn.Module, split: Split) -> float:
    """Top-1 in percent; leaves the model in evaluation mode."""
    return evaluate(predictor(model), evaluated(split, device_of(model))).accuracy.top1


def top1_together(model: nn.Module, split: Split) -> float:
    """The same in every process, each of which looks at a share of the images."""
    if count() == 1:
        return top1(model, split)
    mine = np.arange(rank(), len(split), count())
    size = evaluation_batch(split, device_of(model))
    batches = (split.load(mine[start : start + size]) for start in range(0, len(mine), size))
    correct = evaluate(predictor(model), batches).accuracy.correct if len(mine) else 0
    total = torch.tensor([correct], dtype=torch.int64, device=device_of(model))
    add_up([total])
    return 100 * int(total) / len(split)


def settle_batchnorm(model: nn.Module, split: Split, *, images: int, seed: int, augment: Augment | None = None) -> int:
    """Re-estimate BatchNorm statistics on about ``images`` training images; returns how many.

    ``augment``: what training does to them. Statistics of images as they are stored differ from those that the model
    was trained with, which costs up to a point of top-1 (docs/adr/0012).
    """
    size = min(_batchnorm_batch(split), len(split), images)
    return _settle(model, split, size, range(images // size), seed, augment)


def settle_batchnorm_together(
    model: nn.Module, split: Split, *, images: int, seed: int, augment: Augment | None = None
) -> int:
    """The same in every process, each of which looks at a share of the batches."""
    if count() == 1:
        return settle_batchnorm(model, split, images=images, seed=seed, augment=augment)
    size = min(_batchnorm_batch(split), len(split), images)
    seen = _settle(model, split, size, range(rank(), images // size, count()), seed, augment)
    total = torch.tensor([seen], dtype=torch.int64, device=device_of(model))
    add_up([total])
    average_statistics(model, seen / int(total))
    return int(total)


def _batchnorm_batch(split: Split) -> int:
    return images_at_once(split, least=FEWEST_FOR_BATCHNORM, most=BATCHNORM_BATCH)


def average_statistics(model: nn.Module, weight: float) -> None:
    """Replace BatchNorm statistics by their weighted sum over the processes."""
    if count() == 1:
        return
    found = [buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    for buffer in found:
        buffer.mul_(weight)
    add_up(found)


@freed_memory_kept()
def _settle(model: nn.Module, split: Split, size: int, numbers: range, seed: int, augment: Augment | None) -> int:
    order, device = split.order((seed, 0)), device_of(model)
    most = len(split) // size

    def batch(number: int) -> torch.Tensor:
        images_NCHW, _ = split.load(order[number * size : (number + 1) * size], augment=augment, seed=(seed, number))
        return torch.from_numpy(images_NCHW).to(device)

    used = [number for number in numbers if number < most]
    return reestimate_batchnorm(model, counted(map(batch, used), len(used), "batches for BatchNorm's statistics"))
