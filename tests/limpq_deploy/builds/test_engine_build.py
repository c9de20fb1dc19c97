"""A build for TensorRT from the images to the verdict. There is no GPU where these tests run: ONNX Runtime executes
TensorRT's own file and plays the engine, so that every stage round it is the real one."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.runtimes.base import Engine, NoGraph
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime
from limpq_deploy.export.runtimes.tensorrt.inspect import planned_precision
from limpq_deploy.latency.study import LatencyStudy
from limpq_deploy.pipeline import context as subject
from limpq_deploy.workspace.file_names import FLOAT_MODEL

from ...played_engine import played_engine

Command = Callable[..., Any]

ENGINE_STAGES = ["engine", "parity", "accuracy", "latency"]
ENGINE_STAGES += ["candidates", "audit", "study", "verdict", "what-if", "report", "bundle"]

WORDS = {"s8s8": "int8", "float16": "float16", "float32": "float16"}
"""The inspector's word for a layer by what the file asks for, with the flag FP16."""


class PlaysTensorRt(OnnxRuntime):
    """Runs TensorRT's files, hides its graph, describes a plan and takes settings, as the runtime of a GPU does. Its
    floats are slow, those of FP32 most: what a verdict expects of a GPU."""

    name = "tensorrt"
    half: tuple[str, ...] = ()
    """Layers that the engine is to say it runs in float16."""
    unknown: tuple[str, ...] = ()
    """Layers of which it is to say nothing."""
    full: tuple[str, ...] = ()
    """Layers that the float model's engine is to say it runs in float32."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        super().__init__()
        self.options = options or EngineOptions()

    def with_options(self, options: EngineOptions) -> "PlaysTensorRt":
        return type(self)(options)

    def load(self, path: Path, *, threads: int | None = None) -> Any:
        session = super().load(path, threads=threads)
        if path.name != Path(FLOAT_MODEL).name:
            return session
        return Slow(session, 0.005 if self.options.float_type == "float16" else 0.010)

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        planned = planned_precision(load_model(path))
        own = {**dict.fromkeys(self.half, "float16"), **dict.fromkeys(self.unknown, "unknown")}
        if path.name == Path(FLOAT_MODEL).name:
            own = dict.fromkeys(self.full, "float32")
        return played_engine(path, lambda layer: own.get(layer, WORDS[planned[layer]]))

    def optimized_graph(self, path: Path) -> onnx.ModelProto:
        raise NoGraph("hidden")


class Slow:
    """A session whose calls take so many seconds longer."""

    def __init__(self, session: Any, seconds: float) -> None:
        self._session, self._seconds = session, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self._seconds)
        answers: NDArray[np.float32] = self._session.run(images)
        return answers


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[PlaysTensorRt]:
    monkeypatch.setattr(subject, "runtime_named", lambda name, options: PlaysTensorRt(options))
    for name in ("half", "unknown", "full"):
        monkeypatch.setattr(PlaysTensorRt, name, ())
    return PlaysTensorRt


def test_a_build_for_tensorrt_goes_through_engine_parity_accuracy_latency_and_verdict(
    run: Command, settings: Path, here: Path, engine: type[PlaysTensorRt]
) -> None:
    quick = ("--ptq", "--calibration-images", "64", "--bits", "4,5", "--importance", "scale", "--builder-level", "1")
    arguments = ("build", "--config", settings, "--out", "out", "--target", "tensorrt", *quick, "--json")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [stage["name"] for stage in found["stages"]][-len(ENGINE_STAGES) :] == ENGINE_STAGES
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
    assert {series["name"] for series in latency["series"]} == {"mixed", "float", "fp32", "uniform8"}
    assert checks["faster_than_float16"]["passed"]
    executed = {entry["name"]: entry for entry in found["verdict"]["bitops"]}
    assert (
        executed["float"]["nominal_all"]
        == 4 * executed["float"]["realised_all"]
        == 16 * executed["uniform8"]["realised_all"]
    )
    assert sum(note.startswith("Float is the float model's engine in FP16") for note in found["verdict"]["notes"]) == 1
    page = (here / "out/report.html").read_text()
    assert "times as fast as float (FP16)" in page
    assert "float, FP32" in page
    manifest = json.loads((here / "out/bundle/manifest.json").read_text())
    assert (manifest["engine"]["level"], manifest["engine"]["float_type"]) == (1, "float16")

    study = load_record(LatencyStudy, here / "out/latency-study.json")
    native = [point for point in study.points if point.sweep == "native"]
    narrow = [point for point in study.points if point.sweep == "narrow"]
    assert (len(native), [point.name for point in narrow]) == (5, ["w2a2", "w4a4", "w8a8"])
    assert max(point.realised for point in native) > min(point.realised for point in native)
    assert {point.realised for point in narrow} == {min(point.realised for point in native)}
    assert (study.device, study.realised.policies, study.refused) == ("none", 5, {})
    [said] = [note for note in found["verdict"]["notes"] if "executed BitOps order 5 engines of native pairs" in note]
    assert "Over 2 to 8 bits, which all execute as 8-bit integers, nominal BitOps vary" in said
    assert "<svg" in page.partition("How far BitOps predict latency")[2].partition("</section>")[0]

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

    engine.half, engine.unknown, engine.full = (), (layer,), (layer,)
    for name in ("engine.json", "audit.json"):
        (here / "out" / name).unlink()
    result = run(*arguments)
    assert result.exit_code == 0
    verdict = json.loads(result.stdout)["verdict"]
    checks = {check["name"]: check for check in verdict["checks"]}
    missing = {one["name"]: one["reason"] for one in verdict["not_measured"]}
    assert set(missing) == {"integers_everywhere", "faster_than_float16"}
    assert "does not report the precision of 1 of" in missing["integers_everywhere"]
    assert f"1 layers of the mixed engine ({layer})" in missing["faster_than_float16"]
    macs = {one.name: one.macs for one in load_record(Placement, here / "out/placement.json").layers}
    then, now = executed, {entry["name"]: entry for entry in verdict["bitops"]}
    assert now["mixed"] == then["mixed"]
    assert now["float"]["realised_all"] - then["float"]["realised_all"] == macs[layer] * (32 * 32 - 16 * 16)
    assert f"The mixed engine does not report the precision of 1 layers ({layer})" in " ".join(verdict["notes"])


def test_a_limit_is_searched_for_and_told_at_the_smallest_batch_that_the_engine_takes(
    run: Command, settings: Path, here: Path, engine: type[PlaysTensorRt]
) -> None:
    quick = ("--ptq", "--calibration-images", "64", "--bits", "8", "--importance", "scale", "--latency-seconds", "0.1")
    limit = ("--space", "native:tensorrt", "--max-latency-ms", "500", "--like", "w16a16", "--latency-rounds", "1")
    arguments = ("build", "--config", settings, "--out", "out", "--target", "tensorrt", *quick, *limit)
    result = run(*arguments, "--batch", "2:2:4", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads((here / "out/latency-table.json").read_text())["batch"] == 2
    assert load_record(LatencyStudy, here / "out/latency-study.json").batch == 2
    checks = {check["name"]: check for check in found["verdict"]["checks"]}
    assert "at batch 2, limit 500 ms" in checks["latency"]["detail"]
    assert any(note.startswith("The trained engine: predicted ") for note in found["verdict"]["notes"])


def test_without_a_gpu_the_build_stops_before_any_work_with_what_is_missing(refused: Any, here: Path) -> None:
    sentence = refused("build", "--target", "tensorrt", words=("TensorRT is not available here", "--no-engine"))
    assert "the package tensorrt is not installed" in sentence or "no NVIDIA driver" in sentence
    assert not (here / "limpq-build").exists()
