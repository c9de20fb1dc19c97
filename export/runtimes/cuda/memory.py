"""Device memory, streams and events of one GPU behind one small adapter: pycuda, or cuda-python where it is missing.

Both work in the device's primary context, the one that TensorRT uses, and hand out plain integers (addresses, stream
handles), so that nothing else of this program knows either package. A CUDA graph is captured through the driver itself:
pycuda has no calls for it.
"""

import ctypes
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable
from limpq_deploy.export.runtimes.cuda.driver import LIBRARY, ask_driver

PACKAGES = ("pycuda", "cuda-python")
"""Adapters, in the order in which they are tried."""

NONE_INSTALLED = (
    "neither pycuda nor cuda-python is installed (run pip install 'limpq-deploy[gpu]', or pip install cuda-python)"
)

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may use the device meanwhile."""


class CudaFailed(RuntimeUnavailable):
    """A call of the driver failed; the sentence names the call."""


class CudaMemory(Protocol):
    """What a session needs of the device. Addresses and streams are integers; sizes are bytes. To be used from the
    thread that opened it, whose context it makes current."""

    @property
    def package(self) -> str:
        """Which package does the work, with its version."""
        ...

    def alloc(self, size: int) -> int: ...

    def free(self, address: int) -> None: ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Page-locked host memory; it lives as long as the array and its views."""
        ...

    def stream(self) -> int: ...

    def end_stream(self, stream: int) -> None: ...

    def event(self) -> Any: ...

    def record(self, event: Any, stream: int) -> None: ...

    def follow(self, stream: int, event: Any) -> None:
        """What is put into the stream from now on waits for the event, as recorded last."""
        ...

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Milliseconds between two events, once the second has happened."""
        ...

    def to_device(self, address: int, host: NDArray[Any], stream: int) -> None:
        """Start a copy from page-locked memory."""
        ...

    def to_host(self, host: NDArray[Any], address: int, stream: int) -> None: ...

    def wait(self, stream: int) -> None:
        """Until everything in the stream is done."""
        ...

    def reach(self, event: Any) -> None:
        """Until an event has happened."""
        ...


def open_memory(package: str | None = None, device: int = 0) -> CudaMemory:
    """The device's memory through ``package``, or through the first one that is installed.

    Raises RuntimeUnavailable without a GPU or where a package does not load, MissingExtra where none is installed.
    """
    problem = ask_driver().problem
    if problem is not None:
        raise RuntimeUnavailable(problem)
    found = [package] if package is not None else [name for name in PACKAGES if _installed(name)]
    if not found:
        raise MissingExtra(NONE_INSTALLED)
    return _opened(found[0], device)


@cache
def _opened(package: str, device: int) -> CudaMemory:
    """One adapter for a process: its context is the device's own anyway."""
    return _MAKERS[package](device)


def package_problem() -> str | None:
    """Why neither package can be used, in one sentence; None where one is installed. Loads neither."""
    if any(_installed(name) for name in PACKAGES):
        return None
    return NONE_INSTALLED


