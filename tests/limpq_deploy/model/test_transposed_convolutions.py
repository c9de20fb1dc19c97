"""ConvTranspose2d as a convolution and a pixel shuffle."""

import itertools

import pytest
import torch
from torch import nn

from limpq_deploy.model.layers import TracedModel, trace


def traced_with(layer: nn.ConvTranspose2d, *behind: nn.Module) -> TracedModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer, *behind, nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(4, 3, 5, 4))
    model.eval()
    traced = trace(model, (3, 5, 4))
    images = torch.randn(2, 3, 5, 4)
    # float32 sums in another order
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=1e-4, atol=1e-5)
    return traced


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"),
    [
        (kernel, stride, padding, more)
        for kernel, stride, padding in itertools.product((1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2))
        for more in (0, 1)
        if more < stride and more <= padding < kernel
    ],
)
def test_every_kernel_stride_and_padding_gives_what_torch_gives(
    kernel: int, stride: int, padding: int, more: int, groups: int
) -> None:
    layer = nn.ConvTranspose2d(4, 6, kernel, stride, padding, more, groups)
    traced = traced_with(layer)
    assert [one.kind for one in traced.layers] == ["conv", "conv", "linear"]


def test_a_kernel_of_two_sizes_too() -> None:
    traced_with(nn.ConvTranspose2d(4, 3, (2, 3), 2, (0, 1), bias=False))


def test_the_batchnorm_and_the_relu_behind_it_belong_to_the_layer() -> None:
    traced = traced_with(nn.ConvTranspose2d(4, 3, 2, 2), nn.BatchNorm2d(3), nn.ReLU())
    [_, layer, _] = traced.layers
    assert (layer.batchnorm, layer.out_channels, layer.macs) == ("2", 12, 4 * 12 * 20)
    assert traced.kinds["_3"] == "relu"


@pytest.mark.parametrize("stride", [(1, 2), (3, 1), (2, 3)])
def test_each_axis_may_have_a_stride_of_its_own(stride: tuple[int, int]) -> None:
    traced = traced_with(nn.ConvTranspose2d(4, 6, (3, 4), stride, (0, 1), groups=2), nn.BatchNorm2d(6), nn.ReLU())
    assert [one.kind for one in traced.layers] == ["conv", "conv", "linear"]
    assert traced.layers[1].out_channels == 6 * stride[0] * stride[1]


def test_dilation_stays_in_float() -> None:
    assert traced_with(nn.ConvTranspose2d(4, 3, 2, dilation=2)).kinds["_1"] == "float"
