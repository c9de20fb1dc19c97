"""The jointly trained network at a policy's bits, on the tiny net with real digits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.importance.preview import preview
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model, model_of_policy
from limpq_deploy.train.accuracy import settle_batchnorm
from limpq_deploy.train.finetuned import NOT_FINETUNED, FineTuned, Top1
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.settings import joint_settings
from limpq_deploy.train.untuned import OF_BATCHNORM, take_joint

Tiny = tuple[TracedModel, Placement]
BITS = (4, 8)
FLOAT = Top1(val=10.0, test=10.0)


@pytest.fixture
def joint(tiny: Tiny, few_digits: DataSet) -> QuantizedModel:
    """Of a float model whose statistics are those of its images."""
    traced, placement = tiny
    settle_batchnorm(traced.graph_module, few_digits.split("train"), images=256, seed=0)
    settings = replace(joint_settings(len(few_digits.split("train"))), steps=3, warmup_steps=0)
    return train_indicators(traced, placement, few_digits, bits=BITS, settings=settings, seed=0)[1]


def test_a_policy_is_taken_as_joint_training_left_it_and_measures_as_its_preview(
    tiny: Tiny, few_digits: DataSet, joint: QuantizedModel, tmp_path: Path
) -> None:
    traced, placement = tiny
    policy = {layer.name: (4, 8) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    before = {name: value.clone() for name, value in joint.state_dict().items()}
    found = take_joint(
        model, policy, few_digits, joint=joint, seed=0, float_top1=FLOAT, float_model=traced.graph_module
    )
    made = found.calibrated
    assert made is not None
    assert (made.how, made.ranges, found.settings, found.epochs, found.candidates) == (
        *(NOT_FINETUNED, "learned", None, 0.0),
        (),
    )
    assert all(torch.equal(before[name], value) for name, value in joint.state_dict().items())
    for layer in placement.layers:
        assert torch.equal(model.quant_layer(layer.name).weight, joint.quant_layer(layer.name).weight)
    for one in placement.quantizers:
        mine, theirs = model.act_quantizer(one.name), joint.act_quantizer(one.name)
        assert mine.scales.values()[0] == theirs.scales.values()[theirs.bits.index(mine.bits[0])]
    assert found.top1.val == next(one.top1 for one in made.corrections if one.name == made.chosen)
    train = few_digits.split("train")
    seen = preview(joint, policy, train=train, held=few_digits.split("val"), batchnorm_images=len(train))
    anew = next(one for one in made.corrections if one.name == "batchnorm")
    assert anew.top1 == pytest.approx(seen.top1, abs=100 / 60)  # biases are rounded here, which may tip an image
    write_record(found, tmp_path / "finetuned.json")
    assert load_record(FineTuned, tmp_path / "finetuned.json") == found


def test_statistics_that_suit_another_network_are_replaced(
    tiny: Tiny, few_digits: DataSet, joint: QuantizedModel
) -> None:
    traced, placement = tiny
    policy = {layer.name: (4, 4) for layer in placement.searched}
    with torch.no_grad():
        for name, buffer in joint.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(0.01)
    model = model_of_policy(traced, placement, policy)
    found = take_joint(
        model, policy, few_digits, joint=joint, seed=0, float_top1=FLOAT, float_model=traced.graph_module
    )
    assert found.calibrated is not None
    tried = {one.name: one for one in found.calibrated.corrections}
    assert found.calibrated.chosen != "none"
    assert tried["none"].loss > tried[found.calibrated.chosen].loss
    assert found.calibrated.why.startswith(OF_BATCHNORM[found.calibrated.chosen])


def test_augmented_images_are_tried_where_training_augments(
    tiny: Tiny, few_digits: DataSet, joint: QuantizedModel
) -> None:
    traced, placement = tiny
    policy = {layer.name: (8, 8) for layer in placement.searched}

    def tried(dataset: DataSet) -> list[str]:
        model = model_of_policy(traced, placement, policy)
        found = take_joint(
            model, policy, dataset, joint=joint, seed=0, float_top1=FLOAT, float_model=traced.graph_module
        )
        assert found.calibrated is not None
        return [one.name for one in found.calibrated.corrections]

    assert few_digits.augment is not None
    assert tried(few_digits) == list(OF_BATCHNORM)
    assert tried(replace(few_digits, augment=None)) == ["none", "batchnorm"]


def test_the_same_seed_gives_the_same_model(tiny: Tiny, few_digits: DataSet) -> None:
    traced, placement = tiny
    policy = {layer.name: (4, 8) for layer in placement.searched}
    joint = joint_model(traced, placement, BITS)
    joint.initialise_scales(torch.from_numpy(few_digits.split("train").load(np.arange(64))[0]))

    def taken() -> tuple[QuantizedModel, FineTuned]:
        model = model_of_policy(traced, placement, policy)
        found = take_joint(
            model, policy, few_digits, joint=joint, seed=3, float_top1=FLOAT, float_model=traced.graph_module
        )
        return model, replace(found, seconds=0.0)

    (one, first), (other, second) = taken(), taken()
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
