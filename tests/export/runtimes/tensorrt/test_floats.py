"""Sessions of float models in FP16 and FP32, timed beside each other, on stand-ins for the bindings of 8.6 and 11.

What NVIDIA's compiler makes of such files is shown by the compiler itself: ../tensorrt_rtx/test_floats.py.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.records import write_record
from limpq_deploy.cli.main import main
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.markers import MARKERS_KEY, markers_text
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.reference.self_test import tiny_images
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsEngines
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written
from limpq_deploy.export.runtimes.tensorrt import runtime as trt
from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt
from limpq_deploy.policy.indicators import Indicators, LayerIndicators

from ....float_model import float_model
from .trt_stand_in import Bindings11, Builder, EngineStandIn, HostMemory


@pytest.fixture
def strong(memory: HostMemory, monkeypatch: pytest.MonkeyPatch) -> HostMemory:
    """The same machine with TensorRT 11."""
    monkeypatch.setattr(trt, "load_bindings", lambda: Bindings11("tensorrt"))
    return memory


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    path = tmp_path / "float.onnx"
    path.write_bytes(float_model().SerializeToString())
    return path


def parsed(runtime: TensorRt, path: Path) -> onnx.ModelProto:
    """The file that the builder was given."""
    return EngineStandIn(runtime.built(path)[1].read_bytes()).model


def test_an_fp16_engine_takes_and_gives_float32(strong: HostMemory, float_file: Path) -> None:
    images = tiny_images(4)
    found, expected = TensorRt().load(float_file).run(images), open_as_written(float_model()).run(images)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.01 * np.ptp(expected), "11 bits, not 24"


def test_where_the_builder_chooses_types_the_file_is_left_as_it_is(memory: HostMemory, float_file: Path) -> None:
    runtime = TensorRt()
    assert parsed(runtime, float_file) == load_model(float_file)
    engine = runtime.engine(float_file)
    assert engine.plan is not None
    assert engine.plan.flags == ("EXPLICIT_BATCH", "FP16", "TF32")


def test_a_runtime_gives_the_same_with_other_settings(memory: HostMemory, float_file: Path) -> None:
    found = runtime_named("tensorrt")
    assert isinstance(found, BuildsEngines)
    other = found.with_options(EngineOptions(level=1))
    assert isinstance(other, TensorRt)
    assert (other.options.level, found.options.level) == (1, 3)
    assert found.engine(float_file) != other.engine(float_file)
    assert not isinstance(runtime_named("onnxruntime"), BuildsEngines)


@pytest.fixture
def build(tmp_path: Path, model: Path, float_file: Path) -> Path:
    """The files of a build that bench looks for."""
    folder = tmp_path / "build"
    (folder / "baselines").mkdir(parents=True)
    for name in ("model.qdq.onnx", "baselines/uniform8.qdq.onnx"):
        (folder / name).write_bytes(model.read_bytes())
    (folder / "baselines/float.onnx").write_bytes(float_file.read_bytes())
    return folder


def bench(*words: object) -> dict[str, dict[str, object]]:
    """Options of the session that timed each series, by its name."""
    done = CliRunner().invoke(main, ["bench", *map(str, words), "--runtime", "tensorrt", "--seconds", "0.1", "--json"])
    assert done.exit_code == 0, done.output
    return {series["name"]: series["options"]["options"] for series in json.loads(done.stdout)["series"]}


def test_bench_times_the_float_model_of_a_build_in_fp16_and_in_fp32(memory: HostMemory, build: Path) -> None:
    found = bench(build)
    assert {name: options["flags"] for name, options in found.items()} == {
        "mixed": "EXPLICIT_BATCH, INT8, FP16, TF32",
        "float": "EXPLICIT_BATCH, FP16, TF32",
        "fp32": "EXPLICIT_BATCH",
        "uniform8": "EXPLICIT_BATCH, INT8, FP16, TF32",
    }


def test_where_types_come_from_the_file_both_are_timed_as_well(strong: HostMemory, build: Path) -> None:
    found = bench(build, "--no-tf32")
    assert {name: (options["flags"], options.get("floats")) for name, options in found.items()} == {
        "mixed": ("STRONGLY_TYPED", None),
        "float": ("STRONGLY_TYPED", "float16"),
        "fp32": ("STRONGLY_TYPED", None),
        "uniform8": ("STRONGLY_TYPED", None),
    }


def test_bench_takes_the_batch_range_of_engines_and_finds_those_of_a_build(memory: HostMemory, build: Path) -> None:
    options = EngineOptions(batch=BatchRange(least=1, best=8, most=96), tf32=False, float_type="float32")
    runtime_named("tensorrt", options).engine(build / "model.qdq.onnx")
    assert Builder.builds == 1
    words = ("--batch", "96", "--engine-batch", "1:8:96", "--float-type", "float32", "--no-tf32")
    (found,) = bench(build / "model.qdq.onnx", *words).values()
    assert Builder.builds == 1
    assert (found["batch"], found["flags"]) == ("1:8:96", "EXPLICIT_BATCH, INT8")


def test_a_batch_beyond_the_engines_is_refused_before_they_are_built(memory: HostMemory, build: Path) -> None:
    done = CliRunner().invoke(main, ["bench", str(build), "--runtime", "tensorrt", "--batch", "1,128"])
    assert (done.exit_code, Builder.builds) == (1, 0)
    assert done.output == (
        "Error: --batch 128 lies outside the range 1:1:64 that engines are built for; give --engine-batch 1:128:128\n"
    )


@pytest.fixture
def profiled(tmp_path: Path, edges: Any) -> Path:
    """What `profile` reads of a build for TensorRT: a float model that knows its markers, placement, edges."""
    net, logits = edges(0)
    placement = replace(
        net.placement,
        layers=tuple(replace(one, pinned_bits=None) if number == 1 else one for number, one in enumerate(net.placed)),
    )
    layer = placement.layers[1]
    placement = replace(
        placement,
        quantizers=tuple(
            replace(one, bits=None, layers=(layer.name,)) if one.name == layer.input else one
            for one in placement.quantizers
        ),
    )
    template = net.template(logits)
    float_model = strip_markers(template)
    helper.set_model_props(float_model, {MARKERS_KEY: markers_text(template)})
    folder = tmp_path / "profiled"
    (folder / "baselines").mkdir(parents=True)
    (folder / "baselines/float.onnx").write_bytes(float_model.SerializeToString())
    write_record(placement, folder / "placement.json")
    rows = LayerIndicators(name=layer.name, macs=1, num_weights=1, weight=(1.0,), act=(1.0,))
    write_record(Indicators(model="tiny", bits=(8,), layers=(rows,), edges=()), folder / "indicators.json")
    return folder


def test_profile_takes_the_same_settings_and_times_no_fp16_where_there_is_none(
    memory: HostMemory, profiled: Path, tmp_path: Path
) -> None:
    words = ["profile", str(profiled), "--runtime", "tensorrt", "--seconds", "0.05", "--graphs", "0", "--json"]
    done = CliRunner().invoke(main, [*words, "--batch", "128"])
    assert (done.exit_code, "give --engine-batch 1:128:128" in done.output, Builder.builds) == (1, True, 0), done.output
    done = CliRunner().invoke(main, [*words, "--threads", "1"])
    assert (done.exit_code, "--threads has no effect on tensorrt" in done.output) == (1, True), done.output
    for given, bits in ((("--float-type", "float32"), {7, 8, 32}), ((), {7, 8, 16, 32})):
        output = tmp_path / "table.json"
        done = CliRunner().invoke(main, [*words, *given, "--batch", "4", "--engine-batch", "1:4:4", "-o", str(output)])
        assert done.exit_code == 0, done.output
        assert {one["weight_bits"] for one in json.loads(output.read_text())["times"]} == bits


def test_a_file_of_a_fixed_batch_is_timed_whatever_the_range(memory: HostMemory, tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    path.write_bytes(float_model(batch=96).SerializeToString())
    (found,) = bench(path, "--batch", "96").values()
    assert found["batch"] == "96"


def test_a_batch_range_that_makes_no_sense_is_named(build: Path) -> None:
    done = CliRunner().invoke(main, ["bench", str(build), "--runtime", "tensorrt", "--engine-batch", "8:1:2"])
    assert (done.exit_code, "--engine-batch: the batch range is 8:1:2" in done.output) == (1, True), done.output
