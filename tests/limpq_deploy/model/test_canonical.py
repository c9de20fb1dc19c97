"""Traced graphs with fewer operations and the same results."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.model.canonical import canonicalise
from limpq_deploy.model.layers import trace
from limpq_deploy.model.tracing import symbolic_trace


class Net(nn.Module):
    """A convolution, one activation, a pool and a linear layer."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.activation = activation
        self.linear = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.activation(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("activation", "gate"),
    [
        (nn.SiLU(), "sigmoid"),
        (F.silu, "sigmoid"),
        (nn.Hardswish(inplace=True), "hardsigmoid"),
        (F.hardswish, "hardsigmoid"),
    ],
    ids=["SiLU", "silu", "Hardswish", "hardswish"],
)
def test_a_self_gated_activation_becomes_a_product_with_its_gate(
    activation: Callable[[torch.Tensor], torch.Tensor], gate: str
) -> None:
    model = Net(activation).eval()
    traced = trace(model, (3, 8, 8))
    assert [node.name for node in traced.graph_module.graph.nodes if traced.kinds[node.name] in ("gate", "mul")] == [
        node.name for node in traced.graph_module.graph.nodes if node.name.endswith(("_gate", "_product"))
    ]
    (gated,) = (node for node in traced.graph_module.graph.nodes if traced.kinds[node.name] == "gate")
    assert getattr(gated.target, "__name__", "") == gate
    images = 10 * torch.randn(2, 3, 8, 8)
    # hardswish in one go and in two differ by the rounding of a division by 6
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pools", [1, 2])
@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU6(), F.relu], ids=["ReLU", "ReLU6", "relu"])
def test_a_relu_behind_max_pools_moves_before_them(relu: Callable[[torch.Tensor], torch.Tensor], pools: int) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2)
            self.relu = relu

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(pools):
                x = self.pool(x)
            return self.relu(x)

    model = Net(Pooled()).eval()
    traced = trace(model, (3, 8, 8))
    kinds = [traced.kinds[node.name] for node in traced.graph_module.graph.nodes]
    assert kinds == ["input", "layer", "relu", *["through"] * pools, "pool", "layer", "output"]
    images = 10 * torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


def test_a_relu_stays_behind_a_pool_that_something_else_reads() -> None:
    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = F.max_pool2d(x, 2)
            return torch.relu(pooled) + pooled

    graph_module = symbolic_trace(Both(), (3, 8, 8))
    canonicalise(graph_module)
    assert [node.name for node in graph_module.graph.nodes] == ["x", "max_pool2d", "relu", "add", "output"]


def test_what_changes_nothing_is_left_out() -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 * sum([x, torch.relu(x)]) + 0  # type: ignore[return-value]

    graph_module = symbolic_trace(Sum(), (3, 8, 8))
    canonicalise(graph_module)
    assert [node.name for node in graph_module.graph.nodes] == ["x", "relu", "add_1", "output"]


def test_largest_values_without_their_places_are_one_tensor() -> None:
    class Largest(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows, places = x.max(3)
            return x.max(dim=2, keepdim=True).values + torch.max(x, 1)[0][:, None] + (rows + places)[..., None]

    graph_module = symbolic_trace(Largest(), (3, 8, 8))
    canonicalise(graph_module)
    called = [getattr(node.target, "__name__", node.target) for node in graph_module.graph.nodes]
    assert (called.count("amax"), called.count("max")) == (2, 1)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(graph_module(images), Largest()(images), rtol=0, atol=0)


def test_bounds_of_a_clamp_are_of_one_type() -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.clip(self.conv(x).clamp(0, 0.5), min=-1, max=0.25)

    model, images = Clamped(), torch.randn(2, 3, 4, 4)
    traced = trace(model, (3, 4, 4))
    torch.testing.assert_close(traced.graph_module(images), model(images))
    cut = [node for node in traced.nodes.values() if node.target in ("clamp", torch.clip)]
    assert [[*node.args[1:], *node.kwargs.values()] for node in cut] == [[0.0, 0.5], [-1.0, 0.25]]
    assert all(type(bound) is float for node in cut for bound in (*node.args[1:], *node.kwargs.values()))
