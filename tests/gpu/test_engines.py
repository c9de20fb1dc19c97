"""TensorRT on a real GPU. These tests never ran where they were written, for there is no GPU; each is skipped with the
reason (docs/gpu.md)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.records.engine_record import PlanRefused
from limpq_deploy.export.reference.self_test import SelfTest, self_test, tiny_images, tiny_model
from limpq_deploy.export.runtimes.base import DeviceTimed, Engine
from limpq_deploy.export.runtimes.cuda.memory import PACKAGES, _installed, open_memory
from limpq_deploy.export.runtimes.cuda.watch import GpuWatch

from ..float_model import float_model

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("tensorrt")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of plans for each test."""
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model().SerializeToString())
    return path


@pytest.mark.parametrize("package", PACKAGES)
def test_bytes_go_to_the_device_and_back(package: str) -> None:
    if not _installed(package):
        pytest.skip(f"{package} is not installed")
    memory = open_memory(package)
    stream, address = memory.stream(), memory.alloc(1 << 20)
    host, back = memory.pinned(1 << 20), memory.pinned(1 << 20)
    host[:] = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    events = memory.event(), memory.event()
    memory.record(events[0], stream)
    memory.to_device(address, host, stream)
    memory.to_host(back, address, stream)
    memory.record(events[1], stream)
    memory.wait(stream)
    np.testing.assert_array_equal(host, back)
    assert 0 < memory.elapsed_ms(*events) < 1000
    memory.free(address)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_self_test_passes(package: str) -> None:
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    if not _installed(package):
        pytest.skip(f"{package} is not installed")
    found: SelfTest = self_test(TensorRt(memory=package))
    assert found.passed, found.tried


def test_an_engine_is_built_once_and_kept_with_its_record(model: Path, cache: Path) -> None:
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt, record_path

    first, plan = TensorRt().built(model)
    again, same = TensorRt().built(model)
    assert (again, same) == (first, plan)
    assert plan.is_relative_to(cache)
    assert load_record(Engine, record_path(plan)) == first
    assert first.plan is not None
    assert first.plan.layers
    assert (cache / "tensorrt").exists()
    assert plan.with_suffix(".log").is_file()
    loaded = TensorRt().load(plan)
    images = tiny_images(3)
    np.testing.assert_array_equal(loaded.run(images), TensorRt().load(model).run(images))


def test_a_changed_plan_is_never_loaded(model: Path) -> None:
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    _, plan = TensorRt().built(model)
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(bytes(data))
    with pytest.raises(PlanRefused, match="not those of its record"):
        TensorRt().load(model)


def test_batches_beyond_the_range_are_run_in_parts_and_refused_for_timing(model: Path) -> None:
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    session = TensorRt(EngineOptions(batch=BatchRange(least=2, best=4, most=4))).load(model)
    images = tiny_images(9)
    whole = session.run(images)
    assert whole.shape == (9, 10)
    np.testing.assert_allclose(whole[:1], session.run(images[:1]), atol=0.05 * float(np.ptp(whole)))
    with pytest.raises(ModelError, match="takes 2 to 4 images at once, not 9"):
        session.timed([images])


@pytest.mark.parametrize("graph", [True, False])
def test_a_call_times_its_parts_on_the_device(model: Path, graph: bool) -> None:
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    session = TensorRt().load(model)
    assert isinstance(session, DeviceTimed)
    call = session.timed([tiny_images(1), tiny_images(1, seed=2)], graph=graph)
    for _ in range(20):
        call()
    parts = call.parts_ms()
    assert set(parts) == {"compute", "enqueue", "copy_in", "copy_out"}
    assert 0 < parts["compute"] < 100
    assert call.mode in (("cuda graph", "enqueue") if graph else ("enqueue",))
    times = session.layer_times(tiny_images(1), 5)
    assert times
    assert all(len(values) == 5 for values in times.values())


@pytest.mark.parametrize("graph", [True, False])
def test_several_runs_at_once_take_longer_than_one_and_less_than_one_after_the_other(model: Path, graph: bool) -> None:
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    session = TensorRt().load(model)
    assert isinstance(session, DeviceTimed)
    medians = {}
    for streams in (1, 4):
        call = session.timed([tiny_images(1), tiny_images(1, seed=2)], graph=graph, streams=streams)
        samples = []
        for _ in range(200):
            call()
            samples.append(call.parts_ms()["compute"])
        medians[streams] = float(np.median(samples[50:]))
    assert 0.9 * medians[1] < medians[4] < 4 * medians[1]


def test_several_builds_are_compared_and_float_types_are_kept_apart(model: Path) -> None:
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    options = EngineOptions(builds=2)
    engine = TensorRt(options).engine(model)
    assert engine.plan is not None
    assert len(engine.plan.builds) == 2
    assert engine.plan.spread is not None
    exact = TensorRt(replace(options, builds=1, float_type="float32", tf32=False)).engine(model)
    assert exact.plan is not None
    assert "TF32" not in exact.plan.flags
    assert "FP16" not in exact.plan.flags


def test_a_float_model_is_built_in_fp16_and_in_fp32_and_answers_alike(tmp_path: Path) -> None:
    """Where types come from the file (TensorRT 11), FP16 is certain; elsewhere the builder may choose it."""
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    path = tmp_path / "float.onnx"
    path.write_bytes(float_model().SerializeToString())
    runtime = TensorRt()
    exact = runtime.with_options(EngineOptions(float_type="float32", tf32=False))
    engine = runtime.engine(path)
    assert engine.plan is not None
    if engine.plan.typing == "strong":
        assert engine.plan.settings["floats"] == "float16"
        assert set(engine.layer_precision.values()) == {"float16"}
    else:
        assert "FP16" in engine.plan.flags
    images = tiny_images(4)
    expected = exact.load(path).run(images)
    assert np.abs(runtime.load(path).run(images) - expected).max() < 0.01 * np.ptp(expected)


def test_a_gpu_is_watched() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py, which is in limpq-deploy[gpu]")
    with GpuWatch(interval_s=0.01) as watch:
        memory = open_memory()
        memory.wait(memory.stream())
    assert watch.use.samples > 0
    assert watch.use.temperature is not None
