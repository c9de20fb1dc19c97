import dataclasses

import torch

from limpq_deploy.calibration.datasets import open_dataset
from limpq_deploy.float_training import train_float
from limpq_deploy.models import create_model
from limpq_deploy.settings import float_settings
from limpq_deploy.training import top1


def test_the_default_model_reaches_97_percent_on_digits() -> None:
    """The default build's own settings, with a quarter of its steps."""
    digits = open_dataset("digits")
    settings = dataclasses.replace(float_settings(len(digits.split("train"))), steps=75)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = create_model("resnet8")
    training = train_float(model, digits, settings=settings, seed=0)
    assert training.history.images == 75 * 64
    assert top1(model, digits.split("test")) >= 97
