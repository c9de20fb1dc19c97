"""From an ONNX file to an engine of TensorRT-RTX, each in a process of its own.

A failed build spoils its process: the next engine that is built there may silently have FP32 convolutions (1.7.1).
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed
from limpq_deploy.export.runtimes.tensorrt.log import Report
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import PRODUCT, cannot_build
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named
from limpq_deploy.export.runtimes.tensorrt_rtx.needs import has_fp8, without_fp8
from limpq_deploy.export.runtimes.tensorrt_rtx.order import MODEL, ORDER, PLAN, RESULT, Order, Result

CHILD = "limpq_deploy.export.runtimes.tensorrt_rtx.child"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A plan as bytes, and how it came about."""

    plan: bytes
    result: Result


def compile_model(
    model: onnx.ModelProto, options: EngineOptions, capabilities: tuple[str, ...], *, report: Report
) -> Compiled:
    """Build an engine for these capabilities in a process of its own, which ends with whatever is raised here.

    Raises BuildFailed where the file is refused or the compiler crashes, MissingExtra without it.
    """
    why = cannot_build()
    if why is not None:
        raise MissingExtra(why)
    if has_fp8(model) and (refused := without_fp8(capabilities_named(capabilities), "the file")) is not None:
        raise BuildFailed(refused)
    with TemporaryDirectory(prefix="limpq-rtx-") as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(model.SerializeToString())
        write_record(Order(options=options, capabilities=capabilities), folder / ORDER)
        code = _run(folder, report)
        if not (folder / RESULT).is_file():
            raise BuildFailed(f"{PRODUCT} builds no engine: {_end(code, folder)}; report it with the file")
        result = load_record(Result, folder / RESULT)
        if result.failed is not None:
            raise BuildFailed(result.failed)
        return Compiled(plan=(folder / PLAN).read_bytes(), result=result)


def _run(folder: Path, report: Report) -> int:
    """The process' exit code, once it ended; its progress is reported meanwhile."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    with (folder / "stderr.txt").open("wb") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
    with child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                done, total, note = json.loads(line)
                report(done, total, note)
            return child.wait()
        except BaseException:  # Ctrl-C above all
            child.kill()
            raise


def _end(code: int, folder: Path) -> str:
    """How a process ended that left no result."""
    if code < 0:
        return f"its process ended by signal {-code}"
    lines = (folder / "stderr.txt").read_text(errors="replace").strip().splitlines()
    return f"its process ended with code {code} ({lines[-1] if lines else 'without a word'})"
