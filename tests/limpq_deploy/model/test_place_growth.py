"""Tracing and placing of large networks: linear in the blocks, no recursion."""

import sys
from types import FrameType

import pytest
import torch
from torch import nn

from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place, with_quantizers


class Blocks(nn.Module):
    """``x + bn(conv(x))``, again and again: every tensor is reached on 2 to the n paths."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(count))
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(count))
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = x + norm(convolution(x))
        return self.linear(x.mean((2, 3)))


def calls(count: int, target: TargetSpec) -> int:
    """Python calls, of whatever, while a network of so many blocks is traced and placed."""
    model, found = Blocks(count).eval(), [0]

    def count_call(frame: FrameType, event: str, _: object) -> None:
        found[0] += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        traced = trace(model, (2, 2, 2))
        with_quantizers(traced, place(traced, target, model="blocks"), lambda _: nn.Identity())
    finally:
        sys.setprofile(None)
    return found[0]


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT], ids=lambda target: target.name)
def test_tracing_and_placing_are_linear_in_the_blocks(target: TargetSpec) -> None:
    calls(2, target)  # what is imported or cached once
    few, more, most = (calls(count, target) for count in (10, 20, 40))
    # calls of n blocks are a + b * n; square growth would give a second difference of half the first one
    assert most - more < 2.2 * (more - few)


def test_a_thousand_layers_deep_is_no_recursion() -> None:
    traced = trace(Blocks(350).eval(), (2, 2, 2))
    assert traced.lowest(traced.node("linear").all_input_nodes[0]) == "free"
