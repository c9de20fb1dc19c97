"""What networks return, however they hold it."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limpq_deploy.model.layers import trace
from limpq_deploy.model.outputs import feeding_outputs
from limpq_deploy.model.results import mapped, tensors_of

Named = namedtuple("Named", ["logits", "aux"])


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()


class ModelOutput(OrderedDict[str, Any]):
    """As libraries of transformers have it."""


RESULTS: tuple[Callable[[Tensor, Tensor], Any], ...] = (
    lambda x, y: Named(x, [y, y + 1]),
    lambda x, y: Named(x, None),
    lambda x, y: Output(logits=x, hidden=(y,)),
    lambda x, y: ModelOutput(logits=x, hidden=Output(logits=y)),
    lambda x, y: {"b": x, "a": [{"c": y}]},
    lambda x, y: torch.max(x, 1),
)


class Net(nn.Module):
    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 2)
        self.result = result

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.result(self.first(x), self.second(x))


@pytest.mark.parametrize("result", RESULTS)
def test_a_traced_network_gives_the_same_tensors_in_the_same_order(result: Callable[[Tensor, Tensor], Any]) -> None:
    model, images = Net(result).eval(), torch.randn(2, 3, 6, 6)
    traced = trace(model, (3, 6, 6))
    expected, found = tensors_of(model(images)), tensors_of(traced.graph_module(images))
    assert expected
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one)
    assert "first" in feeding_outputs(traced)


@pytest.mark.parametrize("result", RESULTS)
def test_every_tensor_of_a_result_is_changed(result: Callable[[Tensor, Tensor], Any]) -> None:
    given = result(torch.randn(2, 3), torch.randn(2, 2))
    changed = tensors_of(mapped(given, lambda one: one + 1))
    for one, other in zip(tensors_of(given), changed, strict=True):
        assert torch.equal(other, one + 1)
