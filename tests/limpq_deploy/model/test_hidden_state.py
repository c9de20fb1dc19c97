"""Hooks around the forwards of a model's modules are followed."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limpq_deploy.model.given_model import copied, plain
from limpq_deploy.model.layers import trace


class Watched(nn.Module):
    """What hooks keep of two modules is an output, and hooks change what modules read and give."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))
        self.seen: OrderedDict[str, Tensor] = OrderedDict()
        self.order: list[Tensor] = []
        self.stem.register_forward_pre_hook(lambda _, given: nn.functional.pad(given[0], (1, 1, 1, 1)))
        self.stem.register_forward_hook(self.kept)
        self.body.register_forward_hook(self.keeping("body"))
        self.body[0].register_forward_hook(lambda _, given, result: result * self.stem.weight.mean() + given[0])

    def kept(self, module: nn.Module, given: Any, result: Tensor) -> None:
        self.order.append(result)

    def keeping(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, given: Any, result: Tensor) -> None:
            self.seen[name] = result

        return keep

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.order.clear()
        x = self.body(self.stem(x)).mean((2, 3))
        return x, self.seen["body"].amax((2, 3)), self.order[0].mean((2, 3))


def test_hooks_of_modules_are_followed_once() -> None:
    model, images = Watched().eval(), torch.randn(2, 3, 5, 5)
    expected = model(images)
    found = trace(plain(copied(model)).model, (3, 5, 5))
    for one, other in zip(expected, found.graph_module(images), strict=True):
        torch.testing.assert_close(other, one)
    assert not any(module._forward_hooks for module in found.graph_module.modules())
    for one, other in zip(expected, model(images), strict=True):
        torch.testing.assert_close(other, one)
