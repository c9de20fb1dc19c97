"""One execution context of a TensorRT engine with its stream and buffers: what one run at a time needs."""

import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.runtimes.cuda.memory import CudaMemory

if TYPE_CHECKING:
    import tensorrt as trt

FLOAT32_BYTES = 4
"""Bytes of a float32; inputs and results of our files are float32, but for images that are pixels."""


class Lane:
    """Several lanes of one engine run at once, each on a stream of its own; they share the engine's weights."""

    def __init__(
        self,
        engine: "trt.ICudaEngine",
        memory: CudaMemory,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        *,
        context: "trt.IExecutionContext",
        further: bool = False,
        pixels: Collection[str] = (),
    ) -> None:
        """``context``: a new one of the engine. ``further``: not the engine's first context, which alone has the
        optimisation profile by itself. ``pixels``: inputs that take uint8. Raises ModelError where the engine does not
        let a second context have the profile."""
        self._engine, self._memory = engine, memory
        self._inputs, self._outputs, self._pixels = inputs, outputs, frozenset(pixels)
        self._context = context
        self.stream = memory.stream()
        self._room = 0
        self._owned: list[int] = []
        self._buffers: dict[str, int] = {}
        self._hosts: dict[str, NDArray[np.uint8]] = {}
        self._give_back = weakref.finalize(self, _give_back, memory, self.stream, self._owned)
        self._give_back.atexit = False  # the driver does it then
        if further:
            self._share_profile()

    def bind(self, batch: int) -> None:
        """Set the batch and the addresses. Raises ModelError where TensorRT refuses one."""
        if batch > self._room:
            self._allocate(batch)
        for name in self._inputs:
            shape = (batch, *tuple(self._engine.get_tensor_shape(name))[1:])
            if not self._context.set_input_shape(name, shape):
                raise ModelError(f"the engine refuses the shape {list(shape)} of {name!r}; build it for that batch")
        for name, address in self._buffers.items():
            if not self._context.set_tensor_address(name, address):
                raise ModelError(f"the engine knows no tensor {name!r}; build it again")

    def put(self, name: str, value: NDArray[np.float32]) -> None:
        """Start copying an input to the device, by way of page-locked memory of the lane's own."""
        flat = self.as_bytes(name, value)
        host = self._hosts[name][: len(flat)]
        host[:] = flat
        self.copy_in(name, host)

    def as_bytes(self, name: str, value: NDArray[np.float32]) -> NDArray[np.uint8]:
        """An input as the device reads it. Raises ModelError for images that are no pixels where it takes those."""
        if name in self._pixels:
            from limpq_deploy.export.graph.pixel_input import as_pixels

            return np.ascontiguousarray(as_pixels(value)).reshape(-1)
        return np.ascontiguousarray(value, np.float32).reshape(-1).view(np.uint8)

    def copy_in(self, name: str, host: NDArray[np.uint8]) -> None:
        """Start copying an input to the device from page-locked memory, which must stay until the copy is done."""
        self._memory.to_device(self._buffers[name], host, self.stream)

    def enqueue(self) -> bool:
        """Start one run on the stream; whether it could be."""
        return bool(self._context.execute_async_v3(self.stream))

    def run(self) -> None:
        """Start one run on the stream. Raises ModelError where it cannot be."""
        if not self.enqueue():
            raise ModelError("the engine does not run; build it again (TensorRT's reason is in its log)")

    def copy_out(self, batch: int) -> None:
        """Start copying the results to the host."""
        for name in self._outputs:
            size = batch * self._row_bytes(name)
            self._memory.to_host(self._hosts[name][:size], self._buffers[name], self.stream)

    def result(self, name: str, batch: int) -> NDArray[np.float32]:
        """A result on the host, valid until the next copy."""
        shape = (batch, *tuple(self._engine.get_tensor_shape(name))[1:])
        return self._hosts[name][: batch * self._row_bytes(name)].view(np.float32).reshape(shape)

    def report_to(self, profiler: "trt.IProfiler") -> None:
        """Times of layers go to the profiler from now on; whoever made it keeps it alive."""
        self._context.profiler = profiler

    def show_to(self, inspector: "trt.EngineInspector") -> None:
        """Let the engine's inspector know the shapes that are bound: without them it shows no formats."""
        inspector.execution_context = self._context

    def wait(self) -> None:
        """Until everything in the stream is done; at once after `close`."""
        if self._give_back.alive:
            self._memory.wait(self.stream)

    def close(self) -> None:
        """Give stream and device memory back, as the garbage collector does with a lane that nobody has any more."""
        self._give_back()
        self._buffers.clear()
        self._room = 0

    def _share_profile(self) -> None:
        try:
            shared = bool(self._context.set_optimization_profile_async(0, self.stream))
        except RuntimeError:  # what the bindings make of a refusal
            shared = False
        if not shared:
            raise ModelError(
                "the engine runs one batch at a time, for its contexts do not share an optimisation profile; build it "
                "again, or leave streams at 1"
            )
        self.wait()

    def _allocate(self, batch: int) -> None:
        """Buffers for so many images. Older ones stay until `close`: a captured graph may hold their addresses."""
        for name in (*self._inputs, *self._outputs):
            size = batch * self._row_bytes(name)
            self._buffers[name] = self._memory.alloc(size)
            self._owned.append(self._buffers[name])
            self._hosts[name] = self._memory.pinned(size)
        self._room = batch

    def _row_bytes(self, name: str) -> int:
        """Bytes of a tensor for one image."""
        each = 1 if name in self._pixels else FLOAT32_BYTES
        return each * int(np.prod(tuple(self._engine.get_tensor_shape(name))[1:], dtype=np.int64))


def _give_back(memory: CudaMemory, stream: int, owned: list[int]) -> None:
    memory.wait(stream)
    while owned:
        memory.free(owned.pop())
    memory.end_stream(stream)
