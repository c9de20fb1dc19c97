"""Everything that stops a model is told at once."""

import pytest
import torch
from torch import Tensor, nn

from limpq_deploy.model.blockers import Blocked
from limpq_deploy.model.layers import trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.cfloat)
        self.b = nn.Conv2d(4, 4, 3, padding=1, dtype=torch.cfloat)
        self.c = nn.Linear(6, 6, dtype=torch.cfloat)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.a(torch.fft.fft(x))
        x = self.b(x)
        return self.c(x)


class Masked(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return torch.relu(x * mask)


def test_every_kind_has_a_sentence_with_its_lines() -> None:
    line = Net.forward.__code__.co_firstlineno
    with pytest.raises(Blocked) as refused:
        trace(Net().eval(), (3, 6, 6))
    alone = "and no other layer can be quantized"
    assert refused.value.reasons == (
        f"a (Conv2d) (test_blockers.py:{line + 1}) gives no real numbers, which has no integer form here, {alone}; "
        f"so it is with 1 more (test_blockers.py:{line + 2})",
        f"c (Linear) (test_blockers.py:{line + 3}) gives no real numbers, which has no integer form here, {alone}",
    )
    assert str(refused.value).startswith("2 things stop this model: (1) a (Conv2d)")


def test_without_a_layer_there_is_nothing_to_quantize_and_a_second_input_is_told_beside_it() -> None:
    with pytest.raises(Blocked) as refused:
        trace(Masked().eval(), (3, 6, 6))
    assert [reason[:21] for reason in refused.value.reasons] == ["the model takes 2 ten", "the model has no Conv"]
