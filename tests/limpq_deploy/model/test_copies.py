"""Copies of models share nothing with them, functions included."""

import torch
from torch import Tensor, nn

from limpq_deploy.model.copies import whole_copy
from limpq_deploy.model.layers import trace


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.skips = [lambda x: x + self.conv(x).mean()]
        self.by = {"two": lambda x: 2 * x, "relu": lambda x: torch.relu(self.conv(x))}
        self.pair = (lambda x: self.conv(x), "both")

    def forward(self, x: Tensor) -> Tensor:
        return self.by["two"](self.by["relu"](x)) + self.skips[0](x).mean(1, keepdim=True) + self.pair[0](x)


def test_functions_of_a_copy_call_the_copys_layers() -> None:
    model, images = Called(), torch.randn(2, 3, 4, 4)
    found = whole_copy(model)
    before = model(images)
    torch.testing.assert_close(found(images), before)
    with torch.no_grad():
        model.conv.weight.zero_()
    torch.testing.assert_close(found(images), before)
    torch.testing.assert_close(trace(found, (3, 4, 4)).graph_module(images), before)
    assert isinstance(found, Called)
    assert found.by["two"] is model.by["two"], "what names nothing of the model stays"
