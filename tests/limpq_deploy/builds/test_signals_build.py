"""A build of a network of one axis, which reads the rows of an image as channels."""

import json
from pathlib import Path
from typing import Any

import pytest

NET = """
import torch
from torch import nn
from torch.nn import functional as F


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv1d(16, 24, 3, padding=1, bias=False), nn.BatchNorm1d(24)
        self.deep, self.pool = nn.Conv1d(24, 24, 3, padding="same", dilation=2), nn.MaxPool1d(2)
        self.last, self.head = nn.Conv1d(24, 32, 3, padding=1, padding_mode="reflect"), nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x.squeeze(1))))
        x = self.pool(x + F.relu(self.deep(x)))
        return self.head(F.relu(self.last(x)).mean(-1))


def factory():
    torch.manual_seed(0)
    return Rows()
"""


@pytest.mark.slow
def test_it_is_searched_calibrated_and_proved_in_integers(
    settings: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .conftest import QUICK, limpq_deploy

    monkeypatch.syspath_prepend(str(here))
    (here / "signal_nets.py").write_text(NET)
    options = (*QUICK, "--bits", "4,8", "--like", "w4a8")
    done = limpq_deploy(
        "build", "--config", settings, "--model", "signal_nets:factory", *options, "--out", "out", "--json"
    )
    assert done.exit_code in (0, 3), done.output

    def read(name: str) -> Any:
        return json.loads((here / "out" / name).read_text())

    placement, policy, parity = read("placement.json"), read("policy.json"), read("parity.json")
    assert placement["float_operators"] == []
    layers = {layer["name"]: (layer["kind"], layer["macs"], layer["num_weights"]) for layer in placement["layers"]}
    assert layers == {
        "first": ("conv", 16 * 24 * 16 * 3, 24 * 16 * 3),
        "deep": ("conv", 16 * 24 * 24 * 3, 24 * 24 * 3),
        "last": ("conv", 8 * 32 * 24 * 3, 32 * 24 * 3),
        "head": ("linear", 320, 320),
    }
    assert policy["bits"].keys() == {"deep", "last"}
    assert sum(tensor["mismatches"] for tensor in parity["tensors"]) == 0
    assert sum(tensor["elements"] for tensor in parity["tensors"]) > 1e5
    assert parity["logits_equal"]
