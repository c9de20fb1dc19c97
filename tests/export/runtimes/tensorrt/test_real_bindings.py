"""Our classes and flags on TensorRT's real bindings, without its libraries: stand-ins satisfy the linker.

    pip install --no-deps --target B10 tensorrt_cu13_bindings==10.16.1.11    (11.4.0.106 too; tensorrt-bindings==8.6.1)
    LIMPQ_TENSORRT_BINDINGS=B86:B10:B11 pytest tests/export/runtimes/tensorrt/test_real_bindings.py

Nothing is built or run this way; that needs a GPU (tests/gpu).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDERS = [Path(text) for text in os.environ.get("LIMPQ_TENSORRT_BINDINGS", "").split(os.pathsep) if text]

pytestmark = pytest.mark.skipif(
    not FOLDERS, reason="LIMPQ_TENSORRT_BINDINGS names no folders with TensorRT's bindings; see this file"
)

PROGRAM = """
import json, sys
import tensorrt as trt
from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes.tensorrt.bindings import choose_typing, network_flags, set_precision
from limpq_deploy.export.runtimes.tensorrt.log import BuildLog, make_logger, make_monitor

class Config:
    flags = {"TF32"}
    def set_flag(self, flag):
        self.flags = self.flags | {flag.name}
    def clear_flag(self, flag):
        self.flags = self.flags - {flag.name}

def attempt(function):
    try:
        return function()
    except LimpqError as error:
        return str(error)

log, steps = BuildLog(), []
logger = make_logger(trt, log)
logger.log(trt.ILogger.Severity.WARNING, "a  warning")
logger.log(trt.ILogger.Severity.VERBOSE, "nothing")
monitor = make_monitor(trt, lambda done, total, note: steps.append([done, total, note]))
if monitor is not None:
    monitor.phase_start("tactics", None, 4)
    monitor.step_complete("tactics", 0)
config, strict = Config(), Config()
typing = choose_typing(trt, EngineOptions(), typed=True)
set_precision(trt, config, typing, EngineOptions(), quantized=True)
set_precision(trt, strict, typing, EngineOptions(tf32=False, float_type="float32"), quantized=False)
print(json.dumps({
    "version": trt.__version__,
    "typing": typing,
    "untyped": choose_typing(trt, EngineOptions(), typed=False),
    "weak": attempt(lambda: choose_typing(trt, EngineOptions(typing="weak"), typed=True)),
    "strong": attempt(lambda: choose_typing(trt, EngineOptions(typing="strong"), typed=True)),
    "network": network_flags(trt, typing),
    "builder": sorted(config.flags),
    "strict": sorted(strict.flags),
    "log": log.lines,
    "steps": steps,
    "logger": isinstance(logger, trt.ILogger),
}))
"""


@pytest.fixture(scope="module", params=FOLDERS, ids=str)
def said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program prints with one version of the bindings."""
    folder: Path = request.param
    stage = tmp_path_factory.mktemp("bindings")
    (stage / "tensorrt").symlink_to((folder / "tensorrt_bindings").resolve())
    stand_ins(folder / "tensorrt_bindings/tensorrt.so", stage)
    environment = {**os.environ, "PYTHONPATH": str(stage), "LD_LIBRARY_PATH": str(stage)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def stand_ins(bindings: Path, folder: Path) -> None:
    """Libraries of the names that the bindings link, with the functions that they miss, which do nothing."""
    if not all(shutil.which(tool) for tool in ("gcc", "nm", "objdump")):
        pytest.skip("needs gcc and binutils to make stand-ins for TensorRT's libraries")
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", bindings], capture_output=True, text=True, check=True
    ).stdout
    missing = [line.split()[-1] for line in listed.splitlines()]
    ours = [
        name for name in missing if "@" not in name and name.startswith(("create", "get", "init", "_ZN14nv", "_ZN11nv"))
    ]
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in ours)
    header = subprocess.run(["objdump", "-p", bindings], capture_output=True, text=True, check=True).stdout
    libraries = [line.split()[1] for line in header.splitlines() if "NEEDED" in line and "libnv" in line]
    for library, text in zip(libraries, [source, *["int unused;\n"] * len(libraries)], strict=False):
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-x", "c", "-", "-o", str(folder / library)]
        subprocess.run(command, input=text, text=True, check=True)


def test_typing_is_weak_before_10_and_strong_from_then_on(said: Any) -> None:
    major = int(said["version"].split(".")[0])
    assert said["typing"] == ("weak" if major < 10 else "strong")
    assert said["untyped"] == ("weak" if major < 11 else "strong")
    assert (
        said["network"]
        == {
            8: {"EXPLICIT_BATCH": 1},
            10: {"EXPLICIT_BATCH": 1, "STRONGLY_TYPED": 2},
            11: {"STRONGLY_TYPED": 1},
        }[major]
    )
    assert said["builder"] == (["FP16", "INT8", "TF32"] if major < 10 else ["TF32"])
    assert said["strict"] == []


def test_what_a_version_does_not_know_is_refused(said: Any) -> None:
    major = int(said["version"].split(".")[0])
    assert said["weak"] == (
        "weak" if major < 11 else f"TensorRT {said['version']} knows strong typing alone; leave the setting at auto"
    )
    assert said["strong"] == (
        "strong" if major > 8 else f"TensorRT {said['version']} has no strong typing; leave the setting at auto"
    )


def test_messages_and_progress_arrive(said: Any) -> None:
    assert said["logger"]
    assert said["log"] == [["WARNING", "a warning"]]
    assert said["steps"] == ([] if said["version"].startswith("8") else [[1, 4, "tactics"]])


@pytest.mark.parametrize(
    ("settings", "libraries", "words"),
    [
        ({"STATUS": 100}, True, "the NVIDIA driver finds no GPU"),
        ({"CUDA": 11020}, True, "this one serves CUDA 11.2; install a newer NVIDIA driver"),
        ({"CUDA": 13000}, False, "is installed but does not load (libnv"),
        ({"CUDA": 13000}, True, None),
    ],
)
@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_doctor_says_in_a_sentence_what_is_missing(
    folder: Path,
    settings: dict[str, int],
    libraries: bool,
    words: str | None,
    driver: Callable[..., str],
    tmp_path: Path,
) -> None:
    """With the real bindings and a stand-in driver; a package for device memory is a file of that name."""
    stage = tmp_path / "stage"
    (stage / "pycuda").mkdir(parents=True)
    (stage / "pycuda/__init__.py").touch()
    (stage / "tensorrt").symlink_to((folder / "tensorrt_bindings").resolve())
    Path(driver(**settings)).rename(stage / "libcuda.so.1")
    if libraries:
        stand_ins(folder / "tensorrt_bindings/tensorrt.so", stage)
    environment = {**os.environ, "PYTHONPATH": str(stage), "LD_LIBRARY_PATH": str(stage)}
    command = [sys.executable, "-m", "limpq_deploy", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = {item["name"]: item for item in json.loads(done.stdout)["runtimes"]}["tensorrt"]
    assert found["usable"] is (words is None)
    assert words is None or words in found["detail"]
