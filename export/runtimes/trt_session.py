"""A loaded TensorRT engine: run on images, timed on the device, profiled by layer."""

import itertools
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.engine_inspect import parse_inspector
from limpq_deploy.export.engine_record import EngineLayer, Machine
from limpq_deploy.export.runtimes.base import DeviceCall
from limpq_deploy.export.runtimes.cuda_memory import CudaGraph, CudaMemory
from limpq_deploy.export.runtimes.trt_log import BuildLog, make_logger

if TYPE_CHECKING:
    import tensorrt as trt

FLOAT = 4
"""Bytes of a float32; inputs and results of our files are float32."""

PROFILE_WARM_UP = 10
"""Runs before profiled ones, whose first would time lazy loading of kernels."""


class TensorRtSession:
    """One engine with its context, stream and buffers. Images and logits are float32; a batch larger than the engine
    takes is run in parts, a smaller one is padded with zeros."""

    def __init__(
        self, trt: ModuleType, plan: bytes, memory: CudaMemory, machine: Machine, facts: dict[str, Any]
    ) -> None:
        """``plan`` must have been checked before (`engine_record.require_usable`): loading it runs its code."""
        self._trt, self._memory, self._machine, self._facts = trt, memory, machine, facts
        self.log = BuildLog()
        self._logger = make_logger(trt, self.log)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(
                f"TensorRT does not load the plan ({self.log.last_error or 'no reason given'}); build it again"
            )
        self._engine = engine
        self._context = engine.create_execution_context()
        self._stream = memory.stream()
        self.inputs, self.outputs = _tensors(trt, engine)
        self._shape = tuple(engine.get_tensor_shape(self.inputs[0]))
        self._least, self._most = _batches(engine, self.inputs[0], self._shape)
        self._plan = plan
        self._room = 0
        self._owned: list[int] = []
        self._buffers: dict[str, int] = {}
        self._hosts: dict[str, NDArray[np.uint8]] = {}
        self._mode: str | None = None

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return tuple(size if size > 0 else None for size in self._shape)

    def run(self, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.run_feeds({self.inputs[0]: images_NCHW})[self.outputs[0]]

    def run_feeds(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """All results of a batch, by name, for a model of one or more inputs."""
        if set(feeds) != set(self.inputs):
            raise ModelError(f"the engine has the inputs {list(self.inputs)}, not {list(feeds)}")
        for name, value in feeds.items():
            shape = tuple(self._engine.get_tensor_shape(name))
            if value.shape[1:] != shape[1:]:
                raise ModelError(
                    f"{name!r} takes the shape {list(shape[1:])} for each image, not {list(value.shape[1:])}"
                )
        count = len(feeds[self.inputs[0]])
        parts = [
            self._run_part({name: value[at : at + self._most] for name, value in feeds.items()})
            for at in range(0, count, self._most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def timed(self, batches: Sequence[NDArray[np.float32]], *, graph: bool = True) -> DeviceCall:
        """A call that runs the batches (of one size) in turn and times its parts by the device's own clock.

        ``graph``: capture a CUDA graph where that works; a graph holds one input's address, so batches are
        copied into it. Raises ModelError for a batch that the engine does not take.
        """
        call = TensorRtCall(self, batches, graph=graph)
        self._mode = call.mode
        return call

    def layer_times(self, images_NCHW: NDArray[np.float32], runs: int) -> dict[str, tuple[float, ...]]:
        """Milliseconds of each layer of the engine in each of so many runs, by the engine's own profiler; a run of its
        own, for profiling slows the whole."""
        times: dict[str, list[float]] = {}
        trt = self._trt

        class Profiler(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        engine = self._runtime.deserialize_cuda_engine(self._plan)  # a profile serves one context of an engine
        context = engine.create_execution_context()
        self._bind(context, len(images_NCHW))
        self._put(self.inputs[0], images_NCHW)
        for _ in range(PROFILE_WARM_UP):
            context.execute_async_v3(self._stream)
        self._memory.wait(self._stream)
        profiler = Profiler()
        context.profiler = profiler
        for _ in range(runs):
            if not context.execute_async_v3(self._stream):
                raise ModelError(f"the engine does not run ({self.log.last_error})")
            self._memory.wait(self._stream)
        return {name: tuple(values) for name, values in times.items()}

    def layers(self) -> tuple[EngineLayer, ...]:
        """What the engine's inspector says of its layers."""
        inspector = self._engine.create_engine_inspector()
        return parse_inspector(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def environment(self) -> dict[str, Any]:
        return {
            "runtime": "tensorrt",
            "version": self._machine.tensorrt,
            "provider": self._machine.gpu,
            "threads": None,
            "accelerator": accelerator(self._machine),
            "memory_package": self._memory.package,
            "mode": self._mode,
            **self._facts,
        }

    def prepare(self, batch: int) -> None:
        """Set the batch and the addresses; raises ModelError for one that the engine does not take."""
        if not self._least <= batch <= self._most:
            raise ModelError(
                f"the engine takes {self._least} to {self._most} images at once, not {batch}; build it with "
                f"--batch {min(self._least, batch)}:{batch}:{max(self._most, batch)}"
            )
        self._bind(self._context, batch)

    def enqueue(self) -> bool:
        """Start one run on the stream."""
        return bool(self._context.execute_async_v3(self._stream))

    def copy_in(self, images_NCHW: NDArray[np.float32]) -> None:
        """Start copying images to the device."""
        self._put(self.inputs[0], images_NCHW)

    def copy_out(self, batch: int) -> None:
        """Start copying the results to the host."""
        for name in self.outputs:
            size = batch * self._row_bytes(name)
            self._memory.to_host(self._hosts[name][:size], self._buffers[name], self._stream)

    def close(self) -> None:
        """Give the device memory back; the session cannot be used afterwards."""
        self._memory.wait(self._stream)
        self._buffers.clear()
        while self._owned:
            self._memory.free(self._owned.pop())

    @property
    def stream(self) -> int:
        return self._stream

    @property
    def memory(self) -> CudaMemory:
        return self._memory

    def _run_part(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        count = len(feeds[self.inputs[0]])
        batch = max(count, self._least)
        self.prepare(batch)
        for name, value in feeds.items():
            self._put(name, np.concatenate([value, np.zeros((batch - count, *value.shape[1:]), np.float32)]))
        if not self.enqueue():
            raise ModelError(f"the engine does not run ({self.log.last_error or 'no reason given'}); build it again")
        self.copy_out(batch)
        self._memory.wait(self._stream)
        return {name: self._result(name, batch)[:count].copy() for name in self.outputs}

    def _result(self, name: str, batch: int) -> NDArray[np.float32]:
        shape = (batch, *tuple(self._engine.get_tensor_shape(name))[1:])
        return self._hosts[name][: batch * self._row_bytes(name)].view(np.float32).reshape(shape)

    def _put(self, name: str, value: NDArray[np.float32]) -> None:
        flat = np.ascontiguousarray(value, np.float32).reshape(-1).view(np.uint8)
        host = self._hosts[name][: len(flat)]
        host[:] = flat
        self._memory.to_device(self._buffers[name], host, self._stream)

    def _bind(self, context: "trt.IExecutionContext", batch: int) -> None:
        if batch > self._room:
            self._allocate(batch)
        for name in self.inputs:
            context.set_input_shape(name, (batch, *tuple(self._engine.get_tensor_shape(name))[1:]))
        for name, address in self._buffers.items():
            context.set_tensor_address(name, address)

    def _allocate(self, batch: int) -> None:
        """Buffers for so many images. Older ones stay until `close`: a captured graph may hold their addresses."""
        for name in (*self.inputs, *self.outputs):
            size = batch * self._row_bytes(name)
            self._buffers[name] = self._memory.alloc(size)
            self._hosts[name] = self._memory.pinned(size)
        self._owned += self._buffers.values()
        self._room = batch

    def _row_bytes(self, name: str) -> int:
        """Bytes of a tensor for one image."""
        return FLOAT * int(np.prod(tuple(self._engine.get_tensor_shape(name))[1:], dtype=np.int64))


class TensorRtCall:
    """One timed call, see `base.DeviceCall`. Parts: "copy_in", "compute" and "copy_out" between events of the stream,
    "enqueue" on the host's clock. ``mode``: "cuda graph", or "enqueue" where none was captured."""

    main_part = "compute"

    def __init__(self, session: TensorRtSession, batches: Sequence[NDArray[np.float32]], *, graph: bool) -> None:
        self._session, self._batch = session, len(batches[0])
        self._turn = itertools.cycle(batches)
        session.prepare(self._batch)
        session.copy_in(batches[0])
        session.enqueue()  # the first run allocates, which no graph can hold
        session.memory.wait(session.stream)
        self._graph = CudaGraph.capture(session.stream, session.enqueue) if graph else None
        self._events = [session.memory.event() for _ in range(4)]
        self._enqueue_ms = 0.0

    @property
    def mode(self) -> str:
        return "enqueue" if self._graph is None else "cuda graph"

    def __call__(self) -> None:
        session, record = self._session, self._session.memory.record
        before, start, end, after = self._events
        record(before, session.stream)
        session.copy_in(next(self._turn))
        record(start, session.stream)
        began = time.perf_counter_ns()
        if self._graph is not None:
            self._graph.launch()
        else:
            session.enqueue()
        self._enqueue_ms = (time.perf_counter_ns() - began) / 1e6
        record(end, session.stream)
        session.copy_out(self._batch)
        record(after, session.stream)
        session.memory.wait(session.stream)

    def parts_ms(self) -> Mapping[str, float]:
        elapsed = self._session.memory.elapsed_ms
        before, start, end, after = self._events
        return {
            "compute": elapsed(start, end),
            "enqueue": self._enqueue_ms,
            "copy_in": elapsed(before, start),
            "copy_out": elapsed(end, after),
        }


def accelerator(machine: Machine) -> dict[str, str | int | None]:
    """What `Environment.accelerator` keeps of a GPU."""
    return {
        "name": machine.gpu,
        "compute_capability": machine.compute_capability,
        "driver": machine.driver,
        "cuda": machine.cuda,
        "memory_mib": machine.memory_mib,
    }


def _tensors(trt: ModuleType, engine: "trt.ICudaEngine") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of inputs and of results."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = tuple(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    results = tuple(name for name in names if name not in inputs)
    wrong = [name for name in names if engine.get_tensor_dtype(name) != trt.DataType.FLOAT]
    if not inputs or not results or wrong:
        raise ModelError(
            f"the engine has inputs {list(inputs)} and results {list(results)}, of which {wrong or 'none'} are "
            "not float32; expected float32 throughout"
        )
    return inputs, results


def _batches(engine: "trt.ICudaEngine", name: str, shape: Sequence[int]) -> tuple[int, int]:
    """Smallest and largest batch."""
    if shape[0] > 0:
        return shape[0], shape[0]
    least, _, most = engine.get_tensor_profile_shape(name, 0)
    return int(least[0]), int(most[0])
