"""Means and gates by the arithmetic of the runtime that executes them on codes."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from limpq_deploy.export.reference.operators import mean_codes
from limpq_deploy.quant.runtime_arithmetic import GATES, TableGate, mean_by_reciprocal

U8 = np.dtype(np.uint8)


def summing_to(total: int, side: int) -> torch.Tensor:
    """Codes [1, 1, side, side] with this sum."""
    flat = torch.full((side * side,), total // (side * side))
    flat[: total % (side * side)] += 1
    return flat.view(1, 1, side, side).float()


@given(side=st.integers(1, 16), share=st.floats(0, 1), octaves=st.integers(-3, 3))
def test_a_mean_is_rounded_as_the_reference_rounds_it(side: int, share: float, octaves: int) -> None:
    image = summing_to(int(share * 255 * side * side), side)
    out_scale = 2.0**octaves
    expected = mean_codes(image.numpy().astype(np.uint8), np.float32(1), 0, np.float32(out_scale), 0, U8)
    for keepdim in (True, False):
        found = (mean_by_reciprocal(image, keepdim) / out_scale).round().clamp(0, 255)
        assert found.shape == ((1, 1, 1, 1) if keepdim else (1, 1))
        assert found.item() == expected.item()


def test_torchs_own_mean_rounds_a_tie_the_other_way() -> None:
    """363 / 121 = 3 is 1.5 steps of 2: 2 by division. float32(1 / 121) is a little less than 1 / 121: 1."""
    image = summing_to(363, 11)
    by_division = (image.mean((2, 3)) / 2).round().item()
    by_reciprocal = (mean_by_reciprocal(image, False) / 2).round().item()
    kernel = mean_codes(image.numpy().astype(np.uint8), np.float32(1), 0, np.float32(2), 0, U8).item()
    assert (by_division, by_reciprocal, kernel) == (2, 1, 1)


@pytest.mark.parametrize(("name", "function"), [("sigmoid", torch.sigmoid), ("hardsigmoid", F.hardsigmoid)])
def test_a_gate_takes_the_runtimes_value_of_each_code_and_torchs_own_in_training(name: str, function: object) -> None:
    levels = torch.arange(-128, 128) * 2.0**-4
    gate = TableGate(name, lambda: levels)
    x = levels[torch.randint(256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))]
    assert callable(function)
    assert torch.equal(gate.train()(x), function(x))
    found = gate.eval()(x)
    expected = torch.from_numpy(GATES[name][1](x.numpy()))
    assert torch.equal(found, expected)
    torch.testing.assert_close(found, function(x), rtol=0, atol=3e-7)  # a few units in the last place
    assert torch.equal(TableGate(name, lambda: None).eval()(x), function(x))


def test_a_gate_keeps_its_quantizer_when_the_model_is_copied() -> None:
    class Quantizer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def levels(self) -> torch.Tensor:
            return torch.arange(0, 4) * self.scale.detach()

    quantizer = Quantizer()
    copied = copy.deepcopy(nn.Sequential(quantizer, TableGate("sigmoid", quantizer.levels)))
    first, gate = copied
    assert isinstance(first, Quantizer)
    assert isinstance(gate, TableGate)
    with torch.no_grad():
        first.scale.fill_(0.25)
    levels = gate.levels()
    assert levels is not None
    assert levels.tolist() == [0.0, 0.25, 0.5, 0.75]
