"""The one training loop: float training, joint training and fine-tuning drive it."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from limpq_deploy.calibration.batchnorm import reestimate_batchnorm
from limpq_deploy.calibration.datasets import Augment, Split
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.evaluate import evaluate
from limpq_deploy.fake_quant import LearnedScales
from limpq_deploy.losses import Pass, cross_entropy
from limpq_deploy.progress import Report, silent
from limpq_deploy.quantized import QuantLayer
from limpq_deploy.settings import TrainSettings

SHORT_STEP_MACS = 1_000_000_000
"""Multiply-accumulates of a forward pass over a batch below which a second thread gains nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happened. ``losses`` [steps][passes]; ``images``: seen in all, repeats counted; ``seconds``: wall time."""

    losses: tuple[tuple[float, ...], ...]
    images: int
    seconds: float


def train(
    model: nn.Module,
    split: Split,
    settings: TrainSettings,
    *,
    seed: int,
    augment: Augment | None = None,
    passes: Sequence[Pass] = (Pass(),),
    after_step: Callable[[int], None] | None = None,
    report: Report = silent,
) -> History:
    """Train ``model`` in place on batches of ``split`` and leave it in evaluation mode.

    In a step every one of ``passes`` goes forward and back on the same batch, each with its own loss; the gradients add
    up, then comes one optimizer step. Gradient values are clipped; a parameter whose gradient is all zero is left alone
    in that step, momentum included. ``after_step`` gets the number of steps done.

    ``seed`` settles order, augmentation and dropout: two runs on one machine with one number of threads give equal
    losses, bit by bit.
    Raises ModelError when a loss is not finite.
    """
    model.train()
    optimizers = _optimizers(model, settings)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: list[tuple[float, ...]] = []
    start = time.perf_counter()
    images = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step, (images_NCHW, labels) in zip(
            range(settings.steps), _batches(split, settings, seed, augment), strict=False
        ):
            for optimizer, first in zip(optimizers, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, first, strict=True):
                    group["lr"] = rate * rate_factor(step, settings.steps, settings.warmup_steps)
                optimizer.zero_grad()
            step_losses, correct = _accumulate(model, images_NCHW, labels, passes, settings, step)
            nn.utils.clip_grad_value_(parameters, settings.gradient_clip)
            _forget_zero_gradients(parameters)
            for optimizer in optimizers:
                optimizer.step()
            images += len(labels)
            losses.append(step_losses)
            speed = images / (time.perf_counter() - start)
            report(step + 1, settings.steps, _note(step_losses, correct, len(labels) * len(passes), speed))
            if after_step is not None:
                after_step(step + 1)
                model.train()
    model.eval()
    return History(losses=tuple(losses), images=images, seconds=time.perf_counter() - start)


def settle_threads(macs: int, batch_size: int = 64) -> None:
    """Compute on one thread where a step is too short to share; ``macs`` of one image. OMP_NUM_THREADS wins.

    Threads that wait for each other spin. For ResNet-8 on 16x16 digits (2 cores) a joint step took 0.20 to 0.25 s with
    one thread as with two, and beside one other busy process 0.27 s with one, 0.7 to 3 s with two.
    """
    if "OMP_NUM_THREADS" not in os.environ and macs * batch_size < SHORT_STEP_MACS:
        torch.set_num_threads(1)


def rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Learning rate of a step (from 0) over the highest: ``(step + 1) / warmup`` at first, then half a cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def predictor(model: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Images NCHW -> logits, both NumPy, by the model in evaluation mode; what `evaluate` takes."""

    def predict(images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: torch.Tensor = model(torch.from_numpy(images_NCHW))
        return logits.numpy()

    model.eval()
    return predict


def top1(model: nn.Module, split: Split) -> float:
    """Top-1 in percent; leaves the model in evaluation mode."""
    return evaluate(predictor(model), split.batches(250)).accuracy.top1


def settle_batchnorm(model: nn.Module, split: Split, *, images: int, seed: int) -> int:
    """Re-estimate BatchNorm statistics on about ``images`` training images, not augmented; returns how many."""
    size = min(128, len(split), images)
    batches = split.batches(size, shuffle=(seed, 0), drop_last=True)
    taken = zip(range(images // size), batches, strict=False)
    return reestimate_batchnorm(model, (torch.from_numpy(batch) for _, (batch, _) in taken))


def _accumulate(
    model: nn.Module,
    images_NCHW: torch.Tensor,
    labels: torch.Tensor,
    passes: Sequence[Pass],
    settings: TrainSettings,
    step: int,
) -> tuple[tuple[float, ...], int]:
    """Gradients of all passes, added up; the losses, and how many images all passes together classified rightly."""
    losses: list[float] = []
    correct = 0
    usual = cross_entropy(settings.label_smoothing)
    for one in passes:
        one.choose()
        logits = model(images_NCHW)
        loss = (one.loss or usual)(logits, labels, images_NCHW)
        value = loss.item()
        if not math.isfinite(value):
            raise ModelError(
                f"the loss became {value} at step {step + 1} of {settings.steps}; lower the learning rate (now "
                f"{settings.learning_rate:g}, scales {settings.scale_learning_rate:g}), or look for weights and images "
                "that are not finite"
            )
        loss.backward()
        losses.append(value)
        correct += int((logits.detach().argmax(1) == labels).sum())
    return tuple(losses), correct


def _optimizers(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """SGD for weights, Adam for scales.

    A learned scale is a logarithm and Adam's step does not depend on the size of a gradient, so a scale moves by a
    share of itself. With SGD, as in the paper, LSQ's damped gradients moved activation scales by less than 1 % in a
    few hundred steps: what was read afterwards was their first value.
    """
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, LearnedScales):
                scales.append(parameter)
            elif name == "weight" and isinstance(module, nn.Conv2d | nn.Linear | QuantLayer):
                weights.append(parameter)
            else:
                others.append(parameter)
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    if not scales:
        return [sgd]
    return [sgd, torch.optim.Adam(scales, lr=settings.scale_learning_rate, betas=(0.9, 0.99))]


def _forget_zero_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        if parameter.grad is not None and not parameter.grad.any():
            parameter.grad = None


def _batches(
    split: Split, settings: TrainSettings, seed: int, augment: Augment | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Full batches for ever, every epoch in another order."""
    size = min(settings.batch_size, len(split))
    for epoch in count():
        batches = split.batches(
            size, shuffle=(seed, epoch), augment=augment if settings.augment else None, drop_last=True
        )
        for images_NCHW, labels in batches:
            yield torch.from_numpy(images_NCHW), torch.from_numpy(labels)


def _note(losses: Sequence[float], correct: int, shown: int, images_per_second: float) -> str:
    return (
        f"loss {sum(losses) / len(losses):.3f}  top-1 {100 * correct / shown:.0f} %  {images_per_second:.0f} images/s"
    )
