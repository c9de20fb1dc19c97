"""The LSQ operator on a CPU as compiled C: one pass over memory where torch needs four forward and nine back.

`kernel` compiles ``lsq_kernel.c`` once with the machine's C compiler (half a second), keeps the library in the cache
folder, and gives None where that is not possible; the operator then computes the same with torch's own operations.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.calibration.files import cache_folder, keep, kept_bytes
from limpq_deploy.calibration.numbers.grid import QuantGrid

SOURCE = Path(__file__).with_name("lsq_kernel.c")
COMPILE = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-c")
KEPT = 1
"""Form of the kept file."""

THREADS = "-fopenmp"
"""At compilation only: linking is left to torch's own OpenMP library, so that there is one set of threads."""

ROW = 16384
"""Elements of a per-tensor row: the unit of work of a thread, and of one float sum."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """The compiled operator, for dense float32 and float64 tensors on the CPU. ``threads``: whether it uses several."""

    library: Any
    threads: bool

    def forward(self, x: torch.Tensor, scale: torch.Tensor, grid: QuantGrid, axis: int | None) -> torch.Tensor:
        """``round(clip(x / s)) * s``, laid out as ``x``."""
        x = dense(x, axis)
        out = torch.empty_like(x)
        function = self.library.forward_f32 if x.dtype == torch.float32 else self.library.forward_f64
        row, channels = _rows(x, axis)
        scales = scale.contiguous()
        function(
            x.data_ptr(),
            out.data_ptr(),
            x.numel(),
            row,
            scales.data_ptr(),
            channels,
            float(grid.qmin),
            float(grid.qmax),
        )
        return out

    def backward(
        self,
        x: torch.Tensor,
        upstream: torch.Tensor,
        scale: torch.Tensor,
        grid: QuantGrid,
        axis: int | None,
        *,
        overwrite: bool,
        into: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(d/dx, d/ds before its damping). ``overwrite``: d/dx may take the place of ``upstream``. ``into``: it is
        added to this tensor, laid out as ``x``, which is returned."""
        x = dense(x, axis)
        if upstream.stride() != x.stride():
            upstream, overwrite = torch.empty_like(x).copy_(upstream), True
        grad = into if into is not None else upstream if overwrite else torch.empty_like(x)
        row, channels = _rows(x, axis)
        sums = torch.empty(-(-x.numel() // row), dtype=torch.float64)
        function = self.library.backward_f32 if x.dtype == torch.float32 else self.library.backward_f64
        scales = scale.contiguous()
        function(
            x.data_ptr(),
            upstream.data_ptr(),
            grad.data_ptr(),
            sums.data_ptr(),
            x.numel(),
            row,
            scales.data_ptr(),
            channels,
            float(grid.qmin),
            float(grid.qmax),
            into is not None,
        )
        return grad, sums.view(-1, channels).sum(0).to(scale.dtype).view(scale.shape)


def dense(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """``x`` itself where its elements lie without gaps, in the usual order or with channels last; else a copy."""
    if x.is_contiguous() or (axis in (None, 0) and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _rows(x: torch.Tensor, axis: int | None) -> tuple[int, int]:
    """Elements of a row, and how many rows differ in scale."""
    if axis is None:
        return ROW, 1
    return max(1, x[(0,) * (axis + 1)].numel()), x.shape[axis]


@functools.cache
def kernel() -> Kernel | None:
    """The compiled operator, or None; a log line at level DEBUG says why not. LIMPQ_LSQ=eager or =compiled leaves it
    out, for torch's operations one by one or fused by torch.compile. Raises CacheRefused where a library is
    kept that is not ours."""
    if os.environ.get("LIMPQ_LSQ") in ("eager", "compiled"):
        return None
    try:
        return load_kernel(cache_folder())
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.debug("the LSQ operator runs uncompiled: %s", error)
        return None


def load_kernel(folder: Path) -> Kernel:
    """Compile into ``folder``, unless that was done before, and load.

    Raises OSError where there is no compiler, where it fails, or where its result does not compute what it should;
    CacheRefused where the library in ``folder`` is not what was kept there.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(f"compiled on Linux only, not on {sys.platform}")
    reasons = []
    for threads in (True, False):
        try:
            found = Kernel(_declared(_loaded(_library(folder, threads=threads))), threads)
        except OSError as error:  # an OpenMP library that torch does not bring, for one
            reasons.append(str(error))
            continue
        if not _computes(found):
            raise OSError("the compiled operator does not compute what it should")
        return found
    raise OSError("; ".join(reasons))


def _loaded(data: bytes) -> ctypes.CDLL:
    """A library from its bytes, which were checked: a file may be another one by the time that it is loaded.

    The descriptor stays open: the loader knows a library by its path, which has the descriptor's number.
    """
    descriptor = os.memfd_create("lsq", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(data)
    return ctypes.CDLL(f"/proc/self/fd/{descriptor}")


def _library(folder: Path, *, threads: bool) -> bytes:
    compiler = shutil.which(os.environ.get("CC", "")) or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise OSError("there is no C compiler (gcc)")
    flags = (*COMPILE, THREADS) if threads else COMPILE
    key = hashlib.sha256(repr((KEPT, SOURCE.read_bytes(), flags, compiler, _machine())).encode()).hexdigest()[:16]
    library = folder / f"lsq-{key}.so"
    data = kept_bytes(library)
    if data is None:
        with tempfile.TemporaryDirectory() as scratch:
            objects, linked = Path(scratch) / "lsq.o", Path(scratch) / "lsq.so"
            for command in (
                [compiler, *flags, str(SOURCE), "-o", str(objects)],
                [compiler, "-shared", str(objects), "-o", str(linked), "-lm"],
            ):
                done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
                if done.returncode != 0:
                    raise OSError(f"{compiler} failed: {done.stderr.strip()[:200]}")
            data = linked.read_bytes()
        with contextlib.suppress(OutputError):  # a home that cannot be written: compiled again the next time
            keep(library, data)  # another process may have been first, with the same
    return data


def _machine() -> str:
    """What -march=native depends on: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    described = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return platform.machine() + "".join(sorted(described))


def _declared(library: Any) -> Any:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    for suffix, real in (("f32", ctypes.c_float), ("f64", ctypes.c_double)):
        forward, backward = library[f"forward_{suffix}"], library[f"backward_{suffix}"]
        forward.argtypes = [pointer, pointer, integer, integer, pointer, integer, real, real]
        backward.argtypes = [pointer] * 4 + [integer, integer, pointer, integer, real, real, ctypes.c_int]
        forward.restype = backward.restype = None
        setattr(library, f"forward_{suffix}", forward)
        setattr(library, f"backward_{suffix}", backward)
    return library


def _computes(found: Kernel) -> bool:
    """A library from a cache folder is tried on a few numbers before it is trusted with a training."""
    grid, scale = QuantGrid(bits=3, signed=True), torch.tensor(0.5)
    x = torch.tensor([-9.0, -2.0, -1.3, 0.25, 0.75, 1.5, 1.6, 9.0]).repeat(5)
    grad, slope = found.backward(x, torch.ones_like(x), scale, grid, None, overwrite=False)
    expected = torch.tensor([-2.0, -2.0, -1.5, 0.0, 1.0, 1.5, 1.5, 1.5]).repeat(5)
    inside = torch.tensor([0.0, 1, 1, 1, 1, 1, 0, 0]).repeat(5)
    again, _ = found.backward(x, torch.ones_like(x), scale, grid, None, overwrite=False, into=torch.ones_like(x))
    return (
        torch.equal(found.forward(x, scale, grid, None), expected)
        and torch.equal(grad, inside)
        and torch.equal(again, inside + 1)
        and abs(slope.item() - 5 * (-4 - 0.4 - 0.5 + 0.5 + 3 + 3)) < 1e-4
    )
