"""Parameters beside layers, which take them up."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.model.layers import TracedModel, trace


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)
        self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.gamma, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4, 1, 1))
        self.factor = nn.Parameter(torch.tensor(0.3))
        self.map = nn.Parameter(torch.randn(4, 3, 3))
        self.of = "channels"

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.of == "channels":
            x = self.shift + x * self.factor
            x = x + (self.linear(x.permute(0, 2, 3, 1)) * self.gamma).permute(0, 3, 1, 2)
        elif self.of == "moved":
            x = x + self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * self.gamma.view(1, 4, 1, 1)
        elif self.of == "pixels":
            x = F.relu(x * self.map)
        elif self.of == "shared":
            x = x * self.shift + x
        return self.head(x.mean((2, 3)))


def traced_with(of: str) -> TracedModel:
    torch.manual_seed(0)
    model = Scaled().eval()
    model.of = of
    before = {name: value.clone() for name, value in model.state_dict().items()}
    traced = trace(model, (1, 3, 3))
    images = torch.randn(3, 1, 3, 3)
    torch.testing.assert_close(traced.graph_module(images), model(images))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return traced


@pytest.mark.parametrize("of", ["channels", "moved"])
def test_numbers_for_channels_go_into_the_layer(of: str) -> None:
    traced = traced_with(of)
    assert not {"constant", "float"} & set(traced.kinds.values())


@pytest.mark.parametrize("of", ["pixels", "shared"])
def test_other_numbers_and_shared_tensors_stay(of: str) -> None:
    assert "constant" in traced_with(of).kinds.values()


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def test_a_weight_that_is_computed_from_parameters_is_a_layers() -> None:
    model = nn.Sequential(Standardised(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    traced = trace(model, (1, 4, 4))
    assert [layer.name for layer in traced.layers] == ["0", "3"]
    images = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(traced.graph_module(images), model(images))
