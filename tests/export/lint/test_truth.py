"""The lint against measured truth: 141 files of several tools, what NVIDIA's builder and ONNX Runtime made of them."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks/lint_truth.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lint_truth", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lint_truth"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases(shared: Path) -> Path:
    folder = shared / "cases/lint"
    if not folder.is_dir():
        pytest.skip(f"no cases of the lint in {folder}: the shared folder is an older one")
    return folder


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_no_file_is_misjudged(script: ModuleType, cases: Path, target: str) -> None:
    if target == "onnxruntime" and not ort.__version__.startswith("1.32."):
        pytest.skip(f"the truth is of ONNX Runtime 1.32, and {ort.__version__} is installed")
    result = script.compared(cases, target)
    assert result["wrong"] == []
    files = sum(count for row in result["matrix"].values() for count in row.values())
    assert files == len(json.loads((cases / "truth.json").read_text())) >= 141


def test_rules_alone_misjudge_two_files_of_onnxruntime(script: ModuleType, cases: Path) -> None:
    """One is refused for a rounding operator that ONNX Runtime itself adds at opset 10; in the other its heuristics
    leave layers of int8 codes in float."""
    wrong = {name: said for name, said, _ in script.compared(cases, "onnxruntime_rules")["wrong"]}
    assert wrong == {"h_good_10": "float", "ort_s8s8_asym_17": "ok"}
