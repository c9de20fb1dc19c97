"""Building, keeping, loading, running and timing engines, on a stand-in for TensorRT's bindings of 8.6.

The bindings' own objects need a GPU. Here a "plan" is the ONNX file, an engine runs it as written by ONNX Runtime, and
device memory is the host's; the stand-in has no names but those that `test_tensorrt_names` holds against the real ones.
What it shows is our side: what is set, bound, padded, recorded and refused.
"""

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.engine_options import BatchRange, EngineOptions, given_options
from limpq_deploy.export.engine_record import PlanRefused
from limpq_deploy.export.runtimes import runtime_named, trt, trt_session
from limpq_deploy.export.runtimes.base import DeviceTimed, Engine
from limpq_deploy.export.runtimes.cuda import CudaDriver, Gpu
from limpq_deploy.export.runtimes.ort import open_as_written
from limpq_deploy.export.runtimes.trt import TensorRt, record_path
from limpq_deploy.export.runtimes.trt_build import BuildFailed
from limpq_deploy.export.self_test import self_test, tiny_images, tiny_model

JUNK = b"this cache is damaged"


class HostMemory:
    """Device memory on the host. Every address that was given out and is not free yet is in ``held``."""

    package = "the host"

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.clock = 0.0

    def alloc(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.held[address]

    def pinned(self, size: int) -> NDArray[np.uint8]:
        return np.zeros(size, np.uint8)

    def stream(self) -> int:
        return 7

    def event(self) -> list[float]:
        return [0.0]

    def record(self, event: list[float], stream: int) -> None:
        self.clock += 0.5
        event[0] = self.clock

    def elapsed_ms(self, first: list[float], second: list[float]) -> float:
        return second[0] - first[0]

    def to_device(self, address: int, host: NDArray[Any], stream: int) -> None:
        ctypes.memmove(address, host.ctypes.data, host.nbytes)

    def to_host(self, host: NDArray[Any], address: int, stream: int) -> None:
        ctypes.memmove(host.ctypes.data, address, host.nbytes)

    def wait(self, stream: int) -> None: ...


class Network:
    model = onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        entry = self.model.graph.input[index]
        shape = tuple(size.dim_value or -1 for size in entry.type.tensor_type.shape.dim)
        return type("Tensor", (), {"name": entry.name, "shape": shape})


class Parser:
    num_errors = 1

    def __init__(self, network: Network, logger: Any) -> None:
        self._network = network

    def parse(self, data: bytes) -> bool:
        self._network.model = onnx.ModelProto.FromString(data)
        return all(node.op_type != "Det" for node in self._network.model.graph.node)

    def get_error(self, index: int) -> Any:
        return type("Error", (), {"desc": lambda self: "no importer for Det", "node": lambda self: 3})()


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = {"TF32"}
        self.shapes: dict[str, Any] = {}
        self.cache: Any = None
        self.builder_optimization_level, self.profiling_verbosity, self.workspace = 3, 0, 2**37

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.workspace = size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self.workspace

    def set_tactic_sources(self, sources: int) -> bool:
        return sources == 0b11000

    def create_timing_cache(self, data: bytes) -> Any:
        return None if data == JUNK else type("Cache", (), {"serialize": lambda self: data + b"timed"})()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache

    def add_optimization_profile(self, profile: Any) -> int:
        self.shapes = profile.shapes
        return 0


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, least: tuple[int, ...], best: tuple[int, ...], most: tuple[int, ...]) -> None:
        self.shapes[name] = [least, best, most]


class Builder:
    builds = 0

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Network:
        assert flags == 1
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        Builder.builds += 1
        self._logger.log(Bindings.ILogger.Severity.WARNING, "a stand-in")
        if config.workspace < 2**21:
            self._logger.log(Bindings.ILogger.Severity.ERROR, "insufficient workspace")
            return None
        facts = {"shapes": config.shapes, "flags": sorted(config.flags), "number": Builder.builds}
        return json.dumps(facts).encode() + b"\n" + network.model.SerializeToString()


class EngineStandIn:
    def __init__(self, plan: bytes) -> None:
        facts, _, data = plan.partition(b"\n")
        self.facts, self.model = json.loads(facts), onnx.ModelProto.FromString(data)
        self.session = open_as_written(self.model)
        entries = [*self.model.graph.input, *self.model.graph.output]
        self.shapes = {
            entry.name: tuple(size.dim_value or -1 for size in entry.type.tensor_type.shape.dim) for entry in entries
        }
        self.num_io_tensors = len(self.shapes)

    def create_execution_context(self) -> "Context":
        return Context(self)

    def create_engine_inspector(self) -> Any:
        layers = [
            {"Name": node.name, "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Int8"}]}
            for node in self.model.graph.node
            if node.op_type in ("Conv", "Gemm")
        ]
        return type("Inspector", (), {"get_engine_information": lambda self, form: json.dumps({"Layers": layers})})()

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> int:
        return Bindings.TensorIOMode.INPUT if name in self._inputs else Bindings.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> int:
        return Bindings.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.facts["shapes"][name]

    @property
    def _inputs(self) -> set[str]:
        return {entry.name for entry in self.model.graph.input}


