"""Means and maxima along axes of images."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.islands import for_target
from limpq_deploy.model.layers import TracedModel, trace


class Net(nn.Module):
    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.body = nn.Conv2d(3, 4, 3, padding=1), body
        self.linear = nn.Linear(body(torch.zeros(1, 4, 6, 8)).flatten(1).shape[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.body(self.conv(x)).flatten(1))


def traced_with(body: Callable[[Tensor], Tensor]) -> TracedModel:
    model = Net(body).eval()
    traced = trace(model, (3, 6, 8))
    for count in (1, 2):
        images = torch.randn(count, 3, 6, 8)
        torch.testing.assert_close(traced.graph_module(images), model(images))
    return for_target(traced, ONNXRUNTIME)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x.mean(2),
        lambda x: torch.mean(x, dim=-1),
        lambda x: x.amax((2, 3)),
        lambda x: torch.amax(x, (-1, -2), keepdim=True),
        lambda x: x.max(2)[0],
        lambda x: torch.max(x, dim=3, keepdim=True)[0],
        lambda x: x.max(-1).values.max(-1).values,
        lambda x: torch.max(x.mean(3), 2)[0] + x.mean(3).mean(2),
        lambda x: x.mean(3).permute(2, 0, 1).mean(0),
        lambda x: x.flatten(2).transpose(1, 2).mean(1),
        lambda x: x.amax(3).transpose(1, 2).max(dim=1)[0],
        lambda x: x.flatten(2).mean(-1),
        lambda x: x.reshape(len(x), 4, 48).mean(2, keepdim=True),
        lambda x: F.relu(x).view(x.shape[0], 4, -1).max(dim=2)[0],
    ],
)
def test_they_have_an_integer_form(body: Callable[[Tensor], Tensor]) -> None:
    assert "float" not in traced_with(body).kinds.values()


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6),
        lambda x: x.permute(0, 2, 3, 1) / x.permute(0, 2, 3, 1).pow(2).mean(3, True),
        lambda x: x.permute(2, 1, 0, 3).mean(0).transpose(0, 1),
        lambda x: (x.permute(1, 2, 0, 3) - x.permute(1, 2, 0, 3).amax(2, True)).permute(2, 0, 1, 3),
        lambda x: x.mean(()).expand(len(x), 1) + x.amax(dim=[]),
        lambda x: x * (x > 0).amax(2, keepdim=True) + (x > 1).max(3, True)[0],
        lambda x: x.mean(1),
        lambda x: x.mean((1, 2)),
        lambda x: x.mean(2, dtype=torch.float64).float(),
        lambda x: torch.max(x, 1)[0],
        lambda x: x.max(3)[0] + x.max(3)[1],
        lambda x: torch.max(x.flatten(2), dim=2).indices + x.mean((1, 2, 3)).reshape(-1, 1),
    ],
)
def test_a_norm_by_hand_and_what_turns_channels_and_places_stay_in_float(body: Callable[[Tensor], Tensor]) -> None:
    assert "float" in traced_with(body).kinds.values()
