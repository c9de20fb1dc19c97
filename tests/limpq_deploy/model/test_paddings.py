"""Padding with zeros, with the image's own numbers, and with others."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import edges_by_source


def traced_with(body: Callable[[Tensor], Tensor]) -> TracedModel:
    torch.manual_seed(0)
    outputs = body(torch.zeros(2, 4, 6, 5)).shape[1]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Of(body), nn.Conv2d(outputs, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    traced = trace(model.append(nn.Linear(2, 2)).eval(), (3, 6, 5))
    for count in (1, 4):
        images = torch.randn(count, 3, 6, 5)
        # float32 sums in another order
        torch.testing.assert_close(traced.graph_module(images), model(images), rtol=1e-5, atol=1e-6)
    return traced


class Of(nn.Module):
    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize(
    "body",
    [
        nn.ReflectionPad2d((1, 2, 0, 3)),
        nn.ReplicationPad2d(2),
        nn.CircularPad2d((2, 1, 3, 0)),
        nn.ConstantPad2d((1, 0, 0, 1), 0.0),
        nn.Conv2d(4, 3, (3, 2), padding=(1, 2), padding_mode="reflect"),
        nn.Conv2d(4, 3, 4, padding="same", padding_mode="replicate"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=2, stride=2),
        lambda x: F.pad(x, [0, 1, 2, 0], "reflect"),
        lambda x: F.pad(input=x, pad=(1, 1, 1, 1), mode="replicate"),
    ],
)
def test_zeros_and_numbers_of_the_image_have_codes(body: Callable[[Tensor], Tensor]) -> None:
    assert "float" not in traced_with(body).kinds.values()


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: nn.ReflectionPad1d(2), lambda: nn.ReplicationPad1d((1, 0)), lambda: nn.CircularPad1d((3, 2))),
        lambda: nn.Conv1d(4, 4, 3, padding=2, padding_mode="reflect"),
        lambda: nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()),
    ],
)
def test_so_have_those_of_signals(make: Callable[[], nn.Module]) -> None:
    pad, conv = make(), nn.Conv1d(4, 4, 3)
    traced = traced_with(
        nn.Sequential(nn.Flatten(2), conv, pad, nn.AdaptiveAvgPool1d(1), nn.Unflatten(2, (1, 1)), Wide())
    )
    assert "float" not in traced.kinds.values()


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, -1, 3, 3)


def test_one_convolution_twice_is_padded_twice() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    traced = traced_with(nn.Sequential(conv, nn.ReLU(), conv))
    assert [layer.name for layer in traced.layers[1:3]] == ["1.body.0", "1.body.0_call2"]
    assert conv.padding_mode == "reflect"


def test_other_numbers_have_none() -> None:
    traced = traced_with(nn.ConstantPad2d(1, 0.5))
    [reason] = traced.reasons.values()
    assert "pads with the value 0.5; only zeros and numbers of its own are supported" in reason


def test_tensorrt_takes_zeros_into_the_convolution_and_nothing_else() -> None:
    for body, read in ((nn.ConstantPad2d(1, 0.0), "_0"), (nn.ReflectionPad2d(1), "_1_body")):
        traced = traced_with(body)
        for target, at in ((TENSORRT, read), (ONNXRUNTIME, "_1_body")):
            edges = [edge for edges in edges_by_source(traced, target).values() for edge in edges]
            assert [edge.reads for edge in edges if edge.layer == "2"] == [at]
