from math import fsum

import numpy as np
import pytest
import torch

from limpq_deploy.calibration.batchnorm import batchnorms
from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.importance.preview import preview
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.train.accuracy import figure_and_losses, settle_batchnorm, top1
from limpq_deploy.train.judge import CLASSES

BITS = (2, 3, 6)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)


def joint(tiny: tuple[TracedModel, Placement], data: DataSet) -> QuantizedModel:
    model = joint_model(*tiny, BITS)
    model.initialise_scales(torch.from_numpy(next(data.split("train").batches(64))[0]))
    return model


def test_a_preview_is_the_policys_model_before_its_first_fine_tuning_step(
    tiny: tuple[TracedModel, Placement], few_digits: DataSet
) -> None:
    trained = joint(tiny, few_digits)
    policy = {layer.name: (2, 3) for layer in tiny[1].searched}
    found = preview(
        trained, policy, train=few_digits.split("train"), held=few_digits.split("val"), batchnorm_images=256, seed=4
    )
    model = model_of_policy(*tiny, policy)
    inherit(model, trained)
    settled = settle_batchnorm(model, few_digits.split("train"), images=256, seed=4)
    assert (found.images, found.batchnorm_images) == (60, settled)
    assert found.top1 == top1(model, few_digits.split("val"))


def test_a_preview_changes_neither_weights_nor_statistics_and_repeats(
    tiny: tuple[TracedModel, Placement], few_digits: DataSet
) -> None:
    trained = joint(tiny, few_digits)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    policy = {layer.name: (3, 2) for layer in tiny[1].searched}
    first, second = (
        preview(trained, policy, train=few_digits.split("train"), held=few_digits.split("val")) for _ in range(2)
    )
    assert first == second
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())


def test_statistics_come_from_the_training_images_not_from_the_joint_networks(
    tiny: tuple[TracedModel, Placement], few_digits: DataSet
) -> None:
    trained = joint(tiny, few_digits)
    policy = {layer.name: (3, 3) for layer in tiny[1].searched}

    def look() -> float:
        return preview(
            trained, policy, train=few_digits.split("train"), held=few_digits.split("val"), batchnorm_images=256
        ).loss

    before = look()
    with torch.no_grad():
        trained.batchnorm("bn2").running_mean.fill_(100.0)
    assert look() == before


@pytest.mark.parametrize("kept", [True, False], ids=["where the others are spoiled", "unless they are"])
def test_a_network_that_was_not_trained_keeps_its_statistics(
    tiny: tuple[TracedModel, Placement], few_digits: DataSet, kept: bool
) -> None:
    """Without labels the loss is the distance to the float model, whose statistics the network has."""
    net, train, labelled = joint(tiny, few_digits), few_digits.split("train"), few_digits.split("val")
    held = Split(labels=labelled.labels, read=lambda at: PIXELS[at], preprocess=labelled.preprocess, labelled=False)
    judge = CLASSES.beside(tiny[0].graph_module.eval())
    policy = {layer.name: (6, 6) for layer in tiny[1].searched}
    net.set_bits(policy)
    if kept:  # other images make other statistics
        train = Split(labels=train.labels, read=lambda at: 0 * PIXELS[0], preprocess=train.preprocess)
    else:
        with torch.no_grad():
            for norm in batchnorms(net):
                norm.running_mean.add_(100.0)
    own = fsum(figure_and_losses(net, held, judge)[1]) / len(held)
    trained, ranges_alone = (
        preview(net, policy, train=train, held=held, judge=judge, trained=trained) for trained in (True, False)
    )
    assert (own < trained.loss) == kept
    assert ranges_alone.loss == min(own, trained.loss)
    assert (ranges_alone.batchnorm_images == 0) == kept
    assert trained.batchnorm_images > 0
