"""A float model from fresh weights, briefly: for builds to which nobody brings weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.model.results import tensors_of
from limpq_deploy.progress import Report, silent
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.train.accuracy import settle_batchnorm_together
from limpq_deploy.train.device import device_of, on_device
from limpq_deploy.train.execution import ALONE, Execution
from limpq_deploy.train.loop import History, train
from limpq_deploy.train.losses import Pass
from limpq_deploy.train.settings import FloatSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatTraining:
    """How a float model was trained."""

    settings: FloatSettings
    seed: int
    history: History


def trainable(model: nn.Module, graph: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """``model`` where it can be trained as it is written, else its traced ``graph``, which has the same weights.

    A forward that was written for inference may overwrite what its gradients need, or return something else while it is
    trained; its graph, traced in evaluation mode and without in-place operations, does neither. Tried on two images of
    ``shape`` (C, H, W) and a copy.
    """
    try:
        tried = copy.deepcopy(model).train()
        with torch.random.fork_rng(devices=[]):
            outputs = tensors_of(tried(torch.zeros(2, *shape, device=device_of(tried))))
            torch.stack([output.sum() for output in outputs]).sum().backward()
            usual = tensors_of(tried.eval()(torch.zeros(1, *shape, device=device_of(tried))))
        fits = len(outputs) == len(usual)
    except Exception:  # whatever it is, the user's training loop would be needed for it
        fits = False
    return model if fits else graph()


def train_float(
    model: nn.Module,
    dataset: DataSet,
    *,
    settings: FloatSettings,
    seed: int,
    report: Report = silent,
    execution: Execution = ALONE,
    task: Task = CLASSIFICATION,
) -> FloatTraining:
    """Train ``model`` in place on the train split, by the task's labels; BatchNorm statistics are re-estimated at the
    end. Raises SettingError for a task whose labels teach nothing."""
    split = dataset.split("train")
    augment = dataset.augment if settings.augment else None
    with on_device(model):
        passes = (Pass(name="float"),)
        history = train(
            model,
            split,
            settings,
            seed=seed,
            augment=augment,
            passes=passes,
            report=report,
            execution=execution,
            task=task,
        )
        settle_batchnorm_together(model, split, images=settings.batchnorm_images, seed=seed, augment=augment)
    return FloatTraining(settings=settings, seed=seed, history=history)
