"""The one script on a GPU machine: its tests pass once. A shell script plays the Python that has TensorRT."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PYTHON = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
    *--versions*) cat {versions};;
    *"-m pytest"*) echo "3 {outcome}"; test {outcome} = passed;;
esac
"""


class Played:
    def __init__(self, folder: Path) -> None:
        self.program, self.calls, self.versions = (folder / name for name in ("python", "calls", "versions"))
        self.versions.write_text('{"machine": "H200"}\n')
        self.set("passed")

    def set(self, outcome: str) -> None:
        self.program.write_text(PYTHON.format(calls=self.calls, versions=self.versions, outcome=outcome))
        self.program.chmod(0o755)

    @property
    def tested(self) -> int:
        return self.calls.read_text().count("-m pytest")


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_run", Path(__file__).with_name("run.py"))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_tests_that_passed_are_not_run_again_with_the_same_versions(script: Any, tmp_path: Path) -> None:
    python, log = Played(tmp_path), tmp_path / "tests.log"
    for _ in range(2):
        assert script.tests(str(python.program), log, minutes=1.0) == 0
    assert python.tested == 1
    assert log.read_text() == '3 passed\npassed with {"machine": "H200"}\n'
    python.versions.write_text('{"machine": "B200"}\n')
    script.tests(str(python.program), log, minutes=1.0)
    assert python.tested == 2


def test_tests_that_failed_or_were_skipped_for_want_of_a_gpu_are_run_again(script: Any, tmp_path: Path) -> None:
    python, log = Played(tmp_path), tmp_path / "tests.log"
    python.set("failed")
    assert script.tests(str(python.program), log, minutes=1.0) == 1
    python.set("passed")
    python.versions.write_text("")
    for _ in range(2):
        assert script.tests(str(python.program), log, minutes=1.0) == 0
    assert python.tested == 3


def test_tests_that_hang_are_ended_when_their_time_is_up_and_none_are_begun_without_any(
    script: Any, tmp_path: Path
) -> None:
    python, log = Played(tmp_path), tmp_path / "tests.log"
    python.program.write_text(python.program.read_text().replace('echo "3 passed"', "exec sleep 60"))
    assert script.tests(str(python.program), log, minutes=0.01) == 1
    assert "ended after 0.0 minutes" in log.read_text()
    assert script.tests(str(python.program), log, minutes=0.0) == 0
    assert "the time was up" in log.read_text()


def test_what_nothing_else_can_tell_is_done_before_the_tests_and_the_rest(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = Played(tmp_path)
    monkeypatch.setattr(script.sys, "executable", str(python.program))
    assert script.run(script.steps(tmp_path, str(python.program), [], quick=True), minutes=1.0) == 0
    words = ("--prepare", "--first", "-m pytest", "result.json")
    calls = [line for line in python.calls.read_text().splitlines() if any(word in line for word in words)]
    kinds = [next(word for word in words if word in line) for line in calls]
    assert kinds == ["--prepare", "--first", "-m pytest", "result.json"]


def test_all_of_it_fits_fourteen_minutes_with_the_way_there_and_back(script: Any, tmp_path: Path) -> None:
    assert script.MINUTES + script.TRANSFERS == script.WHOLE == 14
    python = Played(tmp_path)
    python.program.write_text("#!/bin/sh\nexec sleep 60\n")
    began = time.monotonic()
    steps = (script.Step("hangs", 9.0, lambda minutes: script.call([str(python.program)], minutes=minutes)),) * 3
    assert script.run(steps, minutes=0.02) == 1  # the first takes it all, and the others are not begun
    assert time.monotonic() - began < 10


def test_the_plan_is_printed_and_nothing_is_done(script: Any, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(script.__file__)), str(tmp_path / "out"), "--plan"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        *("files", "one INT8 engine"),
        *("GPU tests", "the rest of the benchmark"),
    ]
    assert "at most 3 minutes" in done.stdout
    assert not (tmp_path / "out").exists()
