"""Which layer hands its tensor to which, on nets small enough to draw."""

import torch
from torch import nn

from limpq_deploy.export.records.placement import Placement
from limpq_deploy.model.edges import layer_edges, with_edges
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.policy.indicators import Indicators, LayerEdge, LayerIndicators

X, Y, OUT = 6 * 8 * 8, 8 * 4 * 4, 8
"""Elements in the tiny net: stem's result, a block's tensor, pooled result."""


def edges(traced: TracedModel) -> dict[tuple[str, str], int]:
    return {(edge.producer, edge.consumer): edge.elements for edge in layer_edges(traced)}


def test_a_sum_is_made_by_its_last_layer_which_takes_the_other_tensor(tiny: tuple[TracedModel, Placement]) -> None:
    assert edges(tiny[0]) == {
        ("conv1", "conv2"): X,
        ("conv2", "conv3"): Y,
        ("conv1", "shortcut"): X,
        ("conv3", "shortcut"): Y,
        ("shortcut", "linear"): OUT,
    }


class Residual(nn.Module):
    """An identity shortcut past two layers, a pool, and a tensor that one layer reads on two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.third = nn.Conv2d(2, 2, 3, padding=1)
        self.pool, self.last = nn.MaxPool2d(2), nn.Linear(2 * 4 * 4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        y = torch.relu(x + self.third(torch.relu(self.second(torch.relu(x)))))
        return self.last(torch.flatten(self.pool(y + torch.relu(y)), 1))


def test_an_identity_shortcut_leads_to_the_layer_that_adds_it() -> None:
    assert edges(trace(Residual(), (1, 8, 8))) == {
        ("first", "second"): 128,
        ("first", "third"): 128,
        ("second", "third"): 128,
        ("third", "last"): 32,
    }


def test_indicators_keep_the_edges(tiny: tuple[TracedModel, Placement]) -> None:
    names = [layer.name for layer in tiny[0].layers]
    layers = tuple(LayerIndicators(name=name, macs=1, num_weights=1, weight=(1.0,), act=(1.0,)) for name in names)
    found = with_edges(Indicators(model="tiny", bits=(4,), layers=layers), tiny[0])
    assert found.edges is not None
    assert found.edges[0] == LayerEdge(producer="conv1", consumer="conv2", elements=X)
