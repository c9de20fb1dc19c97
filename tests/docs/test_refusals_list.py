"""The lists of docs/models.md are what the code says and raises."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.layers import trace

RENEW = Path(__file__).parents[2] / "docs/renew_refusals.py"
PAGE = RENEW.with_name("models.md").read_text(encoding="utf-8")


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu() if x.sum() > 0 else self.conv(x)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) * torch.ones(4, 1, 1)


def test_the_lists_are_current() -> None:
    assert runpy.run_path(str(RENEW))["renewed"](PAGE) == PAGE, "run: python docs/renew_refusals.py"


def test_a_refusal_that_is_raised_stands_in_the_list_of_refusals() -> None:
    with pytest.raises(ModelError) as refused:
        trace(Branching().eval(), (3, 4, 4))
    assert _is_told(str(refused.value), _list("refusals"))
    assert not _is_told("the model is too large", _list("refusals"))


def test_a_reason_for_float_stands_in_the_list_of_reasons() -> None:
    reasons = trace(Normed().eval(), (3, 4, 4)).reasons
    assert reasons
    assert all(_is_told(reason, _list("floats")) for reason in reasons.values())
    assert not _is_told("the model is too large", _list("floats"))


def _list(name: str) -> list[str]:
    between = PAGE.partition(f"<!-- {name}:")[2].partition(f"<!-- end of {name} -->")[0]
    return [line.removeprefix("- ") for line in between.splitlines() if line.startswith("- ")]


def _is_told(sentence: str, listed: list[str]) -> bool:
    """Whether one of the list has all its words in order, but for names and lines."""
    return any(_in_order([part for part in one.split("…") if part], sentence) for one in _without_lines(listed))


def _without_lines(listed: list[str]) -> list[str]:
    return [one.replace(" (file.py:12)", "…") for one in listed]


def _in_order(parts: list[str], sentence: str) -> bool:
    for part in parts:
        found = sentence.find(part)
        if found < 0:
            return False
        sentence = sentence[found + len(part) :]
    return True
