"""Which float engines are timed beside a build's model."""

from pathlib import Path

from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsEngines
from limpq_deploy.latency.baselines import least_batch, with_fp32

FILES = {name: Path(name) for name in ("mixed", "float", "uniform8", "a/mixed", "a/float", "float.onnx", "my float")}


def test_every_float_of_a_build_has_an_fp32_engine_of_the_same_file_behind_it() -> None:
    options = EngineOptions(level=5, builds=2)
    models, own = with_fp32(FILES, runtime_named("tensorrt", options))
    assert list(models) == [
        *("mixed", "float", "fp32", "uniform8", "a/mixed", "a/float", "a/fp32", "float.onnx", "my float")
    ]
    assert (models["fp32"], models["a/fp32"]) == (Path("float"), Path("a/float"))
    assert set(own) == {"fp32", "a/fp32"}
    for runtime in own.values():
        assert isinstance(runtime, BuildsEngines)
        assert runtime.options == EngineOptions(level=5, builds=2, float_type="float32", tf32=False)


def test_runtimes_without_engines_and_floats_that_are_fp32_add_nothing() -> None:
    for runtime in (runtime_named("onnxruntime"), runtime_named("tensorrt", EngineOptions(float_type="float32"))):
        assert with_fp32(FILES, runtime) == (FILES, {})


def test_engines_for_large_batches_alone_are_timed_at_their_smallest_one() -> None:
    batch = BatchRange(least=8, best=8, most=32)
    assert least_batch(runtime_named("tensorrt", EngineOptions(batch=batch))) == 8
    assert least_batch(runtime_named("onnxruntime")) == 1
