"""The trained torch model against the integers that were exported from it, fed with the same codes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.export.reference.parity import Disagreement, TensorParity
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.quant.torch_parity import Fed, TrainedParity, compare_trained
from limpq_deploy.train.float_training import train_float
from limpq_deploy.train.settings import FloatSettings

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.reference.executor import IntegerReference

SETTINGS = FloatSettings(
    steps=40,
    batch_size=64,
    learning_rate=0.1,
    scale_learning_rate=0.01,
    warmup_steps=4,
    weight_decay=5e-4,
    label_smoothing=0.1,
    batchnorm_images=256,
)
NARROW = {"conv2": (4, 3), "conv3": (3, 5)}
AS_WIDE_AS_ITS_PARENT = {"conv2": (4, 8), "conv3": (3, 5)}


class Residual(nn.Module):
    """A stem and a block whose input is read by a convolution and, as it is, by the Add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 10)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(images_NCHW)))
        x = torch.relu(self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x))))) + x)
        return self.linear(x.mean((2, 3)))


@dataclass
class Exported:
    """A trained net, its integers, and two batches of what the integer reference makes of real images."""

    traced: TracedModel
    model: QuantizedModel
    layers: dict[str, IntegerLayer]
    acts: dict[str, QuantParams]
    fed: list[Fed]

    def compare(self, **changes: Any) -> TrainedParity:
        given = {"traced": self.traced, "model": self.model, "layers": self.layers, "acts": self.acts}
        return compare_trained(**{**given, "batches": self.fed, **changes})


@pytest.fixture(scope="module")
def export(few_digits: DataSet) -> Callable[[dict[str, tuple[int, int]]], Exported]:
    """Export the net, trained once, at some bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Residual()
    train_float(net, few_digits, settings=SETTINGS, seed=0)
    traced = trace(net.eval(), (1, 16, 16))
    placement = place(traced, ONNXRUNTIME, model="residual")
    template = float_template(traced, placement)
    first, _ = next(iter(few_digits.split("train").batches(256)))

    def at(policy: dict[str, tuple[int, int]]) -> Exported:
        model = model_of_policy(traced, placement, policy)
        model.initialise_scales(torch.from_numpy(first))
        model.set_bits(policy)
        layers, acts = integer_model(model.eval(), policy)
        reference = IntegerReference(build_qdq(template, placement, layers, acts, {}))
        fed = []
        for images, _ in few_digits.split("test").batches(30):
            logits, codes = reference.run(images, keep=reference.code_tensors)
            fed.append(Fed(images, codes, logits))
        integers = {name: layer for name, layer in layers.items() if isinstance(layer, IntegerLayer)}
        return Exported(traced, model, integers, acts, fed)

    return at


@pytest.fixture(scope="module")
def narrow(export: Any) -> Exported:
    """With a re-quantizer behind the stem's carrier."""
    found: Exported = export(NARROW)
    return found


def mismatching(parts: tuple[TensorParity, ...]) -> set[str]:
    """Tensors with a difference that is no tie."""
    return {part.tensor for part in parts if part.max_lsb > 1 or (part.max_tie_distance or 0.0) > 1e-4}


def test_every_quantizer_of_a_trained_net_gives_the_exported_codes_up_to_ties(narrow: Exported) -> None:
    found = narrow.compare()
    assert {part.tensor for part in found.faithful} == {f"{name}_codes" for name in narrow.acts}
    assert "relu_layers_codes" in {part.tensor for part in found.faithful}
    assert mismatching(found.faithful) == set()
    elements = sum(part.elements for part in found.faithful)
    assert elements == sum(narrow.fed[0].codes[part.tensor].size * 2 for part in found.faithful)
    assert sum(part.mismatches for part in found.faithful) <= 1e-5 * elements
    assert found.images == 60
    assert found.agreement == 1.0
    assert found.disagreements == ()


def test_a_requantizer_as_wide_as_its_parent_is_passed_without_being_compared(export: Any) -> None:
    wide: Exported = export(AS_WIDE_AS_ITS_PARENT)
    assert "relu_layers" not in wide.acts
    found = wide.compare()
    assert "relu_layers_codes" not in {part.tensor for part in found.faithful}
    assert mismatching(found.faithful) == set()
    assert sum(part.mismatches for part in found.faithful) <= 1e-5 * sum(part.elements for part in found.faithful)


def test_one_wrong_weight_code_shows_in_the_next_quantizer_and_nowhere_else(narrow: Exported) -> None:
    codes = narrow.layers["conv2"].codes.copy()
    codes[2, 1, 1, 1] += 1
    layers = narrow.layers | {"conv2": replace(narrow.layers["conv2"], codes=codes)}
    found = narrow.compare(layers=layers)
    assert mismatching(found.faithful) == {"relu_1_codes"}
    assert mismatching(found.folding) == mismatching(narrow.compare().folding)


def test_one_wrong_bias_code_shows_in_the_next_quantizer(narrow: Exported) -> None:
    layer = narrow.layers["conv3"]
    bias_codes = layer.bias_codes + np.where(np.arange(6) == 4, 3, 0).astype(np.int32)
    found = narrow.compare(layers=narrow.layers | {"conv3": replace(layer, bias_codes=bias_codes)})
    assert mismatching(found.faithful) == {"bn3_codes"}


def test_a_wrong_activation_scale_shows_in_its_own_quantizer(narrow: Exported) -> None:
    params = narrow.acts["relu_1"]
    acts = narrow.acts | {"relu_1": replace(params, scale=(params.scale[0] * 1.05,))}
    assert "relu_1_codes" in mismatching(narrow.compare(acts=acts).faithful)


def test_a_weight_that_changed_after_export_shows_in_the_model_as_trained_only(export: Any) -> None:
    changed: Exported = export(NARROW)
    before = changed.compare()
    layer = changed.model.quant_layer("conv3")
    with torch.no_grad():
        layer.weight[1] += 2 * layer.active_scale()
    found = changed.compare()
    assert found.faithful == before.faithful
    assert {after.tensor for after in found.folding if after not in before.folding} == {"bn3_codes"}


def test_every_image_on_which_the_classes_differ_is_listed_across_batches(narrow: Exported) -> None:
    second = narrow.fed[1]
    logits = second.logits.copy()
    mine = int(logits[7].argmax())
    logits[7, (mine + 1) % 10] = logits[7].max() + 1
    found = narrow.compare(batches=[narrow.fed[0], Fed(second.images_NCHW, second.codes, logits)])
    assert found.disagreements == (Disagreement(image=37, trained=mine, runtime=(mine + 1) % 10),)
    assert found.agreement == pytest.approx(59 / 60)
