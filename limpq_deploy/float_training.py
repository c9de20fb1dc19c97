"""A float model from fresh weights, briefly: for builds to which nobody brings weights."""

from dataclasses import dataclass

from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.losses import Pass
from limpq_deploy.progress import Report, silent
from limpq_deploy.settings import FloatSettings
from limpq_deploy.training import History, on_device, settle_batchnorm_together, train
from limpq_deploy.training.execution import ALONE, Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatTraining:
    """How a float model was trained."""

    settings: FloatSettings
    seed: int
    history: History


def train_float(
    model: nn.Module,
    dataset: DataSet,
    *,
    settings: FloatSettings,
    seed: int,
    report: Report = silent,
    execution: Execution = ALONE,
) -> FloatTraining:
    """Train ``model`` in place on the train split; BatchNorm statistics are re-estimated at the end."""
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
        )
        settle_batchnorm_together(model, split, images=settings.batchnorm_images, seed=seed, augment=augment)
    return FloatTraining(settings=settings, seed=seed, history=history)
