"""A loaded TensorRT engine: run on images, timed on the device, profiled by layer."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.runtimes.base import DeviceCall
from limpq_deploy.export.runtimes.cuda.memory import CudaMemory
from limpq_deploy.export.runtimes.tensorrt.inspect import Inspection, read_inspector, samples_by_layer
from limpq_deploy.export.runtimes.tensorrt.lane import Lane
from limpq_deploy.export.runtimes.tensorrt.log import BuildLog, make_logger
from limpq_deploy.export.runtimes.tensorrt.timed_call import TensorRtCall

if TYPE_CHECKING:
    import tensorrt as trt

PROFILE_WARM_UP = 10
"""Runs before profiled ones, whose first would time lazy loading of kernels."""


class TensorRtSession:
    """One engine with its contexts. Images and logits are float32 (images that are pixels, too: whole numbers from 0 to
    255); a batch larger than the engine takes is run in parts, a smaller one is padded with zeros."""

    name = "tensorrt"
    product = "TensorRT"

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
                f"{self.product} does not load the plan ({self.log.last_error or 'no reason given'}); build it again"
            )
        self._engine = engine
        self.inputs, self.outputs = _tensors(trt, engine)
        self._pixels = tuple(name for name in self.inputs if engine.get_tensor_dtype(name) == trt.DataType.UINT8)
        self._shape = tuple(engine.get_tensor_shape(self.inputs[0]))
        self._least, self._best, self._most = _batches(engine, self.inputs[0], self._shape)
        self._plan = plan
        self._lanes: list[Lane] = []
        self._mode: str | None = None

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return tuple(size if size > 0 else None for size in self._shape)

    def run(self, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.run_feeds({self.inputs[0]: images_NCHW})[self.outputs[0]]

    def run_all(self, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        found = self.run_feeds({self.inputs[0]: images_NCHW})
        return tuple(found[name] for name in self.outputs)

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

    def timed(self, batches: Sequence[NDArray[np.float32]], *, graph: bool = True, streams: int = 1) -> DeviceCall:
        """A call that runs the batches (of one size) in turn and times its parts by the device's own clock.

        ``graph``: capture a CUDA graph where that works; a graph holds one input's address, so batches are copied
        into it. ``streams``: batches run at once, each by a context of its own. Raises ModelError for a batch
        that the engine does not take.
        """
        self._check_batch(len(batches[0]))
        lanes = self._first_lanes(streams)
        for lane in lanes:
            lane.bind(len(batches[0]))
        call = TensorRtCall(lanes, self._memory, self.inputs[0], batches, graph=graph)
        self._mode = call.mode
        return call

    def layer_times(self, images_NCHW: NDArray[np.float32], runs: int) -> dict[str, tuple[float, ...]]:
        """Milliseconds of each layer of the engine in each of so many runs, by the engine's own profiler; a run of its
        own, for profiling slows the whole. Layers of one name are told apart as in `layers`."""
        reported: list[tuple[str, float]] = []
        trt = self._trt

        class Profiler(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                reported.append((layer_name, ms))

        self._check_batch(len(images_NCHW))
        engine = self._runtime.deserialize_cuda_engine(self._plan)  # a profile serves one context of an engine
        lane = Lane(engine, self._memory, self.inputs, self.outputs, context=self._context(engine))
        lane.bind(len(images_NCHW))
        lane.put(self.inputs[0], images_NCHW)
        for _ in range(PROFILE_WARM_UP):
            lane.run()
        lane.wait()
        profiler = Profiler()
        lane.report_to(profiler)
        for _ in range(runs):
            lane.run()
            lane.wait()
        lane.close()
        return samples_by_layer(reported, runs)

    def inspect(self) -> Inspection:
        """What the engine's inspector says of its layers, with the formats at the batch that the engine is best at."""
        [lane] = self._first_lanes(1)
        lane.bind(self._best)
        inspector = self._engine.create_engine_inspector()
        lane.show_to(inspector)
        return read_inspector(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def environment(self) -> dict[str, Any]:
        return {
            "runtime": self.name,
            "version": self._machine.tensorrt,
            "provider": self._machine.gpu,
            "threads": None,
            "accelerator": accelerator(self._machine),
            "memory_package": self._memory.package,
            "mode": self._mode,
            **self._facts,
        }

    def _check_batch(self, batch: int) -> None:
        if not self._least <= batch <= self._most:
            raise ModelError(
                f"the engine takes {self._least} to {self._most} images at once, not {batch}; build it with "
                f"--batch {min(self._least, batch)}:{batch}:{max(self._most, batch)}"
            )

    def close(self) -> None:
        """Give streams and device memory back; the session cannot be used afterwards."""
        while self._lanes:
            self._lanes.pop().close()

    def _run_part(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        count = len(feeds[self.inputs[0]])
        batch = max(count, self._least)
        self._check_batch(batch)
        [lane] = self._first_lanes(1)
        lane.bind(batch)
        for name, value in feeds.items():
            lane.put(name, np.concatenate([value, np.zeros((batch - count, *value.shape[1:]), np.float32)]))
        if not lane.enqueue():
            raise ModelError(f"the engine does not run ({self.log.last_error or 'no reason given'}); build it again")
        lane.copy_out(batch)
        lane.wait()
        return {name: lane.result(name, batch)[:count].copy() for name in self.outputs}

    def _first_lanes(self, count: int) -> list[Lane]:
        """So many lanes, made when they are first asked for: each context takes memory."""
        for number in range(len(self._lanes), count):
            self._lanes.append(
                Lane(
                    self._engine,
                    self._memory,
                    self.inputs,
                    self.outputs,
                    context=self._context(self._engine),
                    further=number > 0,
                    pixels=self._pixels,
                )
            )
        return self._lanes[:count]

    def _context(self, engine: "trt.ICudaEngine") -> "trt.IExecutionContext":
        """A new context of an engine. Raises ModelError where there is no memory for one."""
        context = engine.create_execution_context()
        if context is None:
            raise ModelError("TensorRT makes no execution context of the engine; free memory of the GPU and try again")
        return context


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
    taken = dict.fromkeys(inputs, (trt.DataType.FLOAT, trt.DataType.UINT8))
    wrong = [name for name in names if engine.get_tensor_dtype(name) not in taken.get(name, (trt.DataType.FLOAT,))]
    if not inputs or not results or wrong:
        raise ModelError(
            f"the engine has inputs {list(inputs)} and results {list(results)}, of which {wrong or 'none'} are "
            "not float32; expected float32 throughout, but for images of uint8"
        )
    return inputs, results


def _batches(engine: "trt.ICudaEngine", name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Smallest, best and largest batch."""
    if shape[0] > 0:
        return shape[0], shape[0], shape[0]
    least, best, most = engine.get_tensor_profile_shape(name, 0)
    return int(least[0]), int(best[0]), int(most[0])
