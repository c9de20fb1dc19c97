import copy
import math

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.export.records.placement import ActQuantizer, Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.fake_quant import quantize
from limpq_deploy.quant.modules import ActFakeQuant, QuantLayer, SwitchableBatchNorm
from limpq_deploy.quant.quantized_model import inherit, joint_model, model_of_policy
from limpq_deploy.train.joint import uniform

Tiny = tuple[TracedModel, Placement]
BITS = (2, 4, 8)
MIXED = {"conv2": (2, 4), "conv3": (4, 2), "shortcut": (8, 4)}


def images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def filled_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        for number, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
            assert tensor is not None
            tensor.copy_(torch.rand(3, generator=torch.Generator().manual_seed(number)) + 0.5)
    return norm


def test_the_fold_factor_is_that_of_the_formula_eps_included() -> None:
    """|-2| / sqrt(0.03 + 0.01) = 10."""
    norm = nn.BatchNorm2d(1, eps=0.01)
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.fill_(-2.0)
        norm.running_var.fill_(0.03)
    assert SwitchableBatchNorm(norm, (4,)).fold_factor().item() == pytest.approx(10.0)


def test_the_gradient_of_an_activation_scale_counts_one_image_and_that_of_a_weight_all_of_it() -> None:
    """LSQ's 1 / sqrt(elements * qmax), on grids where every value is clipped at the top: slope qmax for each."""
    placed = ActQuantizer(name="a", tensor="a", signed=False, bits=None, layers=("c",), producer=None)
    act = ActFakeQuant(placed, (2,), (QuantGrid(bits=2, signed=False),))
    act.active = 2
    act(torch.full((5, 3, 4, 4), 99.0)).sum().backward()
    assert act.scales.log_scale.grad is not None
    assert act.scales.log_scale.grad.item() == pytest.approx(3 * 5 * 48 / math.sqrt(48 * 3))

    conv = nn.Conv2d(2, 3, 1, bias=False)
    nn.init.constant_(conv.weight, 99.0)
    layer = QuantLayer(conv, (2,), (QuantGrid(bits=2, signed=True),))
    layer.active = 2
    layer(torch.ones(1, 2, 1, 1)).sum().backward()
    assert layer.scales.log_scale.grad is not None
    assert layer.scales.log_scale.grad.item() == pytest.approx(1 * 6 / math.sqrt(6 * 1))


def test_a_batchnorm_with_one_candidate_equals_batchnorm2d_in_both_modes() -> None:
    norm = filled_norm()
    switchable = SwitchableBatchNorm(norm, (4,))
    switchable.active = 4
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    for training in (True, False):
        norm.train(training)
        switchable.train(training)
        assert torch.equal(switchable(x), norm(x))
    assert norm.running_mean is not None
    assert torch.equal(switchable.running_mean[0], norm.running_mean)


def test_a_switchable_batchnorm_uses_and_updates_the_row_of_the_active_bits_only() -> None:
    switchable = SwitchableBatchNorm(filled_norm(), (2, 4, 6))
    before = switchable.running_mean.clone()
    switchable.active = 4
    switchable(torch.randn(5, 3, 4, 4)).square().sum().backward()
    assert torch.equal(switchable.running_mean[0], before[0])
    assert not torch.equal(switchable.running_mean[1], before[1])
    assert torch.equal(switchable.running_mean[2], before[2])
    assert switchable.weight.grad is not None
    assert switchable.weight.grad.abs().sum(1).bool().tolist() == [False, True, False]


def test_with_quantizers_off_the_model_is_the_float_model(tiny: Tiny, tiny_model: nn.Module) -> None:
    model = joint_model(*tiny, BITS).eval()
    assert torch.equal(model(images()), tiny_model(images()))


def test_joint_model_leaves_the_traced_model_alone(tiny: Tiny) -> None:
    before = copy.deepcopy(tiny[0].graph_module.state_dict())
    model = joint_model(*tiny, BITS)
    model.initialise_scales(images())
    for parameter in model.parameters():
        parameter.data.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny[0].graph_module.state_dict().items())


def test_more_bits_come_closer_to_the_float_model(tiny: Tiny, tiny_model: nn.Module) -> None:
    model = joint_model(*tiny, BITS)
    model.initialise_scales(images())
    model.eval()
    errors = []
    for bits in BITS:
        model.set_bits(uniform(tiny[1], bits))
        errors.append((model(images()) - tiny_model(images())).square().mean().item())
    assert errors[0] > errors[1] > errors[2] > 0


def test_a_requantizer_as_wide_as_its_parent_passes_through() -> None:
    placed = ActQuantizer(name="q", tensor="t", signed=False, bits=None, layers=("a",), parent="p")
    quantizer = ActFakeQuant(placed, (4, 8), tuple(QuantGrid(bits=bits, signed=False) for bits in (4, 8)))
    quantizer.identity_from = 8
    x = torch.rand(2, 5) * 100
    quantizer.active = 8
    assert quantizer(x) is x
    quantizer.active = 4
    assert not torch.equal(quantizer(x), x)


