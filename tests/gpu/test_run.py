"""The one script on a GPU machine: its tests pass once. A shell script plays the Python that has TensorRT."""

import importlib.util
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


def test_tests_that_hang_are_ended_at_half_of_the_time_and_none_are_begun_without_any(
    script: Any, tmp_path: Path
) -> None:
    python, log = Played(tmp_path), tmp_path / "tests.log"
    python.program.write_text(python.program.read_text().replace('echo "3 passed"', "exec sleep 60"))
    assert script.tests(str(python.program), log, minutes=0.01) == 1
    assert "ended after 0.0 minutes" in log.read_text()
    assert script.tests(str(python.program), log, minutes=0.0) == 0
    assert "the time was up" in log.read_text()
