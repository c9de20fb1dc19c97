"""Layers that a forward computes with parameters of its own."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.model.layers import trace
from limpq_deploy.model.zoo import create_model


class SamePadded(nn.Conv2d):
    """As timm's Conv2dSame."""

    def forward(self, x: Tensor) -> Tensor:
        pad = max((-(x.shape[-1] // -self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - x.shape[-1], 0)
        x = F.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = SamePadded(3, 8, 3, stride=2, groups=1)
        self.norm = nn.BatchNorm2d(8)
        self.own_weight = nn.Parameter(torch.randn(8, 4, 1, 1))
        self.head_weight, self.head_bias = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = F.conv2d(x, self.own_weight, groups=2)
        return F.linear(x.mean((2, 3)), bias=self.head_bias, weight=self.head_weight)


def test_they_become_modules_with_the_models_own_parameters() -> None:
    model = Net().eval()
    traced = trace(model, (3, 9, 9))
    assert [(layer.name, layer.kind, layer.batchnorm) for layer in traced.layers] == [
        *(("stem", "conv", "norm"), ("own", "conv", None), ("head", "linear", None))
    ]
    assert [layer.macs for layer in traced.layers] == [25 * 8 * 27, 25 * 8 * 4, 40]
    assert traced.graph_module.get_submodule("stem").weight is model.stem.weight
    assert traced.graph_module.get_submodule("stem").bias is model.stem.bias
    assert traced.graph_module.get_submodule("head").bias is model.head_bias
    images = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


class Transposed(nn.ConvTranspose2d):
    """With a forward of its own, which is traced through."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x, output_size)


class Signals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.head = Transposed(3, 4, 2, 2), nn.Linear(4, 2)
        self.weight, self.wide_weight = nn.Parameter(torch.randn(6, 2, 3)), nn.Parameter(torch.randn(6, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.conv1d(self.up(x).flatten(2), self.weight, stride=2, groups=2)
        return self.head(F.conv_transpose1d(x, self.wide_weight, padding=1, stride=2, groups=2).mean(2))


def test_so_do_transposed_ones_and_those_of_one_axis() -> None:
    model = Signals().eval()
    traced = trace(model, (3, 4, 5))
    assert [layer.name for layer in traced.layers] == ["up", "weight_layer", "wide", "head"]
    images = torch.randn(2, 3, 4, 5)
    # float32 sums in another order
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=1e-4, atol=1e-5)


def test_timms_tensorflow_networks_are_taken() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs the extra limpq-deploy[timm]")
    model: Any = create_model("timm/tf_mobilenetv3_small_minimal_100", num_classes=7)[0]
    traced = trace(model.eval(), (3, 64, 64))
    assert traced.layers[0].name == "conv_stem"
    assert all(layer.batchnorm is not None for layer in traced.layers[:-2])
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


def test_layers_may_share_a_bias() -> None:
    class Shared(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(x, self.stem.weight, self.stem.bias)
            return F.conv2d(x, self.own_weight, self.stem.bias, groups=2).mean((2, 3))

    model, images = Shared().eval(), torch.randn(2, 3, 9, 9)
    traced = trace(model, (3, 9, 9))
    assert len(traced.layers) == 2
    torch.testing.assert_close(traced.graph_module(images), model(images))


def test_a_layer_of_a_weight_that_another_layer_has_stands_beside_that() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(F.conv1d(x.flatten(2), self.conv.weight, self.conv.bias, padding=1))
            return self.head(F.conv1d(x, self.conv.weight * 2, padding=1).mean(2))

    torch.manual_seed(0)
    model, images = Twice().eval(), torch.randn(2, 3, 4, 5)
    traced = trace(model, (3, 4, 5))
    assert [layer.name for layer in traced.layers] == ["conv", "conv_weight", "head"]
    # float32 sums in another order
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=1e-4, atol=1e-5)
