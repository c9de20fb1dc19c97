"""What every runtime keeps to, whichever it is. One that is not usable here says why, and is skipped with that."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.targets import RUNTIMES
from limpq_deploy.export.reference.self_test import tiny_images, tiny_model
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Engine, NoGraph, Runtime


@pytest.fixture(params=[name for name, record in RUNTIMES.items() if record.code is not None])
def runtime(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    found = runtime_named(request.param)
    why = found.unavailable()
    if why is not None:
        assert why.count("\n") == 0
        assert len(why) > 20
        pytest.skip(why)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model().SerializeToString())
    return path


def test_a_session_runs_batches_of_any_size_and_says_under_what(runtime: Runtime, model: Path) -> None:
    session = runtime.load(model)
    assert session.input_shape == (None, 3, 16, 16)
    whole = session.run(tiny_images(5))
    assert (whole.shape, whole.dtype) == ((5, 10), np.float32)
    np.testing.assert_allclose(session.run(tiny_images(5)[:2]), whole[:2], atol=0.05 * float(np.ptp(whole)))
    environment = session.environment()
    assert {"runtime", "version", "provider", "threads", "options"} <= set(environment)
    assert environment["runtime"] == runtime.name
    json.dumps(environment)


def test_an_engine_describes_the_file_it_was_made_of(runtime: Runtime, model: Path) -> None:
    engine = runtime.engine(model)
    assert engine.model_sha256 == sha256_of(model)
    assert engine.runtime == runtime.name
    assert from_json(Engine, to_json(engine), "engine.json") == engine


def test_a_runtime_shows_its_graph_or_says_that_it_does_not(runtime: Runtime, model: Path) -> None:
    if runtime.name == "onnxruntime":
        assert isinstance(runtime.optimized_graph(model), onnx.ModelProto)
        return
    with pytest.raises(NoGraph):
        runtime.optimized_graph(model)
    with pytest.raises(NoGraph):
        runtime.watch(model)


def test_a_file_that_is_no_model_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"this is not a model")
    for use in (runtime.load, runtime.engine):
        with pytest.raises(ModelError, match="not an ONNX file"):
            use(path)
