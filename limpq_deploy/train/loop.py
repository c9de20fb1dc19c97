"""The one training loop: float training, joint training and fine-tuning drive it."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.batchnorm import batchnorms
from limpq_deploy.calibration.datasets import Augment, Split
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.results import mapped, tensors_of
from limpq_deploy.progress import Report, silent
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.train import processes
from limpq_deploy.train.accuracy import average_statistics
from limpq_deploy.train.average import WeightAverage
from limpq_deploy.train.batches import Batch, StepBatches
from limpq_deploy.train.device import at_least_float32, autocast, channels_last, on_device, require_precision
from limpq_deploy.train.execution import ALONE, Execution
from limpq_deploy.train.interruption import Interruption
from limpq_deploy.train.kept_memory import freed_memory_kept
from limpq_deploy.train.losses import Pass, taught_by_labels
from limpq_deploy.train.optimizers import Optimizers
from limpq_deploy.train.resume import ModuleState, OptimizerState, Saver, ScalerState
from limpq_deploy.train.settings import TrainSettings
from limpq_deploy.train.state import Stateful
from limpq_deploy.train.synced import synced_batchnorm
from limpq_deploy.train.training_log import Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happened. ``losses`` [steps][passes]; ``images``: seen in all, repeats counted; ``seconds``: wall time, that
    of a training before it was killed included."""

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
    execution: Execution = ALONE,
    average: WeightAverage | None = None,
    remember: Mapping[str, Stateful] = MappingProxyType({}),
    task: Task = CLASSIFICATION,
) -> History:
    """Train ``model`` in place on batches of ``split`` and leave it in evaluation mode.

    In a step every one of ``passes`` goes forward and back on the same batch, each with its own loss; the gradients add
    up, then comes one optimizer step. Gradient values are clipped; a parameter whose gradient is all zero is left alone
    in that step, momentum included. ``task`` says what labels teach. ``after_step`` gets the number of steps done.
    ``average`` follows every step.

    A batch is shared by the processes that torchrun started: a step is the same however many there are. Each share is
    cut into ``settings.accumulate`` parts; BatchNorm sees one part of every process at a time.

    ``seed`` settles order, augmentation and dropout: two runs on one machine with one number of threads give equal
    losses, bit by bit. So does a training that was killed and goes on from ``execution.checkpoint``, where ``remember``
    names what the caller changes from step to step: a generator that ``passes`` draw from, what ``after_step`` keeps.
    Raises ModelError when a loss is not finite, or for the checkpoint of another training; SettingError for a precision
    that this machine lacks, or a batch smaller than its parts.
    """
    require_precision(settings.precision)
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(on_device(model))
        stack.enter_context(freed_memory_kept())
        stack.enter_context(channels_last(model, settings.channels_last))
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        interruption = stack.enter_context(Interruption()) if execution.checkpoint is not None else None
        training = _Training(
            model, split, settings, seed=seed, augment=augment, passes=passes, device=device, task=task
        )
        return training.run(after_step, report, execution, average, remember, interruption)


