"""A stand-in for TensorRT's bindings of 8.6, whose own objects need a GPU.

A "plan" is the ONNX file behind the first bytes of a real one, an engine runs it as written by ONNX Runtime, and device
memory is the host's. It has no names but those that `test_tensorrt_names` holds against the real ones.
"""

import ctypes
import json
import weakref
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written

MAGIC = b"ftrt"
"""As TensorRT's plans begin."""

JUNK = b"this cache is damaged"
ELSEWHERE = b"this cache is of another GPU"


STEP_MS = 0.5
"""What each copy and each run takes on its stream."""


class HostMemory:
    """Device memory on the host. Every address that was given out and is not free yet is in ``held``.

    Work is done at once, but each stream has a clock of its own, by which copies and runs take their time: events carry
    it, and a stream that follows one waits for it. The host has one too, ``now_ms``: it goes on where the host waits,
    and work begins no sooner than it was given. ``in_ms``, ``run_ms`` and ``out_ms``: of copies and runs on a stream
    that are no `STEP_MS`. ``torn``: sizes of page-locked memory that went while a copy was still to read or write it.
    """

    package = "the host"

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.clocks: dict[int, float] = {}
        self.now_ms = 0.0
        self.in_ms: dict[int, float] = {}
        self.run_ms: dict[int, float] = {}
        self.out_ms: dict[int, float] = {}
        self.ended: list[int] = []
        self.torn: list[int] = []
        self._copies: dict[int, float] = {}

    def alloc(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.held[address]

    def pinned(self, size: int) -> NDArray[np.uint8]:
        memory = np.zeros(size, np.uint8)
        weakref.finalize(memory, self._went, id(memory), size).atexit = False
        return memory

    def stream(self) -> int:
        self.clocks[7 + len(self.clocks)] = 0.0
        return 6 + len(self.clocks)

    def end_stream(self, stream: int) -> None:
        self.ended.append(stream)

    def event(self) -> list[float]:
        return [0.0]

    def record(self, event: list[float], stream: int) -> None:
        event[0] = self._spend(stream, 0.0)

    def follow(self, stream: int, event: list[float]) -> None:
        self.clocks[stream] = max(self.clocks[stream], event[0])

    def elapsed_ms(self, first: list[float], second: list[float]) -> float:
        self.reach(second)
        return second[0] - first[0]

    def to_device(self, address: int, host: NDArray[Any], stream: int) -> None:
        ctypes.memmove(address, host.ctypes.data, host.nbytes)
        self._copies[_owner(host)] = self._spend(stream, self.in_ms.get(stream, STEP_MS))

    def to_host(self, host: NDArray[Any], address: int, stream: int) -> None:
        ctypes.memmove(host.ctypes.data, address, host.nbytes)
        self._copies[_owner(host)] = self._spend(stream, self.out_ms.get(stream, STEP_MS))

    def ran(self, stream: int) -> None:
        """A run was put into a stream."""
        self._spend(stream, self.run_ms.get(stream, STEP_MS))

    def wait(self, stream: int) -> None:
        assert stream not in self.ended
        self.now_ms = max(self.now_ms, self.clocks[stream])

    def reach(self, event: list[float]) -> None:
        self.now_ms = max(self.now_ms, event[0])

    def _spend(self, stream: int, ms: float) -> float:
        """When work that is given to a stream now will be done."""
        self.clocks[stream] = max(self.clocks[stream], self.now_ms) + ms
        return self.clocks[stream]

    def _went(self, owner: int, size: int) -> None:
        if self._copies.pop(owner, 0.0) > self.now_ms:
            self.torn.append(size)


def _owner(host: NDArray[Any]) -> int:
    """The page-locked memory that an array is, or is a view of."""
    return id(host if host.base is None else host.base)


class Graph:
    """A captured enqueue: launched, it runs. ``launched``: streams, as they were launched."""

    def __init__(self, stream: int, enqueue: Callable[[], bool], launched: list[int]) -> None:
        self._stream, self._enqueue, self._launched = stream, enqueue, launched

    def launch(self) -> None:
        self._launched.append(self._stream)
        assert self._enqueue()


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
    """Takes every file: what NVIDIA's own refuses is shown by it (../tensorrt_rtx/test_runtime.py)."""

    def __init__(self, network: Network, logger: Any) -> None:
        self._network = network

    def parse(self, data: bytes) -> bool:
        self._network.model = onnx.ModelProto.FromString(data)
        return True


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = {"TF32"}
        self.shapes: dict[str, Any] = {}
        self.cache: Any = None
        self.features: set[str] = set()
        self.builder_optimization_level, self.profiling_verbosity, self.workspace = 3, 0, 2**37

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.workspace = size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self.workspace

    def get_preview_feature(self, feature: Any) -> bool:
        return feature.name in self.features

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        (self.features.add if on else self.features.discard)(feature.name)

    def set_tactic_sources(self, sources: int) -> bool:
        return sources == 0b11000

    def create_timing_cache(self, data: bytes) -> Any:
        return None if data == JUNK else type("Cache", (), {"serialize": lambda self: data + b"timed"})()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.serialize().startswith(ELSEWHERE):
            return False
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

    network_flags = 1
    """Bits that a network is to be made with: explicit batches."""

    def create_network(self, flags: int) -> Network:
        assert flags == self.network_flags
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
        facts = {
            "shapes": config.shapes,
            "flags": sorted(config.flags),
            "shares": "PROFILE_SHARING_0806" in config.features,
            "number": Builder.builds,
        }
        return MAGIC + json.dumps(facts).encode() + b"\n" + network.model.SerializeToString()


class Inspector:
    """Without a context whose shapes are set it tells no formats, as NVIDIA's documentation says."""

    execution_context: Any = None

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def get_engine_information(self, form: Any) -> str:
        known = self.execution_context is not None and self.execution_context.has_shapes
        form = "Int8" if known else "N/A due to dynamic shapes"
        layer = {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": form}]}
        return json.dumps({"Layers": [{"Name": name, **layer} for name in self._names]})


class EngineStandIn:
    def __init__(self, plan: bytes) -> None:
        facts, _, data = plan.removeprefix(MAGIC).partition(b"\n")
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
        return Inspector([node.name for node in self.model.graph.node if node.op_type in ("Conv", "Gemm")])

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> int:
        return Bindings.TensorIOMode.INPUT if name in self._inputs else Bindings.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> int:
        return Bindings.DataType.UINT8 if name in self.pixels else Bindings.DataType.FLOAT

    @property
    def pixels(self) -> set[str]:
        uint8 = onnx.TensorProto.UINT8
        return {one.name for one in self.model.graph.input if one.type.tensor_type.elem_type == uint8}

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.facts["shapes"][name]

    @property
    def _inputs(self) -> set[str]:
        return {entry.name for entry in self.model.graph.input}


class Context:
    profiler: Any = None
    _layer_name: Callable[[onnx.NodeProto], str] = staticmethod(lambda node: str(node.name))
    _ran: Callable[[int], None] = staticmethod(lambda stream: None)

    def __init__(self, engine: EngineStandIn) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    @property
    def has_shapes(self) -> bool:
        return bool(self._shapes)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        if not self._engine.facts["shares"]:
            raise RuntimeError("Error in set optimization profile async.")  # as the bindings do
        return profile == 0

    def execute_async_v3(self, stream: int) -> bool:
        self._ran(stream)
        feeds = {}
        for name, shape in self._shapes.items():
            kind = ctypes.c_uint8 if name in self._engine.pixels else ctypes.c_float
            found = (kind * int(np.prod(shape))).from_address(self._addresses[name])
            feeds[name] = np.ctypeslib.as_array(found).reshape(shape).copy()
        for name, value in self._engine.session.run_feeds(feeds).items():
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        for node in self._engine.model.graph.node if self.profiler is not None else ():
            if node.op_type in ("Conv", "Gemm"):
                self.profiler.report_layer_time(self._layer_name(node), 0.25)
        return True


class RuntimeStandIn:
    def __init__(self, logger: Any) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> EngineStandIn | None:
        return EngineStandIn(plan) if plan.startswith(MAGIC) else None


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
    PreviewFeature = IntEnum("PreviewFeature", ["PROFILE_SHARING_0806"])
    ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["DETAILED"])
    MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])
    TacticSource = IntEnum("TacticSource", {"EDGE_MASK_CONVOLUTIONS": 3, "JIT_CONVOLUTIONS": 4})
    TensorIOMode = IntEnum("TensorIOMode", ["INPUT", "OUTPUT"])
    DataType = IntEnum("DataType", ["FLOAT", "HALF", "UINT8"])
    LayerInformationFormat = IntEnum("LayerInformationFormat", ["JSON"])


