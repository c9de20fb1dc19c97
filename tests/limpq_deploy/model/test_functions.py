"""Functions of single values: which calls are, and where they stay in float."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT
from limpq_deploy.model.islands import for_target
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.function(self.a(x))).mean((2, 3)))


def traced_with(function: Callable[[Tensor], Tensor]) -> TracedModel:
    return trace(Between(function).eval(), (1, 4, 4))


def grid_behind(function: Callable[[Tensor], Tensor]) -> tuple[bool, bool]:
    """Whether what ``b`` reads is signed, and whether it has an offset."""
    placement = place(traced_with(function), ONNXRUNTIME, model="between")
    read = placement.quantizer(placement.layer("b").input)
    return read.signed, read.offset


@pytest.mark.parametrize(
    ("function", "signed", "offset"),
    [
        (nn.LeakyReLU(0.2), True, False),
        (nn.LeakyReLU(0.01), True, True),
        (lambda x: F.leaky_relu(x), True, True),
        (nn.GELU(), True, True),
        (nn.Tanh(), True, False),
        (nn.Softplus(), False, False),
        (lambda x: x.clamp(0, 1), False, False),
        (lambda x: x.clamp(max=1), True, False),
        (nn.Hardtanh(0.1, 2.0), False, False),
        (torch.abs, False, False),
        (lambda x: 2 - x, True, False),
    ],
)
def test_the_grid_behind_a_function_is_that_of_its_negative_values(
    function: Callable[[Tensor], Tensor], signed: bool, offset: bool
) -> None:
    assert grid_behind(function) == (signed, offset)


def test_functions_one_behind_the_other_are_one_and_nothing_is_rounded_between_them() -> None:
    placement = place(traced_with(lambda x: torch.tanh(x * 2) ** 2), ONNXRUNTIME, model="between")
    assert [quantizer.tensor for quantizer in placement.quantizers] == ["x", "a", "pow_1", "b", "mean"]


def test_a_slope_for_each_channel_is_no_table() -> None:
    traced = traced_with(nn.PReLU(2))
    assert [name for name, kind in traced.kinds.items() if kind == "float"] == ["function"]
    assert traced_with(nn.PReLU()).kinds["function"] == "function"


def test_a_function_between_floats_stays_in_float() -> None:
    """The scale of attention, say: neither what it reads nor what reads it is rounded for its sake."""
    traced = traced_with(lambda x: torch.softmax(x * 3, 1) * 2)
    kinds = for_target(traced, ONNXRUNTIME).kinds
    assert [kinds[name] for name in ("mul", "softmax", "mul_1")] == ["float"] * 3


def test_tensorrt_puts_no_quantizer_before_a_function() -> None:
    placement = place(traced_with(nn.GELU()), TENSORRT, model="between")
    assert "a" not in [quantizer.tensor for quantizer in placement.quantizers]
