"""Linear layers of many vectors."""

import torch
from torch import Tensor, nn

from limpq_deploy.model.layers import trace


class Tokens(nn.Module):
    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(1, 4, 1), first
        self.up, self.relu, self.down, self.head = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).permute((2, 0, 1) if self.first else (0, 2, 1))
        x = self.down(self.relu(self.up(x)))
        return self.head(x.mean(0 if self.first else 1))


def test_rows_are_read_wherever_the_images_are_and_macs_count_every_token() -> None:
    for first in (True, False):
        model = Tokens(first=first).eval()
        traced = trace(model, (1, 3, 5))
        for count in (1, 4):
            images = torch.randn(count, 1, 3, 5)
            torch.testing.assert_close(traced.graph_module(images), model(images))
        macs = {layer.name: layer.macs for layer in traced.layers}
        assert macs == {"conv": 60, "up": 15 * 24, "down": 15 * 24, "head": 8}
        assert all(len(traced.node(name).meta["tensor_meta"].shape) == 2 for name in ("up", "relu", "down", "head"))
        assert traced.kinds["relu"] == "relu"
