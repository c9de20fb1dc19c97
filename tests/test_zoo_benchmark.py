"""benchmarks/zoo.py goes on where it was interrupted, and tells an export from an inspection."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/zoo.py"
NAME = "small_net:make"
SMALL_NET = """
from torch import nn
from limpq_deploy.calibration.datasets import Preprocess

def make():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )
    net.preprocess = Preprocess(height=16, width=16, resize=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    return net
"""


def run(tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
    (tmp_path / "small_net.py").write_text(SMALL_NET)
    (tmp_path / "list.txt").write_text(f"# one network\n{NAME}\n")
    command = [sys.executable, str(SCRIPT), "--list", "list.txt", "--resume", "zoo.jsonl", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    return json.loads(done.stdout)["others"], done.stderr


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_an_inspection_is_no_export(tmp_path: Path) -> None:
    found, told = run(tmp_path, "--no-export")
    assert (found["models"], found["accepted"], found["tried"], found["exported"]) == (1, 1, 0, None)
    assert NAME in told

    again, told = run(tmp_path, "--no-export")
    assert again == found
    assert told == ""

    found, told = run(tmp_path)
    assert (found["tried"], found["exported"], found["not_exported"]) == (1, 1, {})
    files = found["files"][NAME]
    assert files["onnxruntime"]["codes"] > 0
    assert files["onnxruntime"]["mismatches"] == 0
    assert all(one["layer_codes"] > 0 and one["correlation"] > 0.9 for one in files.values())
    assert len((tmp_path / "zoo.jsonl").read_text().splitlines()) == 2


def test_rows_of_a_later_run_stand_in_place_of_the_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    page = import_module("zoo_page")
    figures = json.loads((SCRIPT.parent / "zoo.json").read_text(encoding="utf-8"))
    known = figures["torchvision"]
    name, files = next(iter(known["files"].items()))
    worse = {target: {**one, "correlation": 0.5, "min_max": 0.75} for target, one in files.items()}
    rows = [
        {"name": name, "files": worse, "exported": True, "export_error": ""},
        {"name": "timm/none_such", "files": {}, "exported": False, "export_error": "it does not end"},
    ]
    found = page.with_rows(figures, rows)
    assert found["torchvision"]["files"][name] == worse
    assert (found["torchvision"]["tried"], found["torchvision"]["exported"]) == (known["tried"], known["exported"])
    assert found["timm"]["tried"] == figures["timm"]["tried"] + 1
    assert found["timm"]["exported"] == (figures["timm"]["exported"] or 0)
    told = page.page(found)
    assert f"{name} for tensorrt (0.5 beside 0.75)" in told
    assert "- timm/none_such: it does not end" in told
    assert page.page(page.with_rows(figures, [])) == page.page(figures)
