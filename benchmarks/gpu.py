"""ResNet-18 and ResNet-50 on one NVIDIA GPU through TensorRT: engines in FP32, TF32, FP16, INT8 and mixed INT8/FP16.

    python benchmarks/gpu.py --files DIR --prepare          with torch and ONNX Runtime: makes the files (CPU, minutes)
    python benchmarks/gpu.py --files DIR -o RESULT.json     with TensorRT, no torch: at most --minutes
    python benchmarks/gpu.py --page RESULT.json             a page of it, in Markdown

First of all, of the first model: one INT8 engine's parity, and its latency against FP16. Then, per model: engine
records (precision of each layer, reformats), parity layer by layer, saturated grids, latency of all engines in turns
(CUDA events, clocks and throttling watched); when all models have these, audit, engines of TensorRT-RTX where the GPU
is one that they serve, latency table with its prediction error, BitOps against latency, spread of three builds,
trtexec. Before them the self-test, with pycuda and with cuda-python. What fails is in the result with its reason. The
same command again goes on with RESULT.json, whose page stands beside it.
"""

import argparse
import importlib.util
import itertools
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
from gpu_measure import HEAD, Bench, MakeRuntime, in_order, measure_part
from gpu_report import page
from gpu_result import Kept, files_digest

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.calibration.version import __version__
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from limpq_deploy.export.runtimes.cuda.memory import PACKAGES

MODELS = ("torchvision/resnet18", "torchvision/resnet50")
FILES = Path(__file__).resolve().parents[1] / "gpu-files"
"""Half a gigabyte, which git ignores."""
SELF_TEST_S = 180


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, default=FILES, help="folder of the models' files")
    parser.add_argument("--prepare", action="store_true", help="make the files and stop")
    parser.add_argument("--tensorrt", choices=tuple(TENSORRT_FORMS), default="8.6", help="version that files are for")
    parser.add_argument(
        "--models", default=",".join(MODELS), help=f"names, comma-separated (default: {','.join(MODELS)})"
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="parts that would begin later are left out")
    parser.add_argument("--quick", action="store_true", help="short timings and fewer graphs, to see that it runs")
    parser.add_argument("--first", action="store_true", help="one INT8 engine's parity and latency, and stop")
    parser.add_argument("--smoke", action="store_true", help="ResNet-18 alone, short timings: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("-o", "--output", type=Path, help="where the result is kept, and gone on with")
    parser.add_argument("--page", type=Path, metavar="RESULT.json", help="print a page of a result and stop")
    parser.add_argument("--versions", action="store_true", help="print what a result is bound to, as JSON, and stop")
    parser.add_argument("--try", dest="package", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.package is not None:
        print(json.dumps(self_test_with(options.package)))
        return
    if options.page is not None:
        print(page(json.loads(options.page.read_text())), end="")
        return
    if options.versions:
        print(json.dumps(versions(measurable())))
        return
    names = MODELS[:1] if options.smoke else options.models.split(",")
    make = None if options.prepare else measurable()
    files = {name: options.files / name.rpartition("/")[2] for name in names}
    make_files(files, options.tensorrt)
    if make is None:
        return
    quick = options.quick or options.smoke
    result = run(files, make, minutes=options.minutes, quick=quick, output=options.output, first=options.first)
    print(json.dumps(result) if options.json else page(result))


def measurable() -> MakeRuntime:
    """TensorRT; ends the program with the reasons where it cannot be used."""
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    why = TensorRt().unavailable()
    if why is not None:
        sys.exit(f"{why}; the benchmark runs on a machine with an NVIDIA GPU and TensorRT")
    return TensorRt


def make_files(files: dict[str, Path], tensorrt: str = "8.6") -> None:
    """Prepare the models that are not yet."""
    missing = {name: folder for name, folder in files.items() if not is_prepared(folder)}
    if missing and importlib.util.find_spec("torch") is None:
        folders = ", ".join(map(str, missing.values()))
        sys.exit(f"{folders} not prepared; run --prepare where torch is, and carry the folder here")
    for name, folder in missing.items():
        say(f"preparing {name}")
        prepare(name, folder, tensorrt=tensorrt)


def run(
    files: dict[str, Path],
    make: MakeRuntime,
    *,
    minutes: float,
    quick: bool,
    output: Path | None,
    first: bool = False,
) -> dict[str, Any]:
    """Everything (``first``: the first engine's parity and latency alone), as one JSON-able result; with ``output`` it
    is written after each part, so that nothing is lost, and what is there already is not done again."""
    deadline = time.monotonic() + 60 * minutes
    kept = Kept(identity(files, make, quick=quick), environment(make), output)
    if kept.moved is not None:
        say(f"{output} is of other files or versions; it is {kept.moved.name} now")
    benches = {name: Bench(folder, make, quick=quick) for name, folder in files.items()}
    todo = kept.to_do(in_order(files))
    ahead = list(itertools.takewhile(lambda one: one[1] in HEAD, todo))  # none that ended an earlier process twice
    measure(kept, benches, ahead, deadline)
    if first:
        return kept.result
    tests = kept.result["self_tests"]
    for package in PACKAGES:
        if "tried" not in tests.get(package, {}):
            tests[package] = attempt(package)
            kept.keep()
    measure(kept, benches, [one for one in todo if one not in ahead], deadline)
    kept.keep()
    return kept.result


def measure(kept: Kept, benches: dict[str, Bench], parts: list[tuple[str, str]], deadline: float) -> None:
    """Measure these parts; each is kept as it ends."""
    for name, part in parts:
        if time.monotonic() > deadline:
            if not kept.part(name, part):
                kept.set(name, part, {"skipped": "the time was up"})
            continue
        say(f"{name}: {part}")
        kept.begin(name, part)
        kept.set(name, part, measure_part(benches[name], part))


def identity(files: dict[str, Path], make: MakeRuntime, *, quick: bool) -> dict[str, Any]:
    """What figures must share to stand in one result."""
    return {"quick": quick, **versions(make), "files": files_digest(files.values())}


def versions(make: MakeRuntime) -> dict[str, Any]:
    """This package, and the machine with its driver and TensorRT."""
    here = environment(make)
    return {"limpq_deploy": __version__, "machine": here["gpu"], "cpu": here["cpu"], "python": here["python"]}


def attempt(package: str) -> dict[str, Any]:
    """The self-test with one of the two packages for device memory, in a process of its own: a crash is a result."""
    command = [sys.executable, __file__, "--try", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SELF_TEST_S, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took longer than {SELF_TEST_S} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        return {"failed": f"the process ended with {done.returncode}: {last[0]}"}
    return found


def self_test_with(package: str) -> dict[str, Any]:
    """What `attempt` runs."""
    from limpq_deploy.export.reference.self_test import self_test
    from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

    try:
        runtime = TensorRt(memory=package)
        why = runtime.unavailable()
        return {"failed": why} if why is not None else to_dict(self_test(runtime))
    except LimpqError as error:
        return {"failed": str(error)}


def environment(make: MakeRuntime) -> dict[str, Any]:
    """This machine and its GPU."""
    from limpq_deploy.export.records.engine_options import EngineOptions

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
