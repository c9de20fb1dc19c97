"""What a command imports, and what it says where a package is missing; each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "onnxruntime", "sklearn", "scipy", "tensorrt")

INDICATORS = {
    "format": "limpq.indicators/1",
    "model": "two layers",
    "bits": [2, 4],
    "layers": [
        {"name": name, "macs": 1000, "num_weights": 10, "weight": [0.5, 0.25], "act": [0.4, 0.2]} for name in ("a", "b")
    ],
}

WITHOUT = """
import sys

class Without:
    '''Finds everything but some packages, as if they were not installed.'''
    def __init__(self, finder, missing):
        self.finder, self.missing = finder, missing
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.missing else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

missing = set(sys.argv.pop(1).split(","))
sys.meta_path[:] = [Without(finder, missing) for finder in sys.meta_path]
"""

LOADED = """
import sys
from limpq_deploy.cli.main import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print(*(name for name in sys.modules if "." not in name), file=sys.stderr)
"""

EVERY_EXTRA = """
from click.testing import CliRunner
from limpq_deploy.cli.main import main
for name in ("safetensors", "onnxscript", "onnxruntime", "sklearn"):
    missing.clear()
    missing.add(name)
    result = CliRunner().invoke(main, ["build"])
    print(name, result.exit_code, result.stderr, end="")
"""


def python(code: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


@pytest.fixture
def indicators(tmp_path: Path) -> Path:
    file = tmp_path / "indicators.json"
    file.write_text(json.dumps(INDICATORS))
    return file


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("build", "--help"), ("search", "--help")])
def test_help_imports_nothing_that_takes_time(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = python(LOADED, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert not loaded & {*HEAVY, "numpy", "onnx", "pydantic", "pulp", "rich", "PIL", "jinja2"}


def test_search_imports_neither_torch_nor_a_runtime(indicators: Path, tmp_path: Path) -> None:
    done = python(LOADED, "search", indicators, "--like", "w3a3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "numpy" in loaded
    assert not loaded & {*HEAVY, "onnx", "pulp"}  # our own search needs no library of solvers
    assert (tmp_path / "policy.json").is_file()


def test_doctor_imports_no_torch(tmp_path: Path) -> None:
    done = python(LOADED, "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not set(done.stderr.split()) & {"torch", "torchvision", "sklearn", "scipy"}


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "limpq_deploy", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("limpq-deploy, version ")


def test_search_doctor_and_verify_do_without_extras(indicators: Path, tmp_path: Path) -> None:
    code = WITHOUT + "from limpq_deploy.cli.main import main\nmain()"
    absent = ",".join(HEAVY)
    assert python(code, absent, "search", indicators, "--like", "w3a3", cwd=tmp_path).returncode == 0
    done = python(code, absent, "doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    diagnosis = json.loads(done.stdout)
    assert len(diagnosis["runtimes"]) >= 3
    assert not any(item["usable"] for item in diagnosis["runtimes"])
    assert "limpq-deploy[cpu]" in diagnosis["runtimes"][0]["detail"]


@pytest.mark.parametrize("command", [("build",), ("parity", "out")])
def test_without_torch_the_sentence_names_the_extra(command: tuple[str, ...], tmp_path: Path) -> None:
    done = python(WITHOUT + "from limpq_deploy.cli.main import main\nmain()", "torch", *command, cwd=tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "needs torch" in line
    assert "pip install 'limpq-deploy[train]'" in line


def test_each_missing_package_is_named_with_its_extra_before_training(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    done = python(WITHOUT + EVERY_EXTRA, "nothing", cwd=tmp_path)
    lines = done.stdout.splitlines()
    extras = {"safetensors": "train", "onnxscript": "train", "onnxruntime": "cpu", "sklearn": "train"}
    assert len(lines) == len(extras), done.stdout + done.stderr
    for line, (name, extra) in zip(lines, extras.items(), strict=True):
        assert line.startswith(f"{name} 1 Error: ")
        assert f"pip install 'limpq-deploy[{extra}]'" in line
    assert not (tmp_path / "limpq-build").exists()
