"""Everything that stops a model is told at once."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.blockers import Blocked
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.one, self.two = nn.GroupNorm(2, 4), nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.a(x))
        x = self.two(self.b(x))
        x = F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)
        return self.linear(x.mean((2, 3)))


def test_every_kind_has_a_sentence_with_its_lines() -> None:
    line = Net.forward.__code__.co_firstlineno
    with pytest.raises(Blocked) as refused:
        trace(Net().eval(), (3, 6, 6))
    assert refused.value.reasons == (
        f"layer one (GroupNorm) has no integer form here (test_blockers.py:{line + 1}); so it is with 1 more "
        f"(test_blockers.py:{line + 2})",
        f"layer pixel_shuffle (pixel_shuffle) has no integer form here (test_blockers.py:{line + 3})",
        f"layer pixel_unshuffle (pixel_unshuffle) has no integer form here (test_blockers.py:{line + 3})",
    )
    assert str(refused.value).startswith("3 things stop this model: (1) layer one")
    assert str(refused.value).count("supported on the traced path") == 1


def test_what_a_target_cannot_do_is_told_at_once_too() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.a(x)[:, :2]).mean((2, 3))

    with pytest.raises(Blocked) as refused:
        place(trace(Ends().eval(), (3, 6, 6)), ONNXRUNTIME, model="ends")
    assert len(refused.value.reasons) == 2
