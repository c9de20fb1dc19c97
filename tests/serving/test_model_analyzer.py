"""The sweep for Model Analyzer: what it varies, and that the program itself takes it."""

import csv
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.export.ship.repository import roll_back
from limpq_deploy.export.ship.triton.config import ServingOptions, make_config
from limpq_deploy.export.ship.triton.model_analyzer import make_sweep
from limpq_deploy.export.ship.triton.served_io import read_io
from limpq_deploy.serving.ship import ship

MakeBundle = Callable[..., Path]

yaml = pytest.importorskip("yaml", reason="needs the extra limpq-deploy[test]")


def sweep_of(bundle: Path, options: ServingOptions, name: str = "tiny") -> Any:
    """The parsed sweep of a model served with these options."""
    return yaml.safe_load(make_sweep(make_config(name, read_io(bundle / "model.onnx"), options, 1, {}, {})))


def test_a_sweep_varies_copies_and_leaves_batching_off(make_bundle: MakeBundle) -> None:
    sweep = sweep_of(make_bundle(), ServingOptions(backend="python", instances=3))
    assert sweep["run_config_search_disable"] is True
    assert set(sweep["triton_server_flags"].values()) == {"127.0.0.1"}
    model = sweep["profile_models"]["tiny"]
    assert model["parameters"] == {"batch_sizes": [1, 8], "concurrency": [1, 2, 4, 8]}
    assert model["model_config_parameters"] == {"instance_group": [{"kind": "KIND_CPU", "count": [1, 6]}]}


def test_a_sweep_for_throughput_varies_the_delay_too_and_a_gpu_is_a_gpu(make_bundle: MakeBundle) -> None:
    sweep = sweep_of(make_bundle(), ServingOptions(backend="tensorrt", queue_delay_us=200, max_batch=1))
    model = sweep["profile_models"]["tiny"]
    assert model["parameters"]["batch_sizes"] == [1]
    assert model["model_config_parameters"] == {
        "instance_group": [{"kind": "KIND_GPU", "count": [1, 2]}],
        "dynamic_batching": {"max_queue_delay_microseconds": [100, 200, 400]},
    }


@pytest.mark.parametrize("name", ["on", "1e5", "007", "null", "a-b.c_d"])
def test_a_models_name_stays_a_name_in_yaml(name: str, make_bundle: MakeBundle) -> None:
    assert list(sweep_of(make_bundle(), ServingOptions(backend="python"), name)["profile_models"]) == [name]


def test_a_rollback_brings_back_the_sweep_of_its_version(make_bundle: MakeBundle, tmp_path: Path) -> None:
    for instances in (1, 4):
        ship(make_bundle(f"b{instances}"), tmp_path / "models", ServingOptions(backend="python", instances=instances))
    file = tmp_path / "models/tiny/model_analyzer.yaml"
    assert "count: [1, 8]" in file.read_text()
    roll_back(tmp_path / "models/tiny", 1)
    assert "count: [2]" in file.read_text()


@pytest.mark.slow
def test_model_analyzer_runs_the_sweep_on_the_real_server(make_bundle: MakeBundle, tmp_path: Path) -> None:
    program = shutil.which("model-analyzer")
    if program is None or "LIMPQ_TRITON" not in os.environ:
        pytest.skip("needs LIMPQ_TRITON, and model-analyzer (pip install triton-model-analyzer) on the PATH")
    server = Path(os.environ["LIMPQ_TRITON"]).resolve()
    ship(make_bundle(), tmp_path / "models", ServingOptions(backend="python", max_batch=1))
    sweep = tmp_path / "models/tiny/model_analyzer.yaml"
    command = [program, "profile", "-f", sweep, "--model-repository", tmp_path / "models"]
    command += ["--triton-launch-mode", "local", "--triton-server-path", server / "tritonserver"]
    command += ["--perf-analyzer-path", server / "perf_analyzer", "--gpus", ""]
    command += ["--output-model-repository-path", tmp_path / "variants", "--export-path", tmp_path / "found"]
    command += ["--checkpoint-directory", tmp_path / "checkpoints"]
    (tmp_path / "found").mkdir()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    with (tmp_path / "found/results/metrics-model-inference.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["Concurrency"], row["Instance Group"]) for row in rows} >= {
        (str(clients), f"{copies}:CPU") for clients in (1, 2, 4, 8) for copies in (1, 2)
    }
    assert all(float(row["Throughput (infer/sec)"]) > 0 for row in rows)