class _Training:
    def __init__(
        self,
        model: nn.Module,
        split: Split,
        settings: TrainSettings,
        *,
        seed: int,
        augment: Augment | None,
        passes: Sequence[Pass],
        device: torch.device,
        task: Task = CLASSIFICATION,
    ) -> None:
        self.task, self.labelled = task, split.labelled
        self.model, self.settings, self.seed, self.passes, self.device = model, settings, seed, passes, device
        self.usual = taught_by_labels(task, settings.label_smoothing)
        self.optimizers = Optimizers(model, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.batches = StepBatches(
            split, settings, seed=seed, augment=augment, rank=processes.rank(), count=processes.count()
        )
        self.done = 0
        self.losses: list[tuple[float, ...]] = []
        self.seconds = 0.0

    def run(
        self,
        after_step: Callable[[int], None] | None,
        report: Report,
        execution: Execution,
        average: WeightAverage | None,
        remember: Mapping[str, Stateful],
        interruption: Interruption | None,
    ) -> History:
        steps = self.settings.steps
        leads = processes.leads()
        parts = self._parts(average, remember)
        saver = Saver(execution.checkpoint, parts, interruption)
        names = [one.name for one in self.passes]
        watch = Watch(names, steps, report, execution if leads else ALONE, self.batches.per_epoch)
        with contextlib.closing(watch):
            found = saver.restore()
            if found is not None:
                self.done, self.seconds = found
                watch.resumed(self.done)
            processes.share([*self.model.parameters(), *self.model.buffers()])
            self._train_mode()
            start = time.perf_counter() - self.seconds
            reader = self.batches.from_step(self.done, steps, workers=execution.workers, device=self.device)
            for batch in reader:
                rate = self.optimizers.begin(self.done)
                losses, correct = self._gradients(*batch)
                self.optimizers.step(self.scaler)
                if average is not None:
                    average.update()
                self.done += 1
                self.losses.append(losses)
                watch.step(self.done, losses, correct, self.batches.size, rate)
                if after_step is not None:
                    after_step(self.done)
                    self._train_mode()
                self.seconds = time.perf_counter() - start
                if leads:
                    saver.after_step(self.done, last=self.done == steps, seconds=self.seconds)
                if interruption is not None:
                    interruption.act()
        average_statistics(self.model, 1 / processes.count())
        self.model.eval()
        return History(losses=tuple(self.losses), images=self.done * self.batches.size, seconds=self.seconds)

    def _parts(self, average: WeightAverage | None, remember: Mapping[str, Stateful]) -> dict[str, Stateful]:
        """Everything that a checkpoint holds."""
        parts: dict[str, Stateful] = {"model": ModuleState(self.model), "losses": _Losses(self.losses)}
        parts |= {f"optimizer{n}": OptimizerState(one) for n, one in enumerate(self.optimizers.each)}
        if self.scaler.is_enabled():
            parts["scaler"] = ScalerState(self.scaler)
        if average is not None:
            parts["average"] = average
        return parts | {f"remember-{name}": one for name, one in remember.items()}

    def _train_mode(self) -> None:
        self.model.train()
        if self.settings.freeze_batchnorm:
            for norm in batchnorms(self.model):
                norm.eval()

    def _gradients(
        self, images_NCHW: torch.Tensor, labels: torch.Tensor
    ) -> tuple[tuple[float, ...], tuple[int, ...] | None]:
        """Gradients of all passes over the batch of all processes, added up; of each pass the mean loss, and how many
        images it had right (None: the task cannot tell)."""
        torch.manual_seed(_step_seed(self.seed, self.done))
        micro = self._micro_batches(images_NCHW, labels)
        sums = torch.zeros(2, len(self.passes), dtype=torch.float64, device=self.device)
        counts = False
        with self._over_one_batch(len(micro)):
            for index, one in enumerate(self.passes):
                one.choose()
                for images, wanted in micro:
                    with autocast(self.settings.precision, self.device):
                        with synced_batchnorm():
                            outputs = self.model(images)
                        loss = (one.loss or self.usual)(mapped(outputs, at_least_float32), wanted, images)
                    part = loss * (len(wanted) / self.batches.size)
                    self.scaler.scale(part).backward()
                    sums[0, index] += part.detach()
                    right = self.task.correct(tensors_of(outputs), wanted) if self.labelled else None
                    if right is not None:
                        counts, sums[1, index] = True, sums[1, index] + right
        processes.add_up([sums])
        losses = sums[0].tolist()
        for loss in losses:
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss became {loss} at step {self.done + 1} of {self.settings.steps}; lower the learning rate "
                    f"(now {self.settings.learning_rate:g}, scales {self.settings.scale_learning_rate:g}), or look for "
                    "weights and images that are not finite"
                )
        self._add_up_gradients()
        return tuple(losses), tuple(int(right) for right in sums[1].tolist()) if counts else None

    def _over_one_batch(self, parts: int) -> contextlib.AbstractContextManager[None]:
        """What several passes over one whole batch have in common is computed once."""
        if isinstance(self.model, QuantizedModel) and len(self.passes) > 1 and parts == 1:
            return self.model.passes_over_one_batch()
        return contextlib.nullcontext()

    def _micro_batches(self, images_NCHW: torch.Tensor, labels: torch.Tensor) -> list[Batch]:
        if self.settings.channels_last:
            images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        parts = self.settings.accumulate
        return list(zip(images_NCHW.tensor_split(parts), labels.tensor_split(parts), strict=True))

    def _add_up_gradients(self) -> None:
        if processes.count() == 1:
            return
        for parameter in self.optimizers.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        processes.add_up([parameter.grad for parameter in self.optimizers.parameters if parameter.grad is not None])


class _Losses:
    """Losses so far, as a `Stateful`."""

    def __init__(self, losses: list[tuple[float, ...]]) -> None:
        self._losses = losses

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        return {"losses": torch.tensor(self._losses, dtype=torch.float64)}, None

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        self._losses[:] = [tuple(row) for row in tensors["losses"].tolist()]


def _step_seed(seed: int, step: int) -> int:
    """Seed of what one process draws in one step, so that nothing depends on the steps before it."""
    return int(np.random.SeedSequence((seed, processes.rank(), step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
