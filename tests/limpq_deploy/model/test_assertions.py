"""What a forward asserts of values holds wherever it has a result."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.tracing import symbolic_trace

from .assertion_cases import asserted, caught, raised, scaled, suppressed, warned


class Asserting(nn.Module):
    def __init__(self, first: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        return self.conv(x)


@pytest.mark.parametrize("first", [asserted, raised])
def test_assertions_on_values_are_taken_to_hold(first: Callable[[Tensor], None]) -> None:
    model, images = Asserting(first), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(symbolic_trace(model, (3, 4, 4))(images), model(images))


@pytest.mark.parametrize("first", [scaled, warned])
def test_other_branches_on_values_are_refused_with_their_line(first: Callable[[Tensor], None]) -> None:
    line = first.__code__.co_firstlineno + 1
    with pytest.raises(ModelError, match=rf"branches on the values of a tensor \(assertion_cases.py:{line}\)"):
        symbolic_trace(Asserting(first), (3, 4, 4))


@pytest.mark.parametrize("first", [caught, suppressed])
def test_a_caught_assertion_is_a_branch(first: Callable[[Tensor], None]) -> None:
    line = first.__code__.co_firstlineno + 2
    with pytest.raises(ModelError, match=rf"branches on the values of a tensor \(assertion_cases.py:{line}\)"):
        symbolic_trace(Asserting(first), (3, 4, 4))
