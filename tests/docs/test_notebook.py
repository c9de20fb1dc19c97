"""The notebook runs from its first cell to its last: on CIFAR-10 where the shared data are, on digits everywhere."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "docs/notebooks/own_model.ipynb"
MOST_S = 240
SHEET = (25, 40, 32)


def _cells(kind: str) -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def _run(folder: Path, **environment: str) -> str:
    """All code cells as one program, each followed by what a notebook shows of its last line."""
    pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")
    program = folder / "program.py"
    program.write_text("\n\n".join(_cells("code")), encoding="utf-8")
    known = {name: value for name, value in os.environ.items() if name != "CIFAR10"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, program], cwd=folder, env={**known, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert time.perf_counter() - started < 2 * MOST_S  # twice, for machines that do other work too
    return done.stdout


def test_outputs_are_cleared_and_text_stands_before_code() -> None:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in found["cells"])
    assert len(_cells("markdown")) >= 6


@pytest.mark.slow
def test_it_runs_on_digits(tmp_path: Path) -> None:
    said = _run(tmp_path)
    assert "quantized" in said.splitlines()[-1]
    assert (tmp_path / "trained" / "report.html").is_file()


@pytest.mark.slow
def test_it_runs_on_a_sample_of_cifar(tmp_path: Path, shared: Path) -> None:
    rows, columns, side = SHEET
    for split, count in {"train": 1000, "test": 500}.items():
        labels = (shared / "data/cifar10" / f"{split}-labels.txt").read_text().split("\n")[:count]
        pixels = np.asarray(Image.open(shared / "data/cifar10" / f"{split}-00.webp").convert("RGB"))
        tiles = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
        for number, label in enumerate(labels):
            place = tmp_path / "images" / split / f"class{label.split(' ', 1)[0]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tiles[number]).save(place / f"{number:05d}.png")
    assert "quantized" in _run(tmp_path, CIFAR10=str(tmp_path / "images")).splitlines()[-1]
