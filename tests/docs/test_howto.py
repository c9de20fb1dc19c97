"""Every command of the how-to runs: those of the machine that trains to their end, those of the machine with the GPU up
to its door, and behind it against a stand-in for TensorRT whose engines run the ONNX file."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("cryptography", reason="needs the extra limpq-deploy[serve]")

from limpq_deploy.cli.main import main

from ..export.runtimes.tensorrt.trt_stand_in import stand_in

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/howto/train-here-serve-there.md"
BLOCK = re.compile(r"^```sh ?(\w*)\n(.*?)^```$", re.M | re.S)
QUICK = """
bits = [4, 5]
importance = "scale"
max-accuracy-drop = 30.0  # a float model of 60 steps is no yardstick
latency_seconds = 0.1
[training]
float-steps = 60
joint_steps = 2
finetune_steps = 10
"""

WITHOUT_TORCH = """
import importlib.abc, sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "safetensors", "onnxscript", "timm", "sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
from limpq_deploy.cli.main import main
main()
"""


def commands(place: str) -> list[list[str]]:
    """Commands of the page's blocks for one place, in words."""
    text = "".join(block for where, block in BLOCK.findall(PAGE.read_text()) if where == place)
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def ours(place: str) -> Iterator[list[str]]:
    """Arguments of those that are ours; of pip's it is checked that the package has such extras."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for program, *words in commands(place):
        if program == "pip":
            [(name, asked)] = re.findall(r"^([\w-]+)\[([\w,]+)\]$", words[1])
            assert (words[0], name) == ("install", "limpq-deploy")
            assert set(asked.split(",")) <= set(extras)
            continue
        assert program == "limpq-deploy"
        yield words


def call(*words: str) -> Result:
    result = CliRunner().invoke(main, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the machine that trains, every command of it done."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "quick.toml").write_text(QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in ours("here"):
            brief = ["--config", "quick.toml"] if words[0] == "build" else []
            done = call(*words, *brief)
            assert done.exit_code == 0, (words, done.output)
            (folder / f"{words[0]}.txt").write_text(done.output)
    return folder


@pytest.fixture
def there(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the other machine, with what the page copies, and nothing else."""
    shutil.copytree(here / "trained/bundle", tmp_path / "bundle")
    shutil.copy(here / "release.key.pub", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_commands_for_both_places_and_no_block_of_another() -> None:
    assert [words[0] for words in ours("here")] == ["keygen", "build", "sign", "verify", "ship", "verify"]
    assert [words[0] for words in ours("there")] == ["doctor", "keygen", "finish", "ship", "verify"]
    assert {words[0] for words in commands("server")} == {"tritonserver", "docker", "limpq-deploy"}
    assert {where for where, _ in BLOCK.findall(PAGE.read_text())} == {"here", "there", "server"}


def test_here_the_verdict_says_what_is_left_and_the_twin_is_served(here: Path) -> None:
    said = (here / "build.txt").read_text()
    assert "passed; latency not measured: no GPU here" in said
    assert "limpq-deploy finish trained/bundle" in " ".join(said.split())
    verdict = json.loads((here / "trained/verdict.json").read_text())
    assert verdict["outcome"] == "incomplete"
    assert {one["name"] for one in verdict["not_measured"]} >= {"parity_engine", "latency", "speedup"}
    assert (here / "models/resnet8/1/model.py").is_file()
    refused = CliRunner().invoke(main, ["ship", str(here / "trained"), str(here / "m"), "--backend", "tensorrt"])
    assert refused.exit_code == 1
    assert "found no TensorRT plan" in refused.stderr


@pytest.mark.skipif("LIMPQ_TRITON" not in os.environ, reason="needs LIMPQ_TRITON, a folder with a real tritonserver")
def test_here_a_real_server_answers_as_the_page_says(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of the page, at free ports; this server would ask a GPU for metrics unless told otherwise."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # its python backend's
    monkeypatch.chdir(here)
    start, (_, *health) = commands("server")[:2]
    program = Path(os.environ["LIMPQ_TRITON"]).resolve() / "tritonserver"
    with import_module("tritonserver").TritonServer(program, here / "models", tmp_path / "log") as server:
        ports = [f"--{name}-port={getattr(server, name)}" for name in ("http", "grpc", "metrics")]
        server.run([str(program), *start[1:], *ports, "--allow-gpu-metrics=false"], "resnet8")
        done = call(*(word.replace(":8001/", f":{server.grpc}/") for word in health))
    assert done.exit_code == 0, done.output


def test_there_everything_runs_up_to_the_door_of_the_gpu_without_torch(there: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for words in ours("there"):
        command = [sys.executable, "-c", WITHOUT_TORCH, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if words[0] == "keygen":
            assert done.returncode == 0, done.stderr
            continue
        assert done.returncode == 1
        [sentence] = done.stderr.splitlines()
        assert sentence.startswith("Error: TensorRT is not available here: ")
        if words[0] == "finish":
            assert sentence.endswith("finish it on a machine with the GPU that is to serve it")
            break
    assert sorted(path.name for path in there.iterdir()) == [
        *("bundle", "release.key.pub", "server.key", "server.key.pub")
    ]


def test_behind_the_door_the_bundle_becomes_an_engine_that_triton_is_given(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, there / "cache")
    for words in ours("there"):
        done = call(*words)
        assert done.exit_code == 0, (words, done.output)
    verdict = json.loads((there / "finished/verdict.json").read_text())
    assert verdict["outcome"] == "passed"
    assert {"parity_engine", "integers_everywhere", "speedup"} <= {check["name"] for check in verdict["checks"]}
    assert 'platform: "tensorrt_plan"' in (there / "models/resnet8/config.pbtxt").read_text()
    plan = (there / "models/resnet8/1/model.plan").read_bytes()
    assert plan.startswith(b"ftrt")
    assert plan == (there / "finished/bundle/model.plan").read_bytes()
