"""Everything that needs a GPU in one command, in 14 minutes with the way there and back.

    python tests/gpu/run.py OUT [--tensorrt-python PYTHON] [--files DIR] [--minutes M] [--quick] [--plan]

What nothing else can tell comes first: one INT8 engine's parity, then its latency against FP16; then the GPU tests,
then the rest of the benchmark, engines of TensorRT-RTX among it where the GPU is one that they serve. ``--plan`` prints
the steps and how long each may take, and does nothing.

With torch and ONNX Runtime in this Python the models' files are made first, unless DIR has them. Tests and benchmark
then run in PYTHON (default: this one), which needs TensorRT, numpy, onnx, pydantic, click and rich, pycuda or
cuda-python, and nvidia-ml-py for clocks; no torch. Without pytest and hypothesis there the tests are left out and said
so; the benchmark's self-test covers the same calls. OUT gets tests.log, result.json and result.md, each part as it
ends.

After M minutes whatever still runs is ended; what ended before is kept whole. The same command again goes on: tests
that passed with the same versions on the same machine are not run again, nor parts of the benchmark that have their
result.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks/gpu.py"
FILES = ROOT / "gpu-files"
GPU_TESTS = (ROOT / "tests/gpu/test_engines.py", ROOT / "tests/gpu/test_onnxruntime_cuda.py")
WHOLE, TRANSFERS = 14.0, 2.0
"""Minutes of a lent machine, and those of them in which checkout, files and results travel."""
MINUTES = WHOLE - TRANSFERS
TEST_MINUTES = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """``run`` is given the minutes that it may take, and returns an exit code. ``most``: of those that are left."""

    name: str
    most: float
    run: Callable[[float], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--tensorrt-python", default=sys.executable, help="the Python that has TensorRT")
    parser.add_argument("--files", type=Path, default=FILES, help="folder of the models' files")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what still runs then is ended")
    parser.add_argument("--models", default=None, help="names for the benchmark, comma-separated")
    parser.add_argument("--quick", action="store_true", help="short timings, to see that it runs")
    parser.add_argument("--plan", action="store_true", help="print the steps and do nothing")
    options = parser.parse_args()
    out, files = options.out.resolve(), options.files.resolve()
    common = ["--files", str(files), *(["--models", options.models] if options.models else [])]
    todo = steps(out, options.tensorrt_python, common, quick=options.quick)
    if options.plan:
        print("\n".join(f"{step.name}: at most {min(step.most, options.minutes):g} minutes" for step in todo))
        return
    out.mkdir(parents=True, exist_ok=True)
    sys.exit(run(todo, minutes=options.minutes))


def steps(out: Path, python: str, common: list[str], *, quick: bool) -> tuple[Step, ...]:
    """What is done, in order."""
    benchmark = [str(BENCHMARK), *common]
    timed = [python, *benchmark, *(["--quick"] if quick else []), "-o", str(out / "result.json")]

    def measure(*words: str) -> Callable[[float], int]:
        return lambda minutes: call([*timed, *words, "--minutes", f"{minutes:.2f}"], minutes=minutes)

    return (
        Step("files", MINUTES, lambda minutes: call([sys.executable, *benchmark, "--prepare"], minutes=minutes)),
        Step("one INT8 engine: parity, then latency against FP16", MINUTES, measure("--first")),
        Step("GPU tests", TEST_MINUTES, lambda minutes: tests(python, out / "tests.log", minutes=minutes)),
        Step("the rest of the benchmark", MINUTES, measure()),
    )


def run(todo: tuple[Step, ...], *, minutes: float) -> int:
    """Do the steps in the time that there is; the worst of their exit codes."""
    started = time.monotonic()
    codes = [0]
    for step in todo:
        left = minutes - (time.monotonic() - started) / 60
        if left <= 0:
            print(f"{step.name}: not begun, the time was up")
            continue
        codes.append(step.run(min(step.most, left)))
    print(f"{time.monotonic() - started:.0f} s in all")
    return max(codes)


def tests(python: str, log: Path, *, minutes: float) -> int:
    """The GPU tests, where that Python has pytest, unless they have passed here before."""
    versions = said([python, str(BENCHMARK), "--versions"]).stdout.strip()
    passed = f"passed with {versions}\n"
    if versions and log.is_file() and log.read_text().endswith(passed):
        print(f"GPU tests: {passed}", end="")
        return 0
    why = None
    if call([python, "-c", "import pytest, hypothesis"], quiet=True) != 0:
        why = f"{python} has no pytest or no hypothesis"
    elif minutes <= 0:
        why = "the time was up"
    if why is not None:
        log.write_text(f"{why}: the GPU tests were not run\n")
        print(log.read_text(), end="")
        return 0
    command = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "gpu", *map(str, GPU_TESTS)]
    with log.open("w") as file:
        try:
            code = subprocess.run(
                command, env=environment(), cwd=ROOT, stdout=file, stderr=file, timeout=60 * minutes, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = 1
            file.write(f"\nended after {minutes:.1f} minutes\n")
        if code == 0 and versions:
            file.write(passed)
    print("".join(log.read_text().splitlines(keepends=True)[-15:]))
    return code


def call(command: list[str], *, minutes: float | None = None, quiet: bool = False) -> int:
    hidden = subprocess.DEVNULL if quiet else None
    limit = None if minutes is None else 60 * minutes
    try:
        return subprocess.run(
            command, env=environment(), check=False, stdout=hidden, stderr=hidden, timeout=limit
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"ended after {minutes:.1f} minutes; what had its result is kept")
        return 1


def said(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)


def environment() -> dict[str, str]:
    """The checkout on the path, so that nothing has to be installed on the GPU machine."""
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}


if __name__ == "__main__":
    main()
