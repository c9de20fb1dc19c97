"""A machine that only deploys has no torch: what has to work there does."""

import os
import subprocess
import sys
from pathlib import Path

WITHOUT_TORCH = """
import importlib.abc, sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "safetensors", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
from limpq_deploy.cli.main import main
main()
"""


def without_torch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_evaluate_needs_no_torch(finished: Path) -> None:
    done = without_torch("evaluate", finished / "model.qdq.onnx", "--data", "digits")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("top-1 ")
    assert done.stderr.splitlines() == ["> evaluating on test"]


def test_verify_lint_and_bench_need_no_torch(finished: Path) -> None:
    model = finished / "model.qdq.onnx"
    commands: tuple[tuple[tuple[str | Path, ...], list[str]], ...] = (
        (("verify", finished / "bundle"), []),
        (("lint", model, "--target", "onnxruntime"), []),
        (("bench", model, "--seconds", "0.1", "--threads", "1"), ["> timing"]),
    )
    for command, said in commands:
        done = without_torch(*command)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines() == said
