"""A float model from fresh weights, briefly: for builds to which nobody brings weights."""

from dataclasses import dataclass

from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.progress import Report, silent
from limpq_deploy.settings import FloatSettings
from limpq_deploy.training import History, settle_batchnorm, train


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatTraining:
    """How a float model was trained."""

    settings: FloatSettings
    seed: int
    history: History


def train_float(
    model: nn.Module, dataset: DataSet, *, settings: FloatSettings, seed: int, report: Report = silent
) -> FloatTraining:
    """Train ``model`` in place on the train split; BatchNorm statistics are re-estimated at the end."""
    split = dataset.split("train")
    history = train(model, split, settings, seed=seed, augment=dataset.augment, report=report)
    settle_batchnorm(model, split, images=settings.batchnorm_images, seed=seed)
    return FloatTraining(settings=settings, seed=seed, history=history)