def test_a_policy_model_inherits_weights_scales_and_batchnorms_of_its_bits(tiny: Tiny) -> None:
    joint = joint_model(*tiny, BITS)
    joint.initialise_scales(images())
    with torch.no_grad():
        for parameter in joint.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    model = model_of_policy(*tiny, MIXED)
    inherit(model, joint)
    for number, name in enumerate(("conv2", "conv3", "shortcut")):
        row = BITS.index(MIXED[name][0])
        assert torch.equal(model.quant_layer(name).weight, joint.quant_layer(name).weight)
        assert model.quant_layer(name).active_scale() == joint.quant_layer(name).scales.scale(row).item()
        norm = f"bn{(2, 3, 4)[number]}"
        assert torch.equal(model.batchnorm(norm).weight[0], joint.batchnorm(norm).weight[row])
    joint.set_bits(MIXED)
    assert torch.equal(model.eval()(images()), joint.eval()(images()))


def test_parameters_of_what_is_computed_in_float_are_inherited_too() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3)
            self.place, self.c = nn.Parameter(torch.randn(4)), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.softmax(self.b(self.norm(self.a(x))).mean((2, 3)) + self.place, 1)
            return self.c(x)

    traced = trace(Normed().eval(), (3, 8, 8))
    placement = place(traced, ONNXRUNTIME, model="normed")
    joint = joint_model(traced, placement, BITS)
    joint.initialise_scales(torch.randn(4, 3, 8, 8))
    assert {"norm.weight", "norm.bias"} <= joint.float_state().keys()
    with torch.no_grad():
        for tensor in joint.float_state().values():
            tensor.add_(1)
    model = model_of_policy(traced, placement, {layer.name: (4, 4) for layer in placement.searched})
    inherit(model, joint)
    for name, tensor in joint.float_state().items():
        assert torch.equal(model.float_state()[name], tensor)


def test_a_layer_computes_what_its_integer_codes_compute() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1).double()
    act, weight = QuantGrid(bits=4, signed=False), QuantGrid(bits=3, signed=True)
    quantized = QuantLayer(layer, (3,), (weight,))
    quantized.scales.double().initialise([0.11])
    quantized.active = 3
    scale_x = torch.tensor(0.37, dtype=torch.float64)
    codes_x = quantize(torch.rand(2, 3, 6, 6, dtype=torch.float64) * 6, scale_x, act)
    codes_w = quantized.codes()

    integers = nn.functional.conv2d(codes_x.long(), codes_w.long(), padding=1)
    assert layer.bias is not None
    real = integers * (scale_x * quantized.active_scale()) + layer.bias.detach()[:, None, None]

    # float64 sums of 27 products: rounding only.
    torch.testing.assert_close(quantized(codes_x * scale_x).detach(), real.detach(), rtol=1e-12, atol=1e-12)
    assert codes_w.unique().numel() > 3


@pytest.mark.parametrize("bits", [2, 8])
def test_pinned_layers_keep_their_width_whatever_the_policy(tiny: Tiny, bits: int) -> None:
    model = joint_model(*tiny, BITS)
    model.set_bits(uniform(tiny[1], bits))
    assert model.quant_layer("conv1").active == 8
    assert model.quant_layer("linear").active == 8
    assert model.quant_layer("conv2").active == bits


def test_every_channel_starts_at_the_power_of_two_of_least_error() -> None:
    layer = nn.Linear(6, 3, bias=False)
    codes = torch.tensor([[7.0, -8, 3, 1, 0, -5], [7, -8, 2, 5, 1, -1], [7, 6, -8, 3, 2, 1]])
    with torch.no_grad():
        layer.weight.copy_(codes * torch.tensor([[0.25], [0.0625], [0.5]]))
    quantized = QuantLayer(layer, (4,), (QuantGrid(bits=4, signed=True),), pow2=True)
    quantized.active = 4
    quantized.initialise([0.23])
    powers = quantized.folded_scales()
    assert powers is not None
    assert powers.tolist() == [0.25, 0.0625, 0.5]
    assert torch.equal(quantized.codes(), codes)
    with torch.no_grad():
        quantized.scales.log_scale.add_(0.7)  # an octave of the layer's scale moves all of them
    moved = quantized.folded_scales()
    assert moved is not None
    assert moved.tolist() == [0.5, 0.125, 1.0]


def test_folded_scales_of_powers_follow_gamma_and_variance(tiny: Tiny) -> None:
    model = model_of_policy(*tiny, MIXED, scales="pow2")
    model.initialise_scales(images())
    norm, layer = model.batchnorm("bn2"), model.quant_layer("conv2")
    norm.active, layer.active = norm.bits[0], layer.bits[0]
    before, steps = layer.folded_scales(), layer.step(0)
    assert before is not None
    with torch.no_grad():
        norm.weight[0] *= -4
    after = layer.folded_scales()
    assert after is not None
    assert torch.equal(after, 4 * before)
    assert torch.equal(layer.step(0), steps)
