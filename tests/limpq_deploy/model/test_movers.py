"""Moves of numbers: fewer kinds of calls, the same results."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.model.enlarging import enlarged
from limpq_deploy.model.layers import TracedModel, trace

Move = Callable[[Tensor], Tensor]


class Moved(nn.Module):
    def __init__(self, move: Move) -> None:
        super().__init__()
        self.conv, self.move = nn.Conv2d(3, 8, 3, padding=1), move
        self.linear = nn.Linear(move(torch.zeros(1, 8, 6, 6)).numel(), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.move(self.conv(x)).flatten(1))


def traced_with(move: Move) -> TracedModel:
    model = Moved(move).eval()
    traced = trace(model, (3, 6, 6))
    for count in (1, 5):
        images = torch.randn(count, 3, 6, 6)
        torch.testing.assert_close(traced.graph_module(images), model(images))
    return traced


def targets(traced: TracedModel) -> list[object]:
    return [node.target for node in traced.graph_module.graph.nodes if traced.kinds[node.name] == "through"]


def shuffled(x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    return x.view(images, 4, channels // 4, height, width).transpose(1, 2).reshape(images, channels, height, width)


MOVES: dict[str, Move] = {
    "chunk": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "chunk of pixels": lambda x: x.chunk(2, dim=-1)[1],
    "split": lambda x: torch.cat(x.split((1, 2, 5), 1)[:2], 1),
    "unbind": lambda x: x.unbind(2)[3],
    "stack": lambda x: torch.stack([x, x * 2], -1),
    "roll": lambda x: x.roll(2, -1).roll((-1, 1), (1, 2)),
    "expand as": lambda x: x[:, :1].expand_as(x),
    "shuffle": shuffled,
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=3.0),
    "nearest, to fewer pixels": lambda x: F.interpolate(x, (4, 9)),
    "nearest, one axis": lambda x: F.interpolate(x, (6, 9)),
    "nearest, by a factor": lambda x: F.interpolate(x, scale_factor=1.3),
    "nearest, by a factor to a multiple": lambda x: F.interpolate(x[..., :4, :4], scale_factor=3.1),
    "nearest, by two factors": nn.Upsample(scale_factor=(2.1, 0.7)),
    "nearest, by a factor made anew": nn.Upsample(scale_factor=1.3, recompute_scale_factor=True),
    "nearest-exact, by a factor": nn.Upsample(scale_factor=1.7, mode="nearest-exact"),
    "adaptive maxima": lambda x: F.adaptive_max_pool2d(x, (4, 9)),
    "adaptive maxima of one axis": nn.AdaptiveMaxPool2d((6, 5)),
    "adaptive maxima of signals": lambda x: F.adaptive_max_pool1d(x.flatten(2), 7),
    "nearest-exact": lambda x: F.interpolate(x, (4, 9), mode="nearest-exact"),
}


@pytest.mark.parametrize("name", MOVES)
def test_nothing_is_computed_in_float_and_results_stay(name: str) -> None:
    traced = traced_with(MOVES[name])
    assert "float" not in traced.kinds.values(), traced.reasons


def test_a_shuffle_of_channels_is_one_choice() -> None:
    for name in ("shuffle", "channel shuffle"):
        assert targets(traced_with(MOVES[name]))[:-1] == [torch.index_select]


def test_whole_factors_of_pixels_repeat_them() -> None:
    assert targets(traced_with(MOVES["nearest"]))[0] is enlarged


def test_parts_that_are_taken_as_a_whole_stay_together() -> None:
    traced = traced_with(lambda x: torch.cat(x.chunk(2, 1), 1) + x)
    assert traced.kinds["chunk"] == "float" if "chunk" in traced.kinds else True


def test_what_moves_images_is_no_split() -> None:
    traced = traced_with(lambda x: torch.cat([x.chunk(1, 0)[0], x], 1))
    assert any(kind == "float" for kind in traced.kinds.values())
