"""A stand-in for NVIDIA's driver, compiled here: the real library is where a GPU is. It counts host memory as device
memory, and does in order what it is asked."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#ifndef STATUS
#define STATUS 0
#endif
#ifndef GPUS
#define GPUS 1
#endif
#ifndef CUDA
#define CUDA 12040
#endif
typedef void *handle;
static double clock_ms = 0;
int graph_launches = 0;
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = CUDA; return 0; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < GPUS ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stand-in GPU", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)143771 << 20; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return 0; }
int cuStreamBeginCapture_v2(handle stream, int mode) { return CAPTURE; }
int cuStreamEndCapture(handle stream, handle *graph) { *graph = (handle)1; return CAPTURE; }
int cuGraphInstantiateWithFlags(handle *executable, handle graph, unsigned long long flags)
{ *executable = (handle)2; return 0; }
int cuGraphDestroy(handle graph) { return 0; }
int cuGraphLaunch(handle executable, handle stream) { graph_launches++; return executable == (handle)2 ? 0 : 400; }
"""


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., str]:
    """Compile the stand-in: (STATUS=100, GPUS=0, CUDA=11020, CAPTURE=0) -> path of the library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a stand-in for the driver")

    def make(**settings: int) -> str:
        library = tmp_path / f"libcuda{len(list(tmp_path.iterdir()))}.so"
        defines = [f"-D{name}={value}" for name, value in ({"CAPTURE": 0} | settings).items()]
        command = [compiler, "-shared", "-fPIC", *defines, "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=DRIVER, text=True, check=True)
        return str(library)

    return make


@pytest.fixture
def loaded() -> Callable[[str], ctypes.CDLL]:
    """The library itself, to ask what it counted."""
    return ctypes.CDLL