class PyCudaMemory:
    """pycuda's driver interface."""

    def __init__(self, device: int = 0) -> None:
        try:
            import pycuda
            import pycuda.driver as cuda
        except ModuleNotFoundError as error:
            raise MissingExtra("pycuda is not installed; run pip install 'limpq-deploy[gpu]'") from error
        except (ImportError, OSError) as error:
            raise RuntimeUnavailable(f"pycuda is installed but does not load ({error}); build it again here") from error
        self._cuda = cuda
        self.package = f"pycuda {pycuda.VERSION_TEXT}"
        cuda.init()
        self._context = cuda.Device(device).retain_primary_context()
        self._context.push()
        self._kept: dict[int, Any] = {}
        _at_exit(self._leave)

    def alloc(self, size: int) -> int:
        allocation = self._cuda.mem_alloc(size)
        self._kept[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._kept.pop(address).free()

    def pinned(self, size: int) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = self._cuda.pagelocked_empty(size, np.uint8)
        return array

    def stream(self) -> int:
        stream = self._cuda.Stream()
        self._kept[int(stream.handle)] = stream
        return int(stream.handle)

    def end_stream(self, stream: int) -> None:
        del self._kept[stream]

    def event(self) -> Any:
        return self._cuda.Event()

    def record(self, event: Any, stream: int) -> None:
        event.record(self._kept[stream])

    def follow(self, stream: int, event: Any) -> None:
        self._kept[stream].wait_for_event(event)

    def elapsed_ms(self, first: Any, second: Any) -> float:
        self.reach(second)
        return float(second.time_since(first))

    def to_device(self, address: int, host: NDArray[Any], stream: int) -> None:
        self._cuda.memcpy_htod_async(address, host, self._kept[stream])

    def to_host(self, host: NDArray[Any], address: int, stream: int) -> None:
        self._cuda.memcpy_dtoh_async(host, address, self._kept[stream])

    def wait(self, stream: int) -> None:
        self._kept[stream].synchronize()

    def reach(self, event: Any) -> None:
        event.synchronize()

    def _leave(self) -> None:
        """pycuda ends the process with an error where a context is still on its stack."""
        self._kept.clear()
        self._context.pop()


class CudaPythonMemory:
    """NVIDIA's cuda-python: the driver's functions, each of which answers (status, results...)."""

    def __init__(self, device: int = 0) -> None:
        cuda, version = _cuda_python()
        self._cuda = cuda
        self.package = f"cuda-python {version}"
        self._call("cuInit", 0)
        handle = self._call("cuDeviceGet", device)
        self._call("cuCtxSetCurrent", self._call("cuDevicePrimaryCtxRetain", handle))

    def alloc(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        owned = _Owned(int(self._call("cuMemHostAlloc", size, 0)), self._cuda.cuMemFreeHost)
        memory: Any = (ctypes.c_uint8 * size).from_address(owned.handle)
        memory.owned = owned  # the array and all its views hold ``memory``
        return np.ctypeslib.as_array(memory)

    def stream(self) -> int:
        return int(self._call("cuStreamCreate", 0))

    def end_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def event(self) -> Any:
        return _Owned(self._call("cuEventCreate", 0), self._cuda.cuEventDestroy)

    def record(self, event: Any, stream: int) -> None:
        self._call("cuEventRecord", event.handle, stream)

    def follow(self, stream: int, event: Any) -> None:
        self._call("cuStreamWaitEvent", stream, event.handle, 0)

    def elapsed_ms(self, first: Any, second: Any) -> float:
        self.reach(second)
        return float(self._call("cuEventElapsedTime", first.handle, second.handle))

    def to_device(self, address: int, host: NDArray[Any], stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, host.ctypes.data, host.nbytes, stream)

    def to_host(self, host: NDArray[Any], address: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", host.ctypes.data, address, host.nbytes, stream)

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def reach(self, event: Any) -> None:
        self._call("cuEventSynchronize", event.handle)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            raise CudaFailed(f"{name} gives {int(status)} ({status}); the GPU is busy, out of memory, or failing")
        return results[0] if results else None


class _Owned:
    """A handle of the driver, given back when nobody has it any more; at the end of the process the driver does it."""

    def __init__(self, handle: Any, give_back: Callable[[Any], object]) -> None:
        self.handle = handle
        weakref.finalize(self, give_back, handle).atexit = False


class CudaGraph:
    """One enqueue, captured and launched again without its cost on the host.

    ``capture`` gives None where the work cannot be captured: it is then launched plainly.
    """

    def __init__(self, driver: Any, graph: ctypes.c_void_p, stream: int) -> None:
        self._driver, self._graph, self._stream = driver, graph, ctypes.c_void_p(stream)
        weakref.finalize(self, driver.cuGraphExecDestroy, graph).atexit = False

    @classmethod
    def capture(cls, stream: int, enqueue: Callable[[], bool], library: str = LIBRARY) -> "CudaGraph | None":
        """Capture what ``enqueue`` puts into ``stream``; it must have run plainly once before."""
        driver = ctypes.CDLL(library)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        handle = ctypes.c_void_p(stream)
        if driver.cuStreamBeginCapture_v2(handle, ctypes.c_int(_THREAD_LOCAL)) != 0:
            return None
        done = False
        try:
            done = enqueue()
        finally:
            ended = driver.cuStreamEndCapture(handle, ctypes.byref(graph))
        if ended != 0 or not done or not graph:
            return None
        flags = ctypes.c_ulonglong(0)
        made = driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, flags)
        driver.cuGraphDestroy(graph)
        return cls(driver, executable, stream) if made == 0 else None

    def launch(self) -> None:
        status = self._driver.cuGraphLaunch(self._graph, self._stream)
        if status != 0:
            raise CudaFailed(f"cuGraphLaunch gives {status}; measure without a CUDA graph")


def _cuda_python() -> tuple[Any, str]:
    try:
        try:
            from cuda.bindings import driver
        except ModuleNotFoundError as error:
            if error.name not in ("cuda", "cuda.bindings"):
                raise ImportError(str(error)) from error
            from cuda import cuda as driver  # before cuda-python 12.6
    except ModuleNotFoundError as error:
        raise MissingExtra("cuda-python is not installed; run pip install cuda-python") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeUnavailable(f"cuda-python is installed but does not load ({error}); install it again") from error
    return driver, _version("cuda-bindings") or _version("cuda-python") or "of unknown version"


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    modules = {"pycuda": ("pycuda",), "cuda-python": ("cuda.bindings", "cuda.cuda")}[package]
    for module in modules:
        try:
            if find_spec(module) is not None:
                return True
        except (ImportError, ValueError):
            continue
    return False


def _at_exit(function: Callable[[], None]) -> None:
    import atexit

    atexit.register(function)


_MAKERS: dict[str, Callable[[int], CudaMemory]] = {"pycuda": PyCudaMemory, "cuda-python": CudaPythonMemory}
