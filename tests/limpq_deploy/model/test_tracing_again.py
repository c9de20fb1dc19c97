"""What a forward keeps from one call to the next, while it is traced."""

import pytest
import torch
from torch import Tensor, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.layers import trace
from limpq_deploy.model.tracing import symbolic_trace


class Table(nn.Module):
    """Adds a table for the size of its maps, which it keeps in a buffer; ``counting``: another one each time."""

    def __init__(self, *, counting: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.counting = counting
        self.table: Tensor
        self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.counting or self.table.shape[-1] != x.shape[-1]:
            self.table = self.table[0] + torch.arange(x.shape[-1]) + 1.0
        return x * self.table


def test_a_table_that_the_first_call_makes_is_a_constant() -> None:
    model = Table(counting=False).eval()
    traced = trace(model, (3, 4, 4))
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


def test_a_buffer_that_every_call_replaces_is_refused() -> None:
    with pytest.raises(ModelError, match="writes into its own parameters or buffers in evaluation mode, too"):
        trace(Table(counting=True).eval(), (3, 4, 4))


class Counting(nn.Module):
    """``last``: the number of the call from which on it does the same; 0: never."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.calls, self.last, self.side = 0, last, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.side = self.calls + 1, x.shape[-1]
        x = self.conv(x)
        return self.other(x) if self.calls % 2 == 0 and (self.last == 0 or self.calls < self.last) else x


def test_a_forward_that_goes_by_the_number_of_its_calls_is_refused() -> None:
    with pytest.raises(ModelError, match=r"at one call than at the next, and counts them in 'calls'; expected"):
        symbolic_trace(Counting(last=0), (3, 4, 4))
    model = Counting(last=1)
    assert len(list(symbolic_trace(model, (3, 4, 4)).graph.nodes)) == 3
    assert (model.calls, model.side) == (0, 0)


class Warming(Counting):
    """Other calls at first, ``last`` of them, and a number that is one no more."""

    def forward(self, x: Tensor) -> Tensor:
        self.side, x = tuple(x.shape[2:]), self.conv(x)  # type: ignore[assignment]
        if self.calls < self.last:
            self.calls += 1
            x = self.other(x)
        return x


@pytest.mark.parametrize("last", [1, 2])
def test_a_forward_that_does_something_else_at_first_is_refused(last: int) -> None:
    with pytest.raises(ModelError, match=r"at one call than at the next, and counts them in 'calls'; expected"):
        symbolic_trace(Warming(last), (3, 4, 4))
    assert len(list(symbolic_trace(Warming(0), (3, 4, 4)).graph.nodes)) == 3


def test_a_table_may_be_made_at_the_first_call() -> None:
    class Tabled(Counting):
        def forward(self, x: Tensor) -> Tensor:
            if self.side != x.shape[3]:
                self.side = x.shape[3]
                self.table = torch.arange(float(self.side))
            return self.other(self.conv(x) + self.table)

    model, images = Tabled(0), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(symbolic_trace(model, (3, 4, 4))(images), model(images))
