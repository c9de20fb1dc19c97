"""One real build on the digits, made once a session with a few training steps; tests work on copies of it."""

import functools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.cli.main import main
from limpq_deploy.progress import Report
from limpq_deploy.workspace.sources import code_of
from limpq_deploy.workspace.step import Step
from limpq_deploy.workspace.workspace import Workspace

from ...export.runtimes.tensorrt.trt_stand_in import stand_in

SETTINGS = """
like = "w5a5"
max-accuracy-drop = 30.0  # a float model of 60 steps is no yardstick
latency_seconds = 0.1
[training]
float-steps = 60
joint_steps = 5
finetune_steps = 40
"""

QUICK = ("--ptq", "--calibration-images", "64", "--bits", "4,5", "--importance", "scale", "--max-accuracy-drop", "50")

Command = Callable[..., Result]


def limpq_deploy(*arguments: str | Path) -> Result:
    """Run a command in this process. What it does not turn into an exit code is raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TOML file of the tiny build."""
    file = tmp_path_factory.mktemp("settings") / "tiny.toml"
    file.write_text(SETTINGS)
    return file


Executed = dict[str, tuple[set[str], tuple[str, ...]]]
"""By stage: source files of which a function was called, and the modules that its digest is over."""


def watched(stage: Step, executed: Executed) -> Step:
    """A stage that records what it executes."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    @functools.wraps(stage.run)
    def run(report: Report) -> str:
        sys.setprofile(note)
        try:
            return stage.run(report)
        finally:
            sys.setprofile(None)
            executed[stage.name] = files, code_of(stage.run).modules

    return replace(stage, run=run)


@pytest.fixture(scope="session")
def executed() -> Executed:
    """What the stages of the finished build executed."""
    return {}


@pytest.fixture(scope="session")
def _finished(settings: Path, tmp_path_factory: pytest.TempPathFactory, executed: Executed) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("finished")
    run = Workspace.run
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Workspace, "run", lambda space, stage, **how: run(space, watched(stage, executed), **how))
        result = limpq_deploy("build", "--config", settings, "--out", "out")
    assert result.exit_code == 0, result.output
    return folder / "out", result


@pytest.fixture(scope="session")
def finished(_finished: tuple[Path, Result]) -> Path:
    """Directory of the finished build; only to be read."""
    return _finished[0]


@pytest.fixture(scope="session")
def first_result(_finished: tuple[Path, Result]) -> Result:
    """What that build printed."""
    return _finished[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copy(finished: Path, here: Path) -> Path:
    """A copy of the finished build, ``out`` in the working directory, as the original was in its own."""
    return Path(shutil.copytree(finished, here / "out"))


@pytest.fixture
def run() -> Command:
    return limpq_deploy


@pytest.fixture
def refused() -> Callable[..., str]:
    """Run a command that must fail: exit code 1, nothing on stdout (with --json the sentence), one sentence with these
    words; returns it."""

    def check(*arguments: str | Path, words: tuple[str, ...]) -> str:
        result = limpq_deploy(*arguments)
        assert result.exit_code == 1, result.output
        if "--json" in arguments:
            assert json.loads(result.stdout) == {"error": result.stderr.splitlines()[-1][7:], "exit_code": 1}
        else:
            assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if not line.startswith(("+ ", "= ", "> ", "  ", "note: "))]
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("Error: ")
        for word in words:
            assert word in lines[0]
        return lines[0]

    return check


@pytest.fixture(scope="session")
def built(finished: Path, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build for TensorRT without a GPU, with a limit that only the other machine can judge."""
    out = shutil.copytree(finished, tmp_path_factory.mktemp("handed") / "out")
    limits = ("--max-latency-ms", "100", "--batch", "1:2:8")
    done = limpq_deploy(
        *("build", "--config", settings, "--target", "tensorrt", "--no-engine", *QUICK, *limits), "--out", out
    )
    assert done.exit_code == 0, done.output
    assert not [line for line in done.stderr.splitlines() if "no effect" in line and "--max-latency-ms" in line]
    return out


@pytest.fixture
def bundle(built: Path, here: Path) -> Path:
    """Its bundle, alone on the other machine."""
    return Path(shutil.copytree(built / "bundle", here / "bundle"))


@pytest.fixture
def gpu(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, here / "cache")
