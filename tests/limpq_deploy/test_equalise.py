"""Channels of one range: the same function, a grid that serves them all."""

import copy

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.grid import QuantGrid
from limpq_deploy.calibration.ranges import least_squares
from limpq_deploy.equalise import equalise_channels
from limpq_deploy.fake_quant import quantize
from limpq_deploy.layers import trace


class Separable(nn.Module):
    """A depthwise, a pointwise and a linear layer. The depthwise ranges lie a factor of 5,000 apart; one channel is
    dead."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
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
    assert equalise_channels(trace(model, (4, 8, 8))) == 2
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


def test_a_model_without_depthwise_convolutions_stays_as_it_is() -> None:
    model = Separable(groups=1)
    before = copy.deepcopy(model.state_dict())
    assert equalise_channels(trace(model, (4, 8, 8))) == 0
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