class StrongBuilder(Builder):
    network_flags = 1 << 1
    """Types are those of the file."""


class Bindings11(Bindings):
    """What is known of the bindings of 11: no weak typing, no flags of precision but TF32."""

    __version__ = "11.4.0"
    Builder = StrongBuilder
    NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    BuilderFlag = IntEnum("BuilderFlag", ["TF32"])
    PreviewFeature = IntEnum("PreviewFeature", ["ALIASED_PLUGIN_IO_10_03"])


def stand_in(patch: pytest.MonkeyPatch, cache: Path) -> HostMemory:
    """A machine with a GPU and TensorRT 8.6, its engines kept in ``cache``; returns its device memory."""
    from limpq_deploy.export.runtimes.cuda.driver import CudaDriver, Gpu
    from limpq_deploy.export.runtimes.tensorrt import runtime, timed_call

    found = HostMemory()
    gpu = Gpu(name="NVIDIA H200", compute_capability="9.0", memory_mib=143771)
    patch.setenv("LIMPQ_CACHE", str(cache))
    patch.setattr(runtime, "unavailable", lambda: None)
    patch.setattr(runtime, "load_bindings", lambda: Bindings("tensorrt"))
    patch.setattr(runtime, "ask_driver", lambda: CudaDriver(cuda=(12, 4), gpus=(gpu,), problem=None))
    patch.setattr(runtime, "open_memory", lambda package: found)
    patch.setattr(timed_call.CudaGraph, "capture", lambda stream, enqueue: None)
    patch.setattr(Builder, "builds", 0)
    patch.setattr(Context, "_ran", found.ran)
    return found
