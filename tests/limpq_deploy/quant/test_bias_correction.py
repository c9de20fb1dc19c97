"""Bias correction on nets small enough to know what it must do."""

from typing import Any

import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.export.records.placement import BitPair, LayerPlacement, Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.bias_correction import channel_means, correct_biases
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.train.ptq import set_ranges


def ranged(
    traced: TracedModel, placement: Placement, data: DataSet, bits: BitPair
) -> tuple[QuantizedModel, dict[str, BitPair], torch.Tensor]:
    policy = {layer.name: bits for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    set_ranges(model, data.split("train"), ranges="mse", images=64, seed=0)
    model.set_bits(policy)
    images, _ = next(data.split("train").batches(64, shuffle=(0, 0)))
    return model, policy, torch.from_numpy(images)


def means(model: QuantizedModel, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Channel means behind every layer and its BatchNorm."""
    found: dict[str, torch.Tensor] = {}

    def watch(layer: LayerPlacement) -> Any:
        def after(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            found[layer.name] = channel_means(layer, output)

        return model.graph.get_submodule(layer.batchnorm or layer.name).register_forward_hook(after)

    handles = [watch(layer) for layer in model.placement.layers]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def largest_errors(found: dict[str, torch.Tensor], true: dict[str, torch.Tensor]) -> list[float]:
    return [float((found[name] - true[name]).abs().max()) for name in true]


def test_the_mean_output_of_every_layer_is_the_float_models_again(
    tiny: tuple[TracedModel, Placement], few_digits: DataSet
) -> None:
    model, policy, images = ranged(*tiny, few_digits, (2, 3))
    model.set_float()
    true = means(model, images)
    model.set_bits(policy)
    before = largest_errors(means(model, images), true)
    assert correct_biases(model, policy, [images]) == ()
    assert min(before) > 1e-3
    # One batch: the means are equal but for float32 sums.
    assert max(largest_errors(means(model, images), true)) < 1e-4


def test_shifts_of_batches_are_averaged_by_their_images(
    tiny: tuple[TracedModel, Placement], few_digits: DataSet
) -> None:
    model, policy, images = ranged(*tiny, few_digits, (2, 3))
    plain = {name: value.clone() for name, value in model.state_dict().items()}

    def first_bias(*batches: torch.Tensor) -> torch.Tensor:
        model.load_state_dict(plain)
        correct_biases(model, policy, batches)
        return model.batchnorm("bn1").bias[0].detach().clone()

    parts = images[:48], images[48:]
    one, other = (first_bias(part) for part in parts)
    assert torch.allclose(first_bias(*parts), 0.75 * one + 0.25 * other, atol=1e-6)


class Bare(nn.Module):
    """A layer in the middle with neither bias nor BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=4)
        self.conv2 = nn.Conv2d(4, 4, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4, 10)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(images_NCHW))))
        return self.linear(torch.flatten(self.pool(x), 1))


def test_a_layer_without_bias_or_batchnorm_is_named_and_left(few_digits: DataSet) -> None:
    torch.manual_seed(0)
    traced = trace(Bare().eval(), (1, 16, 16))
    model, policy, images = ranged(traced, place(traced, ONNXRUNTIME, model="bare"), few_digits, (2, 3))
    assert correct_biases(model, policy, [images]) == ("conv2",)
    assert model.quant_layer("conv2").bias is None
