"""Everything that needs a GPU in one command, in under 20 minutes: the GPU tests and the benchmark.

    python tests/gpu/run.py OUT [--tensorrt-python PYTHON] [--files DIR] [--quick]

With torch and ONNX Runtime in this Python the models' files are made first, unless DIR has them. Tests and benchmark
then run in PYTHON (default: this one), which needs TensorRT, numpy, onnx, pydantic, click and rich, pycuda or
cuda-python, and nvidia-ml-py for clocks; no torch. Without pytest and hypothesis
there the tests are left out and said so; the benchmark's self-test covers the same calls. OUT gets tests.log,
result.json (renewed after each part) and result.md.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks/gpu.py"
GPU_TESTS = (ROOT / "tests/gpu/test_engines.py", ROOT / "tests/gpu/test_onnxruntime_cuda.py")
MINUTES = 18.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--tensorrt-python", default=sys.executable, help="the Python that has TensorRT")
    parser.add_argument("--files", type=Path, default=Path("gpu-files"), help="folder of the models' files")
    parser.add_argument("--models", default=None, help="names for the benchmark, comma-separated")
    parser.add_argument("--quick", action="store_true", help="short timings, to see that it runs")
    options = parser.parse_args()
    out, files = options.out.resolve(), options.files.resolve()
    sys.exit(run(out, options.tensorrt_python, files, options.models, quick=options.quick))


def run(out: Path, python: str, files: Path, models: str | None, *, quick: bool) -> int:
    """The worst exit code of what was run."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    common = [str(BENCHMARK), "--files", str(files), *(["--models", models] if models else [])]
    codes = [call([sys.executable, *common, "--prepare"])]
    codes.append(tests(python, out / "tests.log"))
    left = MINUTES - (time.monotonic() - started) / 60
    result = out / "result.json"
    quickly = ["--quick"] if quick else []
    codes.append(call([python, *common, "--minutes", f"{max(left, 1):.1f}", *quickly, "-o", str(result)]))
    if result.is_file():
        shown = said([sys.executable, str(BENCHMARK), "--page", str(result)])
        (out / "result.md").write_text(shown.stdout)
        print(shown.stdout)
    print(f"{time.monotonic() - started:.0f} s; results in {out}")
    return max(codes)


def tests(python: str, log: Path) -> int:
    """The GPU tests, where that Python has pytest."""
    if call([python, "-c", "import pytest, hypothesis"], quiet=True) != 0:
        log.write_text(f"{python} has no pytest or no hypothesis: the GPU tests were not run\n")
        print(log.read_text(), end="")
        return 0
    command = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "gpu", *map(str, GPU_TESTS)]
    done = said(command)
    log.write_text(done.stdout + done.stderr)
    print("".join(done.stdout.splitlines(keepends=True)[-15:]))
    return done.returncode


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
