"""Engines that NVIDIA's compiler builds here, without a GPU. They are never run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable, SettingError
from limpq_deploy.calibration.records import load_record, to_dict
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsElsewhere, CompiledEngine
from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed
from limpq_deploy.export.runtimes.tensorrt_rtx import build, runtime
from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import TensorRtRtx
from limpq_deploy.export.runtimes.tensorrt_rtx.word import compiler_word

Net = tuple[onnx.ModelProto, Path]


def test_an_engine_is_built_without_a_gpu_and_its_record_tells_what_the_compiler_made(net: Net) -> None:
    engine, plan = TensorRtRtx().built(net[1])
    assert plan.read_bytes()[:4] == b"vtrt"
    assert (engine.integer_layers, engine.layers) == (5, 5)
    assert set(engine.layer_precision.values()) == {"s8s8"}
    assert engine.capabilities == ("sm86", "sm89", "sm120")
    assert engine.compiler == "TensorRT-RTX 1.7"
    assert engine.plan is not None
    assert engine.plan.warnings == ()
    working = [layer for layer in engine.plan.layers if layer.kind not in ("signal", "wait", "shape_call")]
    assert engine.kernels == len(working) > 5
    assert 0 < 7 * engine.moved_bytes["batch_1"] < engine.moved_bytes["batch_8"]  # type: ignore[operator]
    assert sum(engine.moved_by_type["batch_8"].values()) == engine.moved_bytes["batch_8"]
    codes = sum(
        numpy_helper.to_array(one).size for one in net[0].graph.initializer if one.name.endswith((".weight", "_codes"))
    )
    assert engine.weight_bytes is not None
    assert engine.weight_bytes > codes
    assert {"Relu", "Round"} <= {name for layer in engine.plan.layers for name in layer.operations}


def test_the_record_has_the_keys_that_others_read_and_is_kept_beside_the_plan(net: Net) -> None:
    engine, plan = TensorRtRtx().built(net[1])
    keys = {"kernels", "integer_layers", "layers", "moved_bytes", "weight_bytes", "capabilities", "compiler"}
    assert keys <= set(to_dict(engine))
    assert load_record(CompiledEngine, plan.with_suffix(".engine.json")) == engine
    before = plan.stat().st_mtime_ns
    assert TensorRtRtx().built(net[1]) == (engine, plan)
    assert plan.stat().st_mtime_ns == before


def test_a_batch_that_the_engine_does_not_take_is_not_counted(net: Net) -> None:
    engine = TensorRtRtx(EngineOptions(batch=BatchRange.parse("1:2:4"), gpus=("sm89",))).engine(net[1])
    assert engine.moved_bytes["batch_8"] is None
    assert engine.moved_bytes["batch_1"]
    assert (engine.options["batch"], engine.capabilities) == ("1:2:4", ("sm89",))


def test_building_and_running_are_two_questions(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    found = runtime_named("tensorrt_rtx")
    assert isinstance(found, BuildsElsewhere)
    assert found.cannot_build() is None
    said = found.unavailable()
    if said is not None:
        assert "runs no engine here: " in said
        with pytest.raises(RuntimeUnavailable, match="runs no engine here"):
            found.load(net[1])
    monkeypatch.setattr("limpq_deploy.export.runtimes.tensorrt_rtx.bindings.find_spec", lambda name: None)
    assert str(found.cannot_build()).endswith("not installed (run pip install 'limpq-deploy[rtx]')")
    with pytest.raises(MissingExtra, match=r"limpq-deploy\[rtx\]"):
        found.engine(net[1])
    word = compiler_word(net[0])
    assert (word.accepted, word.as_planned) == (None, False)
    assert "not installed" in word.detail


def test_doctor_answers_building_and_running_apart() -> None:
    from limpq_deploy.doctor import examine

    found = {one.name: one for one in examine().runtimes}
    rtx = found["tensorrt_rtx"]
    assert (rtx.builds, found["tensorrt"].builds, found["onnxruntime"].builds) == (True, None, None)
    assert rtx.usable or "builds engines; TensorRT-RTX runs no engine here" in rtx.detail


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (EngineOptions(builds=3), "builds is 3"),
        (EngineOptions(level=5), "level is 5"),
        (EngineOptions(workspace_mib=100), "workspace_mib is 100"),
    ],
)
def test_settings_without_effect_are_refused(options: EngineOptions, said: str) -> None:
    with pytest.raises(SettingError, match=f"{said}, which has no effect on TensorRT-RTX.*leave it away"):
        TensorRtRtx(options)


def test_a_file_that_is_refused_is_one_sentence_and_spoils_no_later_build(net: Net) -> None:
    """On SM75, whose failed builds make the next one of a process float."""
    with pytest.raises(BuildFailed, match=r"FP32 GEMM is not supported.*sm75 admits fewer types") as error:
        TensorRtRtx(EngineOptions(gpus=("sm75",))).engine(net[1])
    assert "\n" not in str(error.value)
    assert TensorRtRtx(EngineOptions(gpus=("sm89",))).engine(net[1]).integer_layers == 5


def test_what_the_parser_refuses_is_told_with_its_node(tmp_path: Path) -> None:
    node = helper.make_node("Det", ["images"], ["logits"], name="det")
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("images", 1, ["n", 2, 2])], [value("logits", 1, ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "det.onnx")
    with pytest.raises(BuildFailed, match=r"TensorRT-RTX 1.7.* refuses the model: .*node 1 of the file, Det 'det'"):
        TensorRtRtx().engine(tmp_path / "det.onnx")


def test_a_compiler_that_crashes_is_told(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def crashing(command: list[str], **settings: object) -> object:
        return real([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(build.subprocess, "Popen", crashing)
    with pytest.raises(BuildFailed, match="builds no engine: its process ended by signal 11; report it with the file"):
        TensorRtRtx().engine(net[1])


def test_progress_is_told_and_ctrl_c_in_it_ends_the_build(net: Net, own_cache: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    TensorRtRtx(report=lambda done, total, note: steps.append((done, total, note))).engine(net[1])
    assert steps
    assert all(1 <= done <= total for done, total, _ in steps)

    def interrupted(done: int, total: int, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TensorRtRtx(EngineOptions(gpus=("sm89",)), report=interrupted).engine(net[1])
    assert len(list(own_cache.rglob("*.plan"))) == 1


def test_a_process_ends_with_whoever_started_it(net: Net, tmp_path: Path) -> None:
    """Killed in the middle, its parent leaves no build running."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from limpq_deploy.export.runtimes.tensorrt_rtx import build\n"
        "from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import TensorRtRtx\n"
        "real = build.subprocess.Popen\n"
        "def noted(*args, **settings):\n"
        "    found = real(*args, **settings)\n"
        "    print(found.pid, flush=True)\n"
        "    return found\n"
        "build.subprocess.Popen = noted\n"
        f"TensorRtRtx(report=lambda *step: time.sleep(60)).engine(Path({str(net[1])!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    end = time.monotonic() + 20
    while time.monotonic() < end and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_engine_belongs_to_its_gpus(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question is asked before anything of the plan is loaded."""
    _, plan = TensorRtRtx(EngineOptions(gpus=("sm89",))).built(net[1])
    here = replace(load_record(CompiledEngine, plan.with_suffix(".engine.json")).plan.machine, compute_capability="8.6")  # type: ignore[union-attr]
    monkeypatch.setattr(runtime, "cannot_run", lambda: None)
    monkeypatch.setattr(runtime, "this_machine", lambda trt: replace(here, gpu="RTX 3090"))
    with pytest.raises(RuntimeUnavailable, match=r"is for compute capability 8.9, and RTX 3090 has 8.6.*--gpus sm86"):
        TensorRtRtx().load(plan)
    plan.write_bytes(plan.read_bytes() + b"x")
    monkeypatch.setattr(runtime, "this_machine", lambda trt: replace(here, compute_capability="8.9"))
    with pytest.raises(RuntimeUnavailable, match="a plan is code: it was not loaded"):
        TensorRtRtx().load(plan)


def test_names_that_sessions_use_are_in_the_bindings() -> None:
    """Sessions have never run; what they call is there."""
    import tensorrt_rtx_bindings as trt

    for owner, names in (
        ("ICudaEngine", ("create_runtime_config", "create_execution_context", "create_engine_inspector")),
        ("IRuntimeConfig", ("create_runtime_cache", "set_runtime_cache")),
        ("IRuntimeCache", ("serialize", "deserialize")),
        ("IExecutionContext", ("execute_async_v3", "set_input_shape", "set_tensor_address", "profiler")),
        ("Runtime", ("deserialize_cuda_engine",)),
    ):
        assert all(hasattr(getattr(trt, owner), name) for name in names), owner


def test_every_name_of_the_builder_is_in_the_bindings() -> None:
    table = json.loads((Path(__file__).resolve().parents[3] / "golden/tensorrt_names.json").read_text())["names"]
    import tensorrt_rtx_bindings as trt

    absent = {"BuilderFlag.FP16", "BuilderFlag.INT8", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"}
    absent |= {"PreviewFeature.PROFILE_SHARING_0806"}

    def has(name: str) -> bool:
        found: object = trt
        for part in name.split("."):
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True

    assert {name for name in table if not has(name.removeprefix("module."))} <= absent


def test_the_word_names_figures_and_what_it_is_not(net: Net) -> None:
    word = compiler_word(net[0], gpus=("sm89",), of="TensorRT 10")
    assert word.detail == (
        f"NVIDIA's compiler (TensorRT-RTX 1.7) accepts it: {word.kernels} kernels, 4 of 4 convolutions and 1 of 1 "
        "Gemms in int8; not run, and not the compiler of your TensorRT 10"
    )
    assert word.as_planned
    assert np.isclose(word.moved_bytes["batch_8"], TensorRtRtx().engine(net[1]).moved_bytes["batch_8"])  # type: ignore[index,arg-type]
