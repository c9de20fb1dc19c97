"""The NVIDIA driver, asked through ctypes before any library that would need it: some crash the process without one.

Only what all versions of ``libcuda`` have is called; nothing here raises for a machine without a GPU.
"""

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

NO_DEVICE = 100
_SAID = {
    3: "is shutting down or was not initialised",
    34: "is the stub that CUDA toolkits link against, not a driver; take its folder off LD_LIBRARY_PATH",
    NO_DEVICE: "finds no GPU",
    101: "finds no GPU that it may use",
    802: "waits for NVSwitch fabric manager; start that service",
    803: "is of another version than the kernel module; restart the machine, or install the driver again",
    804: "is a compatibility library that this GPU is not served by; install a newer driver",
}
"""What ``cuInit`` answers, in words; CUresult of the driver API."""

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device. ``compute_capability``: such as "9.0"; ``memory_mib``: all of its memory; ``pci``: its PCI bus id,
    such as "0000:3b:00.0", None where the driver does not tell."""

    name: str
    compute_capability: str
    memory_mib: int
    pci: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaDriver:
    """What the driver says. ``cuda``: newest CUDA that it serves, such as (12, 4), None where it does not load.
    ``problem``: why no GPU can be used, in one sentence; None where one can."""

    cuda: tuple[int, int] | None
    gpus: tuple[Gpu, ...]
    problem: str | None


def ask_driver(library: str = LIBRARY) -> CudaDriver:
    """Load the driver, initialise it, and list its GPUs. Never raises for what it finds."""
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        missing = "No such file" in str(error)
        why = f"{library} is not found" if missing else f"{library} cannot be loaded: {_first(error)}"
        return _without(f"no NVIDIA driver here ({why})")
    cuda = None
    try:
        version = ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(version)) == 0:
            cuda = (version.value // 1000, version.value % 1000 // 10)
        status = driver.cuInit(0)
        if status != 0:
            return _without(f"the NVIDIA driver {_why(status)}{_hidden()}", cuda)
        gpus = _gpus(driver)
    except AttributeError as error:
        return _without(f"{library} is no NVIDIA driver ({_first(error)}); install the driver again", cuda)
    if not gpus:
        return _without(f"the NVIDIA driver finds no GPU{_hidden()}", cuda)
    return CudaDriver(cuda=cuda, gpus=gpus, problem=None)


def too_old(driver: CudaDriver, needed: tuple[int, int], what: str) -> str | None:
    """One sentence where the driver serves an older CUDA than ``what`` was built for; None where it does not."""
    if driver.cuda is None or driver.cuda >= needed:
        return None
    return (
        f"{what} needs a driver for CUDA {needed[0]}.{needed[1]}, and this one serves CUDA "
        f"{driver.cuda[0]}.{driver.cuda[1]}; install a newer NVIDIA driver, or an older {what.split()[0]}"
    )


def _gpus(driver: Any) -> tuple[Gpu, ...]:
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(gpu for index in range(count.value) if (gpu := _gpu(driver, index)) is not None)


def _gpu(driver: Any, index: int) -> Gpu | None:
    device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
        return None
    failed = (
        driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    if failed:
        return None
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory_mib=memory.value // 2**20,
        pci=_pci(driver, device),
    )


def _pci(driver: Any, device: ctypes.c_int) -> str | None:
    """What NVML knows the device by; a driver that does not tell is one all the same."""
    ask = getattr(driver, "cuDeviceGetPCIBusId", None)
    text = ctypes.create_string_buffer(32)
    if ask is None or ask(text, len(text), device) != 0:
        return None
    return text.value.decode(errors="replace") or None


def _without(problem: str, cuda: tuple[int, int] | None = None) -> CudaDriver:
    return CudaDriver(cuda=cuda, gpus=(), problem=problem)


def _why(status: int) -> str:
    return _SAID.get(status, f"does not start (cuInit gives {status})")


def _hidden() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}, which may hide it"


def _first(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix(f"{LIBRARY}: ")
