from itertools import product
from typing import Any

import torch

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.importance.variants import TensorAt, Variants, batch_statistics, searched_tensors
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model

BITS = (2, 3, 6)

Tiny = tuple[TracedModel, Placement]


def initialised(tiny: Tiny, data: DataSet) -> tuple[QuantizedModel, torch.Tensor]:
    traced, placement = tiny
    model = joint_model(traced, placement, BITS)
    images_NCHW = torch.from_numpy(next(data.split("train").batches(32))[0])
    model.initialise_scales(images_NCHW)
    model.set_bits({layer.name: (6, 6) for layer in placement.searched})
    return model.eval(), images_NCHW


def whole_forward(model: QuantizedModel, tensor: TensorAt, bits: int, images_NCHW: torch.Tensor) -> torch.Tensor:
    """The plain way: every module of the tensor set by hand, the whole graph run."""
    changed: list[Any]
    if tensor.kind == "act":
        changed = [model.act_quantizer(tensor.name)]
    else:
        changed = [model.quant_layer(tensor.name)]
        norm = model.placement.layer(tensor.name).batchnorm
        changed += [] if norm is None else [model.batchnorm(norm)]
    before = [module.active for module in changed]
    for module in changed:
        module.active = bits
    logits: torch.Tensor = model(images_NCHW)
    for module, active in zip(changed, before, strict=True):
        module.active = active
    return logits


def test_logits_of_a_variant_are_those_of_the_whole_network_bit_by_bit(tiny: Tiny, few_digits: DataSet) -> None:
    model, images_NCHW = initialised(tiny, few_digits)
    with torch.no_grad(), batch_statistics(model):
        variants = Variants(model, images_NCHW)
        assert torch.equal(variants.outputs, model(images_NCHW))
        tensors, seen = searched_tensors(model.placement), set()
        for tensor, bits, found in variants.each(tensors, BITS):
            assert torch.equal(found, whole_forward(model, tensor, bits, images_NCHW)), (tensor, bits)
            assert torch.equal(found, variants.outputs) == (bits == 6), (tensor, bits)
            seen.add((tensor, bits))
    assert seen == set(product(tensors, BITS))


def test_a_tensor_that_several_layers_read_is_listed_once(tiny: Tiny) -> None:
    tensors = searched_tensors(tiny[1])
    assert len(set(tensors)) == len(tensors)
    acts = [tensor.name for tensor in tensors if tensor.kind == "act"]
    assert len(acts) < len([tensor for tensor in tensors if tensor.kind == "weight"])


def test_values_in_front_of_the_changed_tensor_are_not_computed_again(tiny: Tiny, few_digits: DataSet) -> None:
    model, images_NCHW = initialised(tiny, few_digits)
    calls: list[str] = []
    for layer in model.placement.layers:
        model.quant_layer(layer.name).register_forward_hook(lambda *_, name=layer.name: calls.append(name))
    with torch.no_grad():
        variants = Variants(model, images_NCHW)
        calls.clear()
        for _ in variants.each([TensorAt("weight", "conv3")], [2, 3]):
            calls.append("")
    assert calls == ["conv1", "conv2", "conv3", "shortcut", "linear", "", "conv3", "linear", "", "conv3"]


def test_batch_statistics_leave_running_statistics_modes_and_momenta_alone(tiny: Tiny, few_digits: DataSet) -> None:
    model, images_NCHW = initialised(tiny, few_digits)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    momenta = [module.momentum for module in model.modules() if hasattr(module, "running_mean")]
    with torch.no_grad(), batch_statistics(model):
        shifted = model(images_NCHW)
    assert not torch.equal(shifted, model(images_NCHW)), "the batch's statistics were used"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert momenta == [module.momentum for module in model.modules() if hasattr(module, "running_mean")]
    assert not any(module.training for module in model.modules())
