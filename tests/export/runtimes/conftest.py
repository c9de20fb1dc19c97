"""Stand-ins: for NVIDIA's driver, compiled here (it counts host memory as device memory, and does in order what it is
asked), and a machine with TensorRT and a GPU, as far as the runtime can see."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .tensorrt.trt_stand_in import HostMemory

DRIVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
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
static void *self(void)
{
    Dl_info here;
    return dladdr(&clock_ms, &here) ? dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD) : 0;
}
int graph_launches = 0;
int cuInit(unsigned flags) { return STATUS; }
int cuDriverGetVersion(int *version) { *version = CUDA; return 0; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < GPUS ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stand-in GPU", size); return 0; }
int cuDeviceGetPCIBusId(char *text, int size, int device)
{ snprintf(text, size, "0000:%02x:00.0", 0x3b + device); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)143771 << 20; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return 0; }
int cuStreamBeginCapture_v2(handle stream, int mode) { return CAPTURE; }
int cuStreamEndCapture(handle stream, handle *graph) { *graph = (handle)1; return CAPTURE; }
int cuGraphInstantiateWithFlags(handle *executable, handle graph, unsigned long long flags)
{ *executable = (handle)2; return 0; }
int cuGraphDestroy(handle graph) { return 0; }
int destroyed = 0;
int cuGraphExecDestroy(handle executable) { destroyed++; return 0; }
int cuGraphLaunch(handle executable, handle stream) { graph_launches++; return executable == (handle)2 ? 0 : 400; }

int cuDevicePrimaryCtxRetain(handle *context, int device) { *context = (handle)3; return 0; }
int cuCtxSetCurrent(handle context) { return context == (handle)3 ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *address, size_t size) { *address = (uint64_t)malloc(size); return 0; }
int cuMemFree_v2(uint64_t address) { free((void *)address); return 0; }
int cuMemHostAlloc(void **address, size_t size, unsigned flags) { *address = malloc(size); return 0; }
static long streams = 6;
static int is_stream(handle stream) { return (long)stream >= 7 && (long)stream <= streams ? 0 : 400; }
int followed = 0;
int cuStreamCreate(handle *stream, unsigned flags) { *stream = (handle)++streams; return 0; }
int cuStreamSynchronize(handle stream) { return is_stream(stream); }
int cuStreamWaitEvent(handle stream, handle event, unsigned flags)
{ followed++; return *(double *)event > 0 && flags == 0 ? is_stream(stream) : 400; }
int cuEventCreate(handle *event, unsigned flags) { *event = calloc(1, sizeof(double)); return 0; }
int cuEventRecord(handle event, handle stream) { *(double *)event = clock_ms += 0.25; return 0; }
int cuEventSynchronize(handle event) { return 0; }
int cuEventElapsedTime(float *ms, handle first, handle second)
{ *ms = *(double *)second - *(double *)first; return 0; }
int cuEventElapsedTime_v2(float *ms, handle first, handle second) { return cuEventElapsedTime(ms, first, second); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, handle stream)
{ memcpy((void *)to, from, size); return is_stream(stream); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, handle stream)
{ memcpy(to, (void *)from, size); return is_stream(stream); }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(handle context) { return context == (handle)3 ? 0 : 201; }
int cuCtxPopCurrent_v2(handle *context) { *context = (handle)3; return 0; }
int cuCtxGetCurrent(handle *context) { *context = (handle)3; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxSynchronize(void) { return 0; }
int cuMemFreeHost(void *address) { destroyed++; free(address); return 0; }
int cuStreamDestroy_v2(handle stream) { destroyed++; return is_stream(stream); }
int cuEventDestroy_v2(handle event) { destroyed++; free(event); return 0; }
int cuGetErrorName(int error, const char **text) { *text = "error"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "error"; return 0; }
int cuGetProcAddress(const char *name, void **function, int cuda, uint64_t flags)
{
    char newer[128] = {0};
    strncat(strncpy(newer, name, 100), "_v2", 4);
    *function = dlsym(self(), newer);
    if (!*function) *function = dlsym(self(), name);
    return *function ? 0 : 500;
}
int cuGetProcAddress_v2(const char *name, void **function, int cuda, uint64_t flags, int *found)
{
    int status = cuGetProcAddress(name, function, cuda, flags);
    if (found) *found = status;
    return 0;
}
"""


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., str]:
    """Compile the stand-in: (STATUS=100, GPUS=0, CUDA=11020, CAPTURE=0) -> path of the library. ``besides``: further
    functions, which answer that they are not supported."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a stand-in for the driver")

    def make(*, besides: Iterable[str] = (), **settings: int) -> str:
        source = DRIVER + "".join(
            f"int {name}(void) {{ return 801; }}\n" for name in besides if f" {name}(" not in DRIVER
        )
        library = tmp_path / f"libcuda{len(list(tmp_path.iterdir()))}.so"
        defines = [f"-D{name}={value}" for name, value in ({"CAPTURE": 0} | settings).items()]
        command = [compiler, "-shared", "-fPIC", *defines, "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(command, input=source, text=True, check=True)
        return str(library)

    return make


@pytest.fixture
def loaded() -> Callable[[str], ctypes.CDLL]:
    """The library itself, to ask what it counted."""
    return ctypes.CDLL


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["HostMemory"]:
    """A machine with a GPU and TensorRT 8.6; its device memory. No copy may outlive the page-locked memory it is of."""
    pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")
    from .tensorrt.trt_stand_in import stand_in

    found = stand_in(monkeypatch, tmp_path / "cache")
    yield found
    assert not found.torn


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny model of the self-test, as a file."""
    from limpq_deploy.export.reference.self_test import tiny_model

    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model().SerializeToString())
    return path
