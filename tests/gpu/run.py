"""Everything that needs a GPU in one command, in under 20 minutes: the GPU tests and the benchmark.

    python tests/gpu/run.py OUT [--tensorrt-python PYTHON] [--files DIR] [--minutes M] [--quick]

With torch and ONNX Runtime in this Python the models' files are made first, unless DIR has them. Tests and benchmark
then run in PYTHON (default: this one), which needs TensorRT, numpy, onnx, pydantic, click and rich, pycuda or
cuda-python, and nvidia-ml-py for clocks; no torch. Without pytest and hypothesis
there the tests are left out and said so; the benchmark's self-test covers the same calls. OUT gets tests.log,
result.json and result.md, both renewed after each part.

Nothing that would begin after M minutes is begun. The same command again goes on: tests that passed with the same
versions on the same machine are not run again, nor parts of the benchmark that have their result.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks/gpu.py"
FILES = ROOT / "gpu-files"
GPU_TESTS = (ROOT / "tests/gpu/test_engines.py", ROOT / "tests/gpu/test_onnxruntime_cuda.py")
MINUTES = 18.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--tensorrt-python", default=sys.executable, help="the Python that has TensorRT")
    parser.add_argument("--files", type=Path, default=FILES, help="folder of the models' files")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what would begin later is left out")
    parser.add_argument("--models", default=None, help="names for the benchmark, comma-separated")
    parser.add_argument("--quick", action="store_true", help="short timings, to see that it runs")
    options = parser.parse_args()
    out, files = options.out.resolve(), options.files.resolve()
    common = ["--files", str(files), *(["--models", options.models] if options.models else [])]
    sys.exit(run(out, options.tensorrt_python, common, minutes=options.minutes, quick=options.quick))


def run(out: Path, python: str, common: list[str], *, minutes: float, quick: bool) -> int:
    """The worst exit code of what was run."""
    started = time.monotonic()

    def left() -> float:
        return minutes - (time.monotonic() - started) / 60

    out.mkdir(parents=True, exist_ok=True)
    benchmark = [str(BENCHMARK), *common]
    codes = [call([sys.executable, *benchmark, "--prepare"])]
    codes.append(tests(python, out / "tests.log", minutes=left()))
    quickly = ["--quick"] if quick else []
    timed = ["--minutes", f"{max(left(), 0):.2f}", *quickly, "-o", str(out / "result.json")]
    codes.append(call([python, *benchmark, *timed]))
    print(f"{time.monotonic() - started:.0f} s; results in {out}")
    return max(codes)


def tests(python: str, log: Path, *, minutes: float) -> int:
    """The GPU tests, where that Python has pytest, unless they have passed here before; in half of the time left."""
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
                command, env=environment(), cwd=ROOT, stdout=file, stderr=file, timeout=30 * minutes, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = 1
            file.write(f"\nended after {minutes / 2:.1f} minutes\n")
        if code == 0 and versions:
            file.write(passed)
    print("".join(log.read_text().splitlines(keepends=True)[-15:]))
    return code


def call(command: list[str], *, quiet: bool = False) -> int:
    hidden = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, env=environment(), check=False, stdout=hidden, stderr=hidden).returncode


def said(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)


def environment() -> dict[str, str]:
    """The checkout on the path, so that nothing has to be installed on the GPU machine."""
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}


if __name__ == "__main__":
    main()