class Context:
    profiler: Any = None

    def __init__(self, engine: EngineStandIn) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {}
        for name, shape in self._shapes.items():
            found = (ctypes.c_float * int(np.prod(shape))).from_address(self._addresses[name])
            feeds[name] = np.ctypeslib.as_array(found).reshape(shape).copy()
        for name, value in self._engine.session.run_feeds(feeds).items():
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        if self.profiler is not None:
            self.profiler.report_layer_time("node_stem", 0.25)
        return True


class RuntimeStandIn:
    def __init__(self, logger: Any) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> EngineStandIn | None:
        return EngineStandIn(plan) if plan.startswith(b"{") else None


class LoggerBase:
    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __str__(self) -> str:
            return f"Severity.{self.name}"

    def __init__(self) -> None: ...


class ProfilerBase:
    def __init__(self) -> None: ...


class Bindings(ModuleType):
    """The module. Bits and names as in the bindings of 8.6."""

    __version__ = "8.6.0"
    ILogger, IProfiler = LoggerBase, ProfilerBase
    Builder, OnnxParser, Runtime = Builder, Parser, RuntimeStandIn
    NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0})
    BuilderFlag = IntEnum("BuilderFlag", ["FP16", "INT8", "TF32"])
    ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["DETAILED"])
    MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])
    TacticSource = IntEnum("TacticSource", {"EDGE_MASK_CONVOLUTIONS": 3, "JIT_CONVOLUTIONS": 4})
    TensorIOMode = IntEnum("TensorIOMode", ["INPUT", "OUTPUT"])
    DataType = IntEnum("DataType", ["FLOAT", "HALF"])
    LayerInformationFormat = IntEnum("LayerInformationFormat", ["JSON"])


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostMemory:
    """A machine with a GPU, as far as the runtime can see."""
    found = HostMemory()
    gpu = Gpu(name="NVIDIA H200", compute_capability="9.0", memory_mib=143771)
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt, "unavailable", lambda: None)
    monkeypatch.setattr(trt, "load_bindings", lambda: Bindings("tensorrt"))
    monkeypatch.setattr(trt, "ask_driver", lambda: CudaDriver(cuda=(12, 4), gpus=(gpu,), problem=None))
    monkeypatch.setattr(trt, "open_memory", lambda package: found)
    monkeypatch.setattr(trt_session.CudaGraph, "capture", lambda stream, enqueue: None)
    monkeypatch.setattr(Builder, "builds", 0)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model().SerializeToString())
    return path


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
    assert (plan.parent.parent / "timing.cache").read_bytes() == b"timed"
    images = tiny_images(2)
    np.testing.assert_array_equal(TensorRt().load(plan).run(images), TensorRt().load(model).run(images))


def test_other_settings_are_another_engine_and_use_the_timing_cache(memory: HostMemory, model: Path) -> None:
    _, plan = TensorRt().built(model)
    exact, other = TensorRt(EngineOptions(float_type="float32", tf32=False, workspace_mib=64)).built(model)
    assert other != plan
    assert exact.plan is not None
    assert exact.plan.flags == ("EXPLICIT_BATCH", "INT8")
    assert exact.plan.settings["workspace_bytes"] == str(64 * 2**20)
    assert (plan.parent.parent / "timing.cache").read_bytes() == b"timedtimed"
    (plan.parent.parent / "timing.cache").write_bytes(JUNK)
    TensorRt(EngineOptions(level=1)).built(model)
    assert (plan.parent.parent / "timing.cache").read_bytes() == b"timed"


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


def test_what_the_parser_or_the_builder_refuses_is_said_in_their_words(memory: HostMemory, model: Path) -> None:
    with pytest.raises(BuildFailed, match="builds no engine: insufficient workspace") as failed:
        TensorRt(EngineOptions(workspace_mib=1)).built(model)
    log = Path(str(failed.value).partition("the builder's log: ")[2].removesuffix(")"))
    assert log.read_text() == "[WARNING] a stand-in\n[ERROR] insufficient workspace\n"
    refused = tiny_model()
    refused.graph.node.append(onnx.helper.make_node("Det", ["images"], ["det"], name="det"))
    model.write_bytes(refused.SerializeToString())
    with pytest.raises(BuildFailed, match=r"refuses the model: no importer for Det \(node 3 of the file\)"):
        TensorRt().built(model)


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
    from limpq_deploy.cli import main

    file = tmp_path / "latency.json"
    words = (
        "--runtime",
        "tensorrt",
        "--threads",
        "1",
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
    assert session.layer_times(tiny_images(1), 4) == {"node_stem": (0.25,) * 4}


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
