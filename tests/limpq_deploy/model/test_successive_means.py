"""Averages along one axis after the other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from limpq_deploy.model.layers import trace


class Net(nn.Module):
    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2), body

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.body(self.conv(x)).flatten(1)[:, :4])


def read_twice(x: Tensor) -> Tensor:
    rows = x.mean(3)
    return rows.mean(2) + rows[:, :, 0]


@pytest.mark.parametrize(
    ("body", "pools"),
    [
        (lambda x: x.mean(3).mean(2), 1),
        (lambda x: x.mean(2).mean(2), 1),
        (lambda x: x.mean(-1).mean(-1), 1),
        (lambda x: x.mean(-2).mean(-1), 1),
        (lambda x: torch.mean(torch.mean(x, dim=-1), dim=-1), 1),
        (lambda x: torch.mean(x.mean(dim=[2], keepdim=True), dim=3, keepdim=True), 1),
        (lambda x: x.mean(1).mean(1), 0),
        (lambda x: x.mean(3).mean(1), 0),
        (lambda x: x.mean(2).mean(-1), 2),
        (read_twice, 2),
    ],
)
def test_an_average_along_both_axes_is_one_pool_where_it_can_be(body: Callable[[Tensor], Tensor], pools: int) -> None:
    model = Net(body).eval()
    traced = trace(model, (3, 6, 8))
    images = torch.randn(2, 3, 6, 8)
    torch.testing.assert_close(traced.graph_module(images), model(images))
    assert list(traced.kinds.values()).count("pool") == pools
