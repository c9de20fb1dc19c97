"""A tiny real model in a real bundle, key pairs, and the real server where LIMPQ_TRITON names one."""

import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("cryptography", reason="needs the extra limpq-deploy[serve]")
pytest.importorskip("tritonclient", reason="needs the extra limpq-deploy[serve]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.ship.bundle import write_bundle
from limpq_deploy.export.ship.signature import write_key_pair

IMAGES = np.random.default_rng(0).normal(size=(16, 3, 4, 4)).astype(np.float32)

ROOT = Path(__file__).resolve().parents[2]

MakeBundle = Callable[..., Path]


def tiny_model(seed: int) -> onnx.ModelProto:
    """Logits [batch, 5] of images [batch, 3, 4, 4]: products of small integers, exact in float32 in any order."""
    weight = np.random.default_rng(seed).integers(-8, 8, size=(48, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Round", ["images"], ["rounded"]),
            helper.make_node("Flatten", ["rounded"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_tiny_bundle(
    folder: Path, seed: int = 0, labels: str = "a\nb\nc\nd\ne\n", model_path: Path | None = None, **changes: Any
) -> Path:
    """A bundle whose answers ONNX Runtime really gave; ``changes`` of what `write_bundle` takes. ``model_path``:
    another model than the tiny one."""
    model = model_path or folder.with_name(f"{folder.name}.onnx")
    if model_path is None:
        onnx.save(tiny_model(seed), model)
    facts: dict[str, Any] = {
        "model": "tiny",
        "target": "onnxruntime",
        "model_file": "model.onnx",
        "canary_inputs_NCHW": IMAGES,
        "environment": read_environment(("numpy",)),
        "versions": {"limpq-deploy": "0"},
        "policy": {"bits": {}},
        "verdict": {"outcome": "passed", "checks": []},
    }
    if "canary_outputs" not in changes:
        facts["canary_outputs"] = runtime_named("onnxruntime").load(model, threads=1).run(IMAGES)
    write_bundle(folder, {"model.onnx": model, "labels.txt": labels.encode()}, **(facts | changes))
    return folder


@pytest.fixture(scope="session")
def write_tiny() -> MakeBundle:
    """The function `write_tiny_bundle`."""
    return write_tiny_bundle


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed bundles that were accepted are remembered in the cache."""
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a tiny bundle: (name, seed, ...) -> folder."""

    def make(name: str = "bundle", *arguments: Any, **changes: Any) -> Path:
        return write_tiny_bundle(tmp_path / name, *arguments, **changes)

    return make


@pytest.fixture(scope="session")
def triton_server() -> Any:
    """The class `TritonServer` for the set-up server: (repository, log) -> server, not yet started."""
    if "LIMPQ_TRITON" not in os.environ:
        pytest.skip("no tritonserver: run python benchmarks/tritonserver.py FOLDER and set LIMPQ_TRITON=FOLDER")
    spec = importlib.util.spec_from_file_location("tritonserver", ROOT / "benchmarks/tritonserver.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return functools.partial(module.TritonServer, Path(os.environ["LIMPQ_TRITON"]) / "tritonserver")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A new key pair: (private, public)."""
    pair = tmp_path / "release.key", tmp_path / "release.key.pub"
    write_key_pair(*pair)
    return pair
