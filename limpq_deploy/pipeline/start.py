"""What a float model starts from: the user's weights, published ones, or random numbers."""

from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.in_memory import given_named, in_memory
from limpq_deploy.model.zoo import in_library
from limpq_deploy.model.zoo.published import fill_published
from limpq_deploy.model.zoo.weights import load_weights
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.deployed import Start


def take_weights(model: nn.Module, config: Config) -> Start:
    """Give a fresh model the weights that a configuration asks for. Raises ModelError where they do not fit."""
    if config.weights is not None:
        notes = load_weights(model, config.weights, config.weights_key)
        return Start(trained=True, source=config.weights.name, notes=notes)
    if config.pretrained:
        whole, notes = fill_published(model, config.model)
        source = f"published weights of {config.model}"
        return Start(
            trained=whole, source=source if whole else f"{source}, a fresh last layer, trained here", notes=notes
        )
    if in_memory(config.model):
        if given_named(config.model, ModelError).trained:
            return Start(trained=True, source="the weights of the given module")
        return Start(trained=False, source="the given module's own numbers, trained here")
    if in_library(config.model):
        note = f"{config.model} starts from random numbers and is trained here: give --weights FILE or --pretrained"
        return Start(trained=False, source="random numbers, trained here", notes=(note,))
    return Start(trained=False, source="trained here")
