"""Building, keeping, loading, running and timing engines, on a stand-in for TensorRT's bindings of 8.6.

What they show is our side: what is set, bound, padded, recorded and refused.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.datasets import Preprocess
from limpq_deploy.calibration.errors import CacheRefused, ModelError
from limpq_deploy.calibration.files import keep, kept_bytes
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.pixel_input import with_pixel_input
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions, given_options
from limpq_deploy.export.records.engine_record import PlanRefused
from limpq_deploy.export.reference.self_test import self_test, tiny_images, tiny_model
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import DeviceTimed, Engine
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written
from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes
from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt, record_path
from limpq_deploy.export.timing.report import LatencyReport

from .trt_stand_in import (
    ELSEWHERE,
    JUNK,
    Builder,
    Config,
    Context,
    EngineStandIn,
    HostMemory,
    Inspector,
    Network,
    Parser,
    Profile,
    RuntimeStandIn,
)


def test_an_engine_runs_the_file_in_parts_that_it_takes_and_pads_small_ones(memory: HostMemory, model: Path) -> None:
    session = TensorRt(EngineOptions(batch=BatchRange(least=2, best=4, most=4))).load(model)
    images = tiny_images(9)
    expected = open_as_written(tiny_model()).run(images)
    np.testing.assert_array_equal(session.run(images), expected)
    np.testing.assert_array_equal(session.run(images[:1]), expected[:1])
    assert session.input_shape == (None, 3, 16, 16)
    with pytest.raises(ModelError, match=r"takes the shape \[3, 16, 16\] for each image, not \[3, 8, 8\]"):
        session.run(images[:, :, :8, :8])
    with pytest.raises(ModelError, match="takes 2 to 4 images at once, not 9; build it with --batch 2:9:9"):
        session.timed([images])


def test_memory_is_taken_for_the_batches_that_run_and_given_back(memory: HostMemory, model: Path) -> None:
    runtime = TensorRt()
    session = runtime.load(model)
    assert not memory.held
    session.run(tiny_images(1))
    assert sorted(len(buffer) for buffer in memory.held.values()) == [4 * 10, 4 * 3 * 16 * 16]
    session.run(tiny_images(3))
    assert len(memory.held) == 4
    session.close()
    assert not memory.held


def test_an_engine_is_built_once_and_kept_with_record_log_and_timing_cache(memory: HostMemory, model: Path) -> None:
    first, plan = TensorRt().built(model)
    again, same = TensorRt().built(model)
    assert (again, same, Builder.builds) == (first, plan, 1)
    assert plan.parent.parent.name == "NVIDIA_H200_cc9.0_trt8.6.0"
    assert load_record(Engine, record_path(plan)) == first
    assert first.layer_precision == dict.fromkeys(("stem", "conv1", "conv2", "conv3", "fc1", "fc2"), "s8s8")
    assert first.plan is not None
    assert first.plan.flags == ("EXPLICIT_BATCH", "INT8", "FP16", "TF32")
    assert first.plan.settings["batch"] == "1:1:64"
    assert first.plan.machine.tensorrt == "8.6.0"
    assert first.plan.warnings == ("a stand-in",)
    assert plan.with_suffix(".log").read_text() == "[WARNING] a stand-in\n"
    assert kept_bytes(plan.parent.parent / "timing.cache") == b"timed"
    images = tiny_images(2)
    np.testing.assert_array_equal(TensorRt().load(plan).run(images), TensorRt().load(model).run(images))


def test_other_settings_are_another_engine_and_use_the_timing_cache(memory: HostMemory, model: Path) -> None:
    _, plan = TensorRt().built(model)
    exact, other = TensorRt(EngineOptions(float_type="float32", tf32=False, workspace_mib=64)).built(model)
    assert other != plan
    assert exact.plan is not None
    assert exact.plan.flags == ("EXPLICIT_BATCH", "INT8")
    assert exact.plan.settings["workspace_bytes"] == str(64 * 2**20)
    assert kept_bytes(plan.parent.parent / "timing.cache") == b"timedtimed"
    (plan.parent.parent / "timing.cache").write_bytes(JUNK)
    TensorRt(EngineOptions(level=1)).built(model)
    assert kept_bytes(plan.parent.parent / "timing.cache") == b"timed"
    keep(plan.parent.parent / "timing.cache", ELSEWHERE)
    TensorRt(EngineOptions(level=2)).built(model)
    assert kept_bytes(plan.parent.parent / "timing.cache") == b"timed"


@pytest.mark.parametrize("change", [lambda data: data + b"!", lambda data: b"{}" + data[2:], lambda data: b""])
def test_a_changed_plan_is_refused_before_it_is_loaded(
    memory: HostMemory, model: Path, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan = TensorRt().built(model)
    plan.write_bytes(change(plan.read_bytes()))
    monkeypatch.setattr(RuntimeStandIn, "deserialize_cuda_engine", lambda self, data: pytest.fail("it was loaded"))
    with pytest.raises(PlanRefused, match="not those of its record"):
        TensorRt().load(model)
    with pytest.raises(PlanRefused, match=f"^{plan}: the plan's .* are not those of its record"):
        TensorRt().load(plan)


@pytest.mark.parametrize("suffix", [".engine.json", ".engine.kept"])
def test_a_kept_record_that_has_changed_is_refused(memory: HostMemory, model: Path, suffix: str) -> None:
    _, plan = TensorRt().built(model)
    record = plan.with_suffix(suffix)
    record.write_bytes(record.read_bytes().replace(b"s8s8", b"f32f"))
    with pytest.raises(CacheRefused, match="in the cache is not what was kept there"):
        TensorRt().built(model)
    record.unlink()
    TensorRt().built(model)
    assert Builder.builds == 2


def test_what_the_builder_refuses_is_said_in_its_words(memory: HostMemory, model: Path) -> None:
    with pytest.raises(BuildFailed, match="builds no engine: insufficient workspace") as failed:
        TensorRt(EngineOptions(workspace_mib=1)).built(model)
    log = Path(str(failed.value).partition("the builder's log: ")[2].removesuffix(")"))
    assert log.read_text() == "[WARNING] a stand-in\n[ERROR] insufficient workspace\n"


AS_8_6 = """{"Layers": [@
],
"Bindings": ["images"
,"logits"
]}"""
LAYER = """{
  "Name": "Q + NODE",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "x", "Dimensions": [-1,32,16,16], "Format/Datatype": "N/A due to dynamic shapes"}],
  "Outputs": [{"Name": "y", "Dimensions": [-1,32,16,16], "Format/Datatype": "N/A due to dynamic shapes"}],
  "ParameterType": "Convolution",
  "Weights": {"Type": "Int8", "Count": 9216},
  "Metadata": "[ONNX Layer: Q]\x1e[ONNX Layer: NODE]"
}"""
"""In the form of public dumps of 8.x with dynamic shapes; 8.6 writes the control character as it is."""


def test_an_engine_of_a_free_batch_is_known_to_run_in_integers_though_no_format_is_told(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = ",".join(LAYER.replace("NODE", node) for node in compute_nodes(tiny_model()).values())
    monkeypatch.setattr(Inspector, "get_engine_information", lambda self, form: AS_8_6.replace("@", layers))
    found = {one.name: one for one in self_test(TensorRt()).tried}
    assert found["engine"].passed, found["engine"].detail
    assert TensorRt().engine(model).float_layers == ()


def test_an_inspector_that_nobody_understands_costs_no_engine(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inspector, "get_engine_information", lambda self, form: "Layers: several")
    record, plan = TensorRt().built(model)
    assert record.plan is not None
    assert record.plan.layers == ()
    assert "the engine inspector's answer is not valid JSON" in record.plan.warnings[0]
    assert set(record.layer_precision.values()) == {"absent"}
    assert plan.with_suffix(".layers.json").read_text() == "Layers: several"
    assert TensorRt().built(model)[1] == plan
    assert Builder.builds == 1


def test_several_builds_leave_the_times_of_others_alone(memory: HostMemory, model: Path) -> None:
    _, plan = TensorRt(EngineOptions(builds=2)).built(model)
    cache = plan.parent.parent / "timing.cache"
    assert kept_bytes(cache) == b"timed"
    TensorRt(EngineOptions(level=1)).built(model)
    TensorRt(EngineOptions(builds=3)).built(model)
    assert kept_bytes(cache) == b"timedtimed"


def test_several_builds_are_timed_against_each_other(memory: HostMemory, model: Path) -> None:
    engine = TensorRt(EngineOptions(builds=3)).engine(model)
    assert engine.plan is not None
    assert len({build.plan_sha256 for build in engine.plan.builds}) == 3
    assert [build.ms for build in engine.plan.builds] == [0.5] * 3
    assert engine.plan.spread == 0.0
    assert engine.plan.sha256 == engine.plan.builds[engine.plan.chosen].plan_sha256


def test_options_of_the_builder_reach_it_by_name(memory: HostMemory, model: Path) -> None:
    engine = runtime_named("tensorrt", given_options(workspace_mib=32, level=1, builds=2)).engine(model)
    assert engine.plan is not None
    assert (engine.plan.settings["workspace_bytes"], len(engine.plan.builds)) == (str(32 * 2**20), 2)
    assert engine.plan.settings["builder_optimization_level"] == "1"


def test_bench_builds_engines_as_its_options_say(memory: HostMemory, model: Path, tmp_path: Path) -> None:
    from limpq_deploy.cli.main import main

    file = tmp_path / "latency.json"
    words = (
        "--runtime",
        "tensorrt",
        "--seconds",
        "0.1",
        "--workspace-mib",
        "48",
        "--builder-level",
        "2",
    )
    done = CliRunner().invoke(main, ["bench", str(model), *words, "--builds", "2", "-o", str(file)])
    assert done.exit_code == 0, done.output
    (series,) = json.loads(file.read_text())["series"]
    assert series["options"]["options"]["builder_optimization_level"] == "2"
    assert series["options"]["options"]["workspace_bytes"] == str(48 * 2**20)
    assert series["options"]["builds"] == 2


def test_bench_asks_trtexec_about_the_same_plans_where_it_is_installed(
    memory: HostMemory, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limpq_deploy.cli.main import main

    program = tmp_path / "trtexec"
    line = "[I] GPU Compute Time: min = 0.1 ms, max = 0.9 ms, mean = 0.2 ms, median = 0.456 ms, p = 0.8 ms"
    script = ('test -f "${1#--loadEngine=}" || exit 4', 'case "$2" in *:2x*) echo "no such batch"; exit 3;; esac')
    program.write_text("\n".join(("#!/bin/sh", *script, f'echo "{line}"\n')))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    file = tmp_path / "latency.json"
    words = ["--runtime", "tensorrt", "--seconds", "0.1", "--batch", "1,2", "-o", str(file)]
    done = CliRunner().invoke(main, ["bench", str(model), *words])
    assert done.exit_code == 0, done.output
    first, second = load_record(LatencyReport, file).trtexec
    assert (first.name, first.batch, first.median_ms) == ("tiny.onnx", 1, {"GPU Compute Time": 0.456})
    assert first.command[0] == "--shapes=images:1x3x16x16"
    assert str(tmp_path) not in file.read_text()
    assert (second.batch, second.failed) == (2, "trtexec ended with 3: no such batch")
    assert "trtexec on tiny.onnx (batch 1): p50 ms of compute 0.456" in done.stdout
    assert "trtexec on tiny.onnx (batch 2): trtexec ended with 3: no such batch" in done.stdout


def test_a_call_times_its_parts_and_a_profile_its_layers(memory: HostMemory, model: Path) -> None:
    session = TensorRt().load(model)
    assert isinstance(session, DeviceTimed)
    call = session.timed([tiny_images(1), tiny_images(1, seed=2)])
    call()
    parts = call.parts_ms()
    assert (parts["copy_in"], parts["compute"], parts["copy_out"]) == (0.5, 0.5, 0.5)
    assert parts["enqueue"] > 0
    assert (call.main_part, call.mode, session.environment()["mode"]) == ("compute", "enqueue", "enqueue")
    assert session.environment()["accelerator"]["name"] == "NVIDIA H200"
    assert session.layer_times(tiny_images(1), 4) == dict.fromkeys(compute_nodes(tiny_model()).values(), (0.25,) * 4)


def test_layers_of_one_name_keep_a_time_of_each_run(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "_layer_name", staticmethod(lambda node: node.op_type))
    times = TensorRt().load(model).layer_times(tiny_images(1), 3)
    assert list(times) == ["Conv", "Conv (2)", "Conv (3)", "Conv (4)", "Gemm", "Gemm (2)"]
    assert set(map(len, times.values())) == {3}


def test_several_runs_at_once_take_as_long_as_the_slowest_of_them(memory: HostMemory, model: Path) -> None:
    session = TensorRt().load(model)
    batches = [tiny_images(1, seed=number) for number in range(3)]
    assert isinstance(session, DeviceTimed)
    call = session.timed(batches, streams=3)
    streams = list(memory.clocks)[-3:]
    memory.run_ms[streams[2]] = 4.0
    call()  # submitted before
    assert call.parts_ms()["compute"] == 0.5
    for _ in range(2):
        call()
        assert {**call.parts_ms(), "enqueue": 0} == {"copy_in": 0.5, "compute": 4.0, "copy_out": 0.5, "enqueue": 0}
    held = len(memory.held)
    assert held == 3 * 2
    alone = session.timed(batches)
    alone()
    assert alone.parts_ms()["compute"] == 0.5
    assert len(memory.held) == held
    session.close()
    assert not memory.held


def test_one_run_is_always_queued_ahead_of_the_one_that_is_told(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = TensorRt().load(model)
    assert isinstance(session, DeviceTimed)
    runs: list[int] = []

    def ran(stream: int) -> None:
        runs.append(stream)
        memory.ran(stream)

    monkeypatch.setattr(Context, "_ran", staticmethod(ran))
    call = session.timed([tiny_images(1)])
    assert len(runs) == 2  # the first, and one ahead
    memory.run_ms[runs[0]] = 3.0
    told = []
    for number in range(3):
        call()
        assert len(runs) == 3 + number
        told.append(call.parts_ms()["compute"])
    assert told == [0.5, 3.0, 3.0]


def test_what_a_session_took_is_given_back_when_nobody_has_it(memory: HostMemory, model: Path) -> None:
    session = TensorRt().load(model)
    assert isinstance(session, DeviceTimed)
    call = session.timed([tiny_images(1)], streams=2)
    taken = set(memory.clocks) - set(memory.ended)
    assert len(taken) == 2
    del session
    call()
    assert len(memory.held) == 4
    del call
    assert not memory.held
    assert set(memory.clocks) == set(memory.ended)


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("execute_async_v3", False, "the engine does not run"),
        ("set_input_shape", False, r"refuses the shape \[1, 3, 16, 16\] of 'images'"),
        ("set_tensor_address", False, "knows no tensor"),
    ],
)
def test_what_tensorrt_refuses_without_a_word_is_an_error(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch, method: str, answer: bool, said: str
) -> None:
    session = TensorRt().load(model)
    assert isinstance(session, DeviceTimed)
    call = session.timed([tiny_images(1)])
    call()
    monkeypatch.setattr(Context, method, lambda self, *arguments: answer)
    with pytest.raises(ModelError, match=said):
        session.run(tiny_images(1))
    with pytest.raises(ModelError, match=said):
        session.timed([tiny_images(1)])
    if method == "execute_async_v3":
        with pytest.raises(ModelError, match=said):
            call()


def test_a_gpu_without_room_for_a_context_is_an_error(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = TensorRt().load(model)
    monkeypatch.setattr(EngineStandIn, "create_execution_context", lambda self: None)
    with pytest.raises(ModelError, match="no execution context"):
        session.run(tiny_images(1))


def test_an_engine_whose_contexts_share_nothing_is_refused_for_several_streams(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Config, "set_preview_feature", lambda self, feature, on: None)
    session = TensorRt().load(model)
    assert isinstance(session, DeviceTimed)
    with pytest.raises(ModelError, match="runs one batch at a time"):
        session.timed([tiny_images(1)], streams=2)


def test_the_self_test_passes_on_it(memory: HostMemory) -> None:
    found = self_test(TensorRt())
    assert found.passed, found.tried
    assert [one.name for one in found.tried] == ["engine", "logits", "layer by layer", "saturating inputs", "timing"]


STANDS_FOR = {
    "Builder": Builder,
    "OnnxParser": Parser,
    "INetworkDefinition": Network,
    "IBuilderConfig": Config,
    "IOptimizationProfile": Profile,
    "Runtime": RuntimeStandIn,
    "ICudaEngine": EngineStandIn,
    "IExecutionContext": Context,
}


@pytest.mark.parametrize("real", STANDS_FOR)
def test_the_stand_in_has_no_method_that_the_bindings_lack(real: str, shared: Path) -> None:
    names = json.loads((shared / "brief/tensorrt_api.json").read_text())["versions"]["8.6.0"][real]["members"]
    methods = {name for name, value in vars(STANDS_FOR[real]).items() if callable(value) and not name.startswith("_")}
    assert methods
    assert methods <= set(names)


def test_an_engine_that_takes_pixels_is_given_whole_numbers(memory: HostMemory, model: Path, tmp_path: Path) -> None:
    loaded = load_model(model)
    _, channels, height, width = (size.dim_value for size in loaded.graph.input[0].type.tensor_type.shape.dim)
    preprocess = Preprocess(
        height=height, width=width, mean=(0.4,) * channels, std=(0.25,) * channels, channels=channels
    )
    path = tmp_path / "pixels.onnx"
    path.write_bytes(with_pixel_input(loaded, preprocess, codes=False).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (3, channels, height, width)).astype(np.uint8)
    session = TensorRt().load(path)
    found = session.run(pixels.astype(np.float32))
    np.testing.assert_allclose(found, TensorRt().load(model).run(preprocess.normalise(pixels)), rtol=1e-5)
    call = session.timed([pixels.astype(np.float32)])
    call()
    assert call.parts_ms()["compute"] > 0
    with pytest.raises(ModelError, match="give images that are not normalised"):
        session.run(preprocess.normalise(pixels))
