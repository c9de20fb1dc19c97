"""Channels of one range: the same function, a grid that serves them all, and a channel's scale that changes nothing."""

import copy

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.ranges import least_squares
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo.resnet8 import resnet8
from limpq_deploy.model.zoo.resnet_cifar import resnet20
from limpq_deploy.quant.fake_quant import quantize
from limpq_deploy.quant.quantized_model import model_of_policy


class Separable(nn.Module):
    """A depthwise, a pointwise and a linear layer. The depthwise ranges lie a factor of 5,000 apart; one channel is
    dead."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=groups)
        self.bn1 = nn.BatchNorm2d(4)
        self.pointwise = nn.Conv2d(4, 6, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 3)
        with torch.no_grad():
            self.depthwise.weight.mul_(torch.tensor([1.0, 30.0, 5000.0, 0.0]).reshape(4, 1, 1, 1))
            for norm in (self.bn1, self.bn2):
                norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator))
        self.train()
        self(torch.randn(64, 4, 8, 8, generator=generator))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.depthwise(x)))
        return self.linear(torch.relu(self.bn2(self.pointwise(x))).mean((2, 3)))


@pytest.mark.parametrize("training", [False, True], ids=["own statistics", "statistics of a batch"])
def test_equalising_changes_no_output(training: bool) -> None:
    model = Separable()
    before = copy.deepcopy(model).train(training)
    equalise_channels(trace(model, (4, 8, 8)))
    images = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    # float32: factors up to 5000 are rounded once, and so are their products with weights and statistics
    torch.testing.assert_close(model.train(training)(images), before(images), rtol=1e-4, atol=1e-4)


def test_every_live_channel_then_uses_the_whole_grid() -> None:
    model = Separable()
    grid = QuantGrid(bits=8, signed=True, narrow=True)

    def largest_codes() -> list[float]:
        scale = torch.tensor(least_squares(model.depthwise.weight, grid))
        return quantize(model.depthwise.weight.detach(), scale, grid).abs().flatten(1).amax(1).tolist()

    assert largest_codes()[0] == 0  # the smallest channel was lost
    equalise_channels(trace(model, (4, 8, 8)))
    assert min(largest_codes()[:3]) >= 100
    assert largest_codes()[3] == 0  # dead before, dead now


def test_the_size_of_a_layer_follows_neither_one_large_channel_nor_many_dead_ones() -> None:
    """Its scale is read as the layer's importance."""

    def largest(change: float, channels: slice) -> float:
        model = Separable(groups=1)
        with torch.no_grad():
            model.pointwise.weight[channels] *= change
            model.bn2.running_mean[channels] *= change  # type: ignore[index]
            model.bn2.running_var[channels] *= change**2  # type: ignore[index]
        equalise_channels(trace(model, (4, 8, 8)))
        return model.pointwise.weight.abs().max().item()

    usual = largest(1.0, slice(0, 0))
    assert largest(3000.0, slice(0, 1)) == pytest.approx(usual, rel=0.7)
    assert largest(1e-9, slice(0, 4)) == pytest.approx(usual, rel=0.7)


def settled(make: object, shape: tuple[int, int, int]) -> nn.Module:
    """A network with fresh weights, its BatchNorms settled on random images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = make()  # type: ignore[operator]
        with torch.no_grad():
            for norm in model.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.weight.uniform_(0.5, 1.5)
                    norm.momentum = None
            model.train()(torch.randn(32, *shape))
    return model.eval()


def scaled(model: nn.Module, layer: str, norm: str, channel: int, k: float) -> None:
    """One channel of a convolution times k, undone by its BatchNorm."""
    convolution, batchnorm = model.get_submodule(layer), model.get_submodule(norm)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(batchnorm, nn.BatchNorm2d)
    assert batchnorm.running_mean is not None
    assert batchnorm.running_var is not None
    with torch.no_grad():
        before = (batchnorm.running_var[channel].double() + batchnorm.eps).sqrt()
        convolution.weight[channel] *= k
        if convolution.bias is not None:
            convolution.bias[channel] *= k
        batchnorm.running_mean[channel] *= k
        batchnorm.running_var[channel] *= k * k
        after = (batchnorm.running_var[channel].double() + batchnorm.eps).sqrt()
        batchnorm.weight[channel] *= float(after / before / k)


def noise_db(model: nn.Module, images_NCHW: torch.Tensor) -> float:
    """SQNR of the logits at 8 bits, in dB, the way a build makes the quantized model."""
    with torch.no_grad():
        exact = model(images_NCHW)
        traced = equalise_channels(trace(copy.deepcopy(model), tuple(images_NCHW.shape[1:])))
        placement = place(traced, ONNXRUNTIME, model="net")
        policy = {layer.name: (8, 8) for layer in placement.searched}
        quantized = model_of_policy(traced, placement, policy)
        quantized.initialise_scales(images_NCHW)
        quantized.set_bits(policy)
        noise = quantized.eval()(images_NCHW) - exact
    return float(10 * torch.log10(exact.square().sum() / noise.square().sum()))


NETS = {"resnet8": (resnet8, (1, 12, 12)), "resnet20": (resnet20, (3, 8, 8)), "separable": (Separable, (4, 8, 8))}


@pytest.mark.parametrize("name", NETS)
def test_a_channel_that_its_batchnorm_scales_back_costs_no_accuracy(name: str) -> None:
    """1 dB: float32 rounds the factors, which moves single codes at ties."""
    make, shape = NETS[name]
    model = settled(make, shape)
    images = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    usual = noise_db(model, images)
    pairs = [(layer.name, layer.batchnorm) for layer in trace(model, shape).layers if layer.batchnorm is not None]
    factors = (20.0, 3000.0, 1 / 20) if name == "separable" else (3000.0,)
    for layer, norm in pairs:
        for k in factors:
            other = copy.deepcopy(model)
            scaled(other, layer, norm, 1, k)
            assert noise_db(other, images) == pytest.approx(usual, abs=1.0), (layer, k)
    for k in (1 / 3000, 1 / 20, 20.0, 200.0):
        other = copy.deepcopy(model)
        for number, (layer, norm) in enumerate(pairs):
            scaled(other, layer, norm, number % 3, k)
        assert noise_db(other, images) == pytest.approx(usual, abs=1.0), k
