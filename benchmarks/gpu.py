"""ResNet-18 and ResNet-50 on one NVIDIA GPU through TensorRT: engines in FP32, TF32, FP16, INT8 and mixed INT8/FP16.

    python benchmarks/gpu.py --files DIR --prepare          with torch and ONNX Runtime: makes the files (CPU, minutes)
    python benchmarks/gpu.py --files DIR -o RESULT.json     with TensorRT, no torch: at most --minutes
    python benchmarks/gpu.py --page RESULT.json             a page of it, in Markdown

Per model: engine records (precision of each layer, reformats), parity layer by layer, saturated grids, latency of all
engines in turns (CUDA events, clocks and throttling watched), audit, latency table with its prediction error, spread of
three builds. Before them the self-test, with pycuda and with cuda-python. What fails is in the result with its reason.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_files import is_prepared, prepare
from gpu_measure import MakeRuntime, measure
from gpu_report import page

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.files import write_text
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.environment import read_environment
from limpq_deploy.export.file_forms import TENSORRT_FORMS
from limpq_deploy.export.runtimes.cuda_memory import PACKAGES

MODELS = ("torchvision/resnet18", "torchvision/resnet50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, default=Path("gpu-files"), help="folder of the models' files")
    parser.add_argument("--prepare", action="store_true", help="make the files and stop")
    parser.add_argument("--tensorrt", choices=tuple(TENSORRT_FORMS), default="8.6", help="version that files are for")
    parser.add_argument(
        "--models", default=",".join(MODELS), help=f"names, comma-separated (default: {','.join(MODELS)})"
    )
    parser.add_argument("--minutes", type=float, default=18.0, help="parts that would begin later are left out")
    parser.add_argument("--quick", action="store_true", help="short timings and fewer graphs, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("-o", "--output", type=Path, help="where the result is kept; renewed after each part")
    parser.add_argument("--page", type=Path, metavar="RESULT.json", help="print a page of a result and stop")
    parser.add_argument("--try", dest="package", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.package is not None:
        print(json.dumps(self_test_with(options.package)))
        return
    if options.page is not None:
        print(page(json.loads(options.page.read_text())), end="")
        return
    names = options.models.split(",")
    files = {name: options.files / name.rpartition("/")[2] for name in names}
    if options.prepare or not all(map(is_prepared, files.values())):
        make_files(files, options.tensorrt)
        if options.prepare:
            return
    from limpq_deploy.export.runtimes.trt import TensorRt

    why = TensorRt().unavailable()
    if why is not None:
        sys.exit(f"{why.partition(';')[0]}; the benchmark runs on a machine with an NVIDIA GPU and TensorRT")
    result = run(files, TensorRt, minutes=options.minutes, quick=options.quick, output=options.output)
    print(json.dumps(result) if options.json else page(result))


def make_files(files: dict[str, Path], tensorrt: str = "8.6") -> None:
    """Prepare the models that are not yet."""
    if importlib.util.find_spec("torch") is None:
        missing = [str(path) for path in files.values() if not is_prepared(path)]
        sys.exit(f"{', '.join(missing)} not prepared; run --prepare where torch is, and carry the folder here")
    for name, folder in files.items():
        if not is_prepared(folder):
            say(f"preparing {name}")
            prepare(name, folder, tensorrt=tensorrt)


def run(
    files: dict[str, Path], make: MakeRuntime, *, minutes: float, quick: bool, output: Path | None
) -> dict[str, Any]:
    """Everything, as one JSON-able result; with ``output`` it is written after each part, so that nothing is lost."""
    started = time.monotonic()
    result: dict[str, Any] = {"quick": quick, "environment": environment(make), "self_tests": {}, "models": {}}

    def keep() -> None:
        result["seconds"] = round(time.monotonic() - started, 1)
        if output is not None:
            write_text(output, json.dumps(result, indent=1) + "\n")

    for package in PACKAGES:
        result["self_tests"][package] = attempt(package)
        keep()
    for name, folder in files.items():
        result["models"][name] = {}
        deadline = started + 60 * minutes
        say(name)
        for part, found in measure(folder, make, quick=quick, deadline=deadline, say=say):
            result["models"][name][part] = found
            keep()
    keep()
    return result


def attempt(package: str) -> dict[str, Any]:
    """The self-test with one of the two packages for device memory, in a process of its own: a crash is a result."""
    done = subprocess.run([sys.executable, __file__, "--try", package], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        return {"failed": f"the process ended with {done.returncode}: {last[0]}"}
    return found


def self_test_with(package: str) -> dict[str, Any]:
    """What `attempt` runs."""
    from limpq_deploy.export.runtimes.trt import TensorRt
    from limpq_deploy.export.self_test import self_test

    try:
        runtime = TensorRt(memory=package)
        why = runtime.unavailable()
        return {"failed": why} if why is not None else to_dict(self_test(runtime))
    except LimpqError as error:
        return {"failed": str(error)}


def environment(make: MakeRuntime) -> dict[str, Any]:
    """This machine and its GPU."""
    from limpq_deploy.export.engine_options import EngineOptions

    here = read_environment()
    machine: Callable[[], Any] | None = getattr(make(EngineOptions()), "machine", None)
    return {
        **to_dict(here),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "gpu": to_dict(machine()) if machine is not None else None,
    }


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
