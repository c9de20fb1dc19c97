"""A build for TensorRT from the images to the verdict. There is no GPU where these tests run: ONNX Runtime executes
TensorRT's own file and plays the engine, so that every stage round it is the real one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from limpq_deploy import subject
from limpq_deploy.export.runtimes.base import Engine, NoGraph
from limpq_deploy.export.runtimes.ort import OnnxRuntime

from ...played_engine import played_engine

Command = Callable[..., Any]

ENGINE_STAGES = ["engine", "parity", "accuracy", "latency", "audit", "verdict", "report", "bundle"]


class PlaysTensorRt(OnnxRuntime):
    """Runs TensorRT's files, hides its graph, and describes a plan, as the runtime of a GPU does."""

    name = "tensorrt"
    half: tuple[str, ...] = ()
    """Layers that the engine is to say it runs in float16."""

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        return played_engine(path, lambda layer: "float16" if layer in self.half else "int8")

    def optimized_graph(self, path: Path) -> onnx.ModelProto:
        raise NoGraph("hidden")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[PlaysTensorRt]:
    monkeypatch.setattr(subject, "runtime_named", lambda name, options: PlaysTensorRt())
    monkeypatch.setattr(PlaysTensorRt, "half", ())
    return PlaysTensorRt


def test_a_build_for_tensorrt_goes_through_engine_parity_accuracy_latency_and_verdict(
    run: Command, settings: Path, here: Path, engine: type[PlaysTensorRt]
) -> None:
    quick = ("--ptq", "--calibration-images", "64", "--bits", "4,5", "--importance", "scale")
    arguments = ("build", "--config", settings, "--out", "out", "--target", "tensorrt", *quick, "--json")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [stage["name"] for stage in found["stages"]][-8:] == ENGINE_STAGES
    checks = {check["name"]: check for check in found["verdict"]["checks"]}
    assert {"parity_engine", "parity_layer_by_layer", "integers_everywhere", "accuracy_against_float"} <= set(checks)
    assert all(check["passed"] for check in checks.values()), checks

    parity = json.loads((here / "out/parity.json").read_text())
    assert parity["mode"] == "layer by layer"
    assert parity["clips"]["lost"] == []
    assert parity["images"] == 256
    assert max(part["max_lsb"] for part in parity["tensors"]) <= 1
    record = json.loads((here / "out/engine.json").read_text())
    assert set(record["layer_precision"].values()) == {"s8s8"}
    latency = json.loads((here / "out/latency.json").read_text())
    assert {series["threads"] for series in latency["series"]} == {"default"}

    again = json.loads(run(*arguments).stdout)
    assert not any(stage["ran"] for stage in again["stages"])

    audit = json.loads((here / "out/audit.json").read_text())
    assert len(audit["lines"]) == len(record["layer_precision"])
    assert (audit["absent"], audit["reformats"], audit["notes"]) == ([], 0, [])
    layer = sorted(record["layer_precision"])[0]
    engine.half = (layer,)
    (here / "out/engine.json").unlink()
    result = run(*arguments)
    assert result.exit_code == 3
    checks = {check["name"]: check for check in json.loads(result.stdout)["verdict"]["checks"]}
    assert not checks["integers_everywhere"]["passed"]
    assert layer in checks["integers_everywhere"]["detail"]
    notes = json.loads(result.stdout)["verdict"]["notes"]
    assert f"1 layers run in another precision than planned: {layer} (s8s8 planned, float16)." in notes


def test_without_a_gpu_the_build_stops_before_any_work_with_what_is_missing(refused: Any, here: Path) -> None:
    sentence = refused("build", "--target", "tensorrt", words=("TensorRT is not available here", "--no-engine"))
    assert "the package tensorrt is not installed" in sentence or "no NVIDIA driver" in sentence
    assert not (here / "limpq-build").exists()
