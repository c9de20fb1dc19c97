"""Every benchmark starts, and runs to its end on something small: what it prints is one JSON object with its keys."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
BENCHMARKS = sorted(path for path in FOLDER.glob("*.py") if "argparse" in path.read_text(encoding="utf-8"))

KEYS = {
    "joint_step": {"ratio_to_floor", "ratio_to_fp32", "peak_memory_ratio"},
    "search": {
        *("resnet50_seconds", "resnet18_seconds", "front50_seconds", "front50_worst_gap"),
        *("layers10000_seconds", "layers10000_gap"),
    },
    "search_random": {"instances", "crashes", "unproved", "wrong", "seeds"},
    "cifar10": {"policies", "float_top1"},
    "cpu_latency": {
        *("resnet18_speedup_b1", "mobilenet_v2_speedup_b1", "ort_static_resnet18_speedup_b1", "float_nodes"),
    },
    "exactness": {"models"},
    "latency_loop": {"prediction_error", "rounds", "bitops_rank_correlation"},
    "tasks": {"none", "segmentation", "detection"},
    "zoo": {"torchvision", "timm", "others"},
    "memory": {"float_mib", "build_mib", "ratio"},
    "serving": {"requests", "failed", "p50_overhead_ms", "swaps", "swap_failed"},
}
"""What checks from outside read."""

ELSEWHERE = {
    "serving": "no Triton server: set LIMPQ_TRITON to the folder",
    **dict.fromkeys(("rtx", "compiler_forms", "int4_blocks"), "NVIDIA's compiler TensorRT-RTX is not here"),
    "gpu": "the benchmark runs on a machine with an NVIDIA GPU and TensorRT",
}
"""What benchmarks that need another program say where it is not."""


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.name)
def test_a_benchmark_starts_and_explains_itself(script: Path) -> None:
    found = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for option in ("--quick", "--smoke", "--json"):
        assert option in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.name)
def test_a_benchmark_runs_to_its_end_and_prints_one_json_object(script: Path, shared: Path, tmp_path: Path) -> None:
    """In a folder of its own, where it may leave what it keeps."""
    environment = {**os.environ, "LIMPQ_SHARED": str(shared.resolve())}
    found = subprocess.run(
        [sys.executable, script, "--smoke", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    if found.returncode == 1 and ELSEWHERE.get(script.stem, "\0") in found.stderr:
        assert found.stdout == ""
        assert len(found.stderr.splitlines()) == 1
        pytest.skip(found.stderr.strip())
    assert found.returncode == 0, found.stderr[-2000:]
    assert len(found.stdout.splitlines()) == 1
    printed = json.loads(found.stdout)
    assert printed.keys() >= KEYS.get(script.stem, set())


@pytest.mark.slow
def test_a_ptq_build_takes_at_most_three_times_the_memory_of_the_float_model() -> None:
    command = [sys.executable, str(FOLDER / "memory.py"), "--quick", "--stages", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = json.loads(found.stdout)
    assert printed["ratio"] <= 3, printed


@pytest.mark.parametrize("name", ["ptq.py", "mobilenet_v2.py"])
def test_a_benchmark_says_in_a_sentence_that_the_shared_data_are_missing(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "LIMPQ_SHARED": str(tmp_path)}
    command = [sys.executable, str(FOLDER / name), "--smoke", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("no shared data: set LIMPQ_SHARED to its folder")
    assert len(found.stderr.splitlines()) == 1


def test_the_serving_benchmark_says_in_a_sentence_that_it_needs_a_server(tmp_path: Path) -> None:
    environment = {**os.environ, "LIMPQ_TRITON": str(tmp_path)}
    command = [sys.executable, str(FOLDER / "serving.py"), "--smoke", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(ELSEWHERE["serving"])
    assert len(found.stderr.splitlines()) == 1
