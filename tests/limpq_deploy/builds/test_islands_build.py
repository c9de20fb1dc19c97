"""A build of a network with attention and norms: its Linears are searched, trained and proved, the rest is float."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NET = """
import torch
from torch import nn
from torch.nn import functional as F


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.place = nn.Conv2d(1, 8, 4, 4), nn.Parameter(torch.randn(1, 16, 8) / 10)
        self.one, self.two = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.back, self.wide, self.narrow = (nn.Linear(*s) for s in ((8, 24), (8, 8), (8, 16), (16, 8)))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        q, k, v = self.qkv(self.one(x)).chunk(3, 2)
        x = x + self.back(F.scaled_dot_product_attention(q, k, v))
        x = x + self.narrow(F.gelu(self.wide(self.two(x))))
        return self.head(x.mean(1))


def factory():
    return Tokens()
"""

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def built(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from .conftest import limpq_deploy

    folder = tmp_path_factory.mktemp("tokens")
    (folder / "token_nets.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.chdir(folder)
        done = limpq_deploy(
            *("build", "--config", settings, "--model", "token_nets:factory", "--bits", "4,6"),
            *("--max-accuracy-drop", "90", "--importance", "scale", "--out", "out"),
        )
    assert done.exit_code == 0, done.output
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "out" / name).read_text())


def test_what_is_trained_is_what_runs_on_both_sides_of_islands(built: Path) -> None:
    parity, verdict = read(built, "parity.json"), read(built, "verdict.json")
    assert sum(tensor["mismatches"] for tensor in parity["tensors"]) == 0
    assert parity["integer_logits_equal"]
    assert parity["islands"]
    assert max(tensor["max_lsb"] for tensor in parity["faithful"]) <= 1
    checks = {check["name"]: check["passed"] for check in verdict["checks"]}
    assert checks["parity_end_to_end"]
    assert checks["parity_layer_by_layer"]


def test_plan_and_verdict_name_what_runs_in_float(built: Path) -> None:
    placement, verdict = read(built, "placement.json"), read(built, "verdict.json")
    assert {one["operator"] for one in placement["float_operators"]} >= {"scaled_dot_product_attention", "LayerNorm"}
    assert all(one["why"] for one in placement["float_operators"])
    [note] = [note for note in verdict["notes"] if "without an integer form run in float" in note]
    assert "scaled_dot_product_attention" in note
    assert "without an integer form" in (built / "out" / "report.html").read_text()


def test_too_much_float_is_refused(built: Path, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from .conftest import limpq_deploy

    monkeypatch.syspath_prepend(str(built))
    monkeypatch.chdir(built)
    shutil.rmtree("other", ignore_errors=True)
    done = limpq_deploy(
        *("build", "--config", settings, "--model", "token_nets:factory", "--max-float-share", "0.05", "--out", "other")
    )
    assert done.exit_code == 1
    assert "scaled_dot_product_attention" in done.stderr
    assert "max_float_share allows 5 %" in done.stderr
