import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.importance.fisher import add_fisher
from limpq_deploy.importance.variants import TensorAt, batch_statistics, searched_tensors
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import place
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.train.joint import read_indicators

BITS = (2, 3, 6)
Tiny = tuple[TracedModel, Placement]


def joint(tiny: Tiny, data: DataSet) -> QuantizedModel:
    traced, placement = tiny
    model = joint_model(traced, placement, BITS)
    model.initialise_scales(torch.from_numpy(next(data.split("train").batches(64))[0]))
    return model


def measure(tiny: Tiny, data: DataSet, images: int = 64) -> tuple[Indicators, QuantizedModel]:
    model = joint(tiny, data)
    return measured(read_indicators(model, BITS), model, data.split("val"), images=images, seed=1), model


def test_kl_and_loss_are_what_one_tensor_alone_does_to_the_logits(tiny: Tiny, few_digits: DataSet) -> None:
    indicators, model = measure(tiny, few_digits)
    batch, labels = next(few_digits.split("val").batches(60, shuffle=(1, 0)))
    images_NCHW, targets = torch.from_numpy(batch), torch.from_numpy(labels)
    with torch.no_grad(), batch_statistics(model):
        before = model(images_NCHW)
        model.quant_layer("conv2").active = 2
        model.batchnorm("bn2").active = 2
        after = model(images_NCHW)
        model.quant_layer("conv2").active = 6
        model.batchnorm("bn2").active = 6
    p = before.double().softmax(1)
    kl = (p * (p.log() - after.double().log_softmax(1))).sum(1).mean().item()
    more = (F.cross_entropy(after.double(), targets) - F.cross_entropy(before.double(), targets)).item()
    found = next(layer for layer in indicators.layers if layer.name == "conv2").measures
    assert found is not None
    assert found["kl"].weight[0] == pytest.approx(kl, rel=1e-6)
    assert found["loss"].weight[0] == pytest.approx(max(more, 0), rel=1e-5, abs=1e-7)


def test_the_widest_candidate_costs_nothing_and_fewer_bits_cost_more(tiny: Tiny, few_digits: DataSet) -> None:
    indicators, _ = measure(tiny, few_digits)
    for name in ("kl", "fisher"):
        two, three = [], []
        for layer in indicators.layers:
            assert layer.measures is not None
            found = layer.measures[name]
            assert found.weight[-1] == found.act[-1] == 0
            two += [found.weight[0], found.act[0]]
            three += [found.weight[1], found.act[1]]
        assert np.median(two) > np.median(three) > 0, name


def test_layers_that_read_one_tensor_have_one_measure_of_it(tiny: Tiny, few_digits: DataSet) -> None:
    indicators, _ = measure(tiny, few_digits)
    groups: dict[str, set[tuple[float, ...]]] = {}
    for layer in indicators.layers:
        if layer.act_group is not None:
            assert layer.measures is not None
            groups.setdefault(layer.act_group, set()).add(layer.measures["kl"].act)
    assert groups
    assert all(len(values) == 1 for values in groups.values())


def test_fisher_is_the_squared_gradient_times_error_of_each_image_alone(tiny: Tiny, few_digits: DataSet) -> None:
    """Against the plain way: one image at a time, the weight's own gradient."""
    model = joint(tiny, few_digits).eval()
    model.set_bits({layer.name: (6, 6) for layer in model.placement.searched})
    images_NCHW = torch.from_numpy(next(few_digits.split("val").batches(5))[0])
    table: dict[tuple[TensorAt, int], float] = {}
    tensors = searched_tensors(model.placement)
    add_fisher(model, images_NCHW, tensors, (2,), generator=torch.Generator().manual_seed(3), table=table)

    with torch.no_grad():
        p = F.log_softmax(model(images_NCHW).double(), 1).exp()
    drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(3))
    layer = model.quant_layer("conv3")
    codes = {}
    for width in (2, 6):
        layer.active = width
        codes[width] = layer.codes() * layer.active_scale()
    expected = 0.0
    for image, label in zip(images_NCHW, drawn, strict=True):
        quantized = codes[6].clone().requires_grad_()
        handle = layer.register_forward_hook(lambda _, x, y, w=quantized: layer.apply_weight(x[0], w, layer.bias))
        F.cross_entropy(model(image[None]), label).backward()
        handle.remove()
        assert quantized.grad is not None
        expected += float((quantized.grad.double() * (codes[2] - codes[6])).sum() ** 2)
    assert table[TensorAt("weight", "conv3"), 2] == pytest.approx(expected, rel=1e-4)


def test_measures_survive_json_and_repeat(tiny: Tiny, few_digits: DataSet) -> None:
    first, model = measure(tiny, few_digits)
    again, _ = measure(tiny, few_digits)
    assert first == again
    assert from_json(Indicators, to_json(first), origin="test") == first
    assert all(parameter.grad is None for parameter in model.parameters()), "measuring leaves no gradients behind"
    assert dataclasses.replace(first.layers[0], measures=None) == dataclasses.replace(again.layers[0], measures=None)


def test_activations_of_a_single_width_are_not_measured(tiny: Tiny, few_digits: DataSet) -> None:
    placement = place(tiny[0], tiny[1].spec, model="tiny", act_bits=6)
    indicators, _ = measure((tiny[0], placement), few_digits)
    for layer in indicators.layers:
        assert layer.measures is not None
        assert layer.measures["kl"].act == (0.0, 0.0, 0.0)
        assert layer.measures["kl"].weight[0] > 0
