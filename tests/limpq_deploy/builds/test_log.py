"""The log of a build where there is no terminal: when each stage starts, and that nothing is silent for long."""

import io
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from limpq_deploy import progress
from limpq_deploy.cli.main import main
from limpq_deploy.importance import tournament
from limpq_deploy.importance.preview import Preview
from limpq_deploy.importance.ties import Behind

Command = Callable[..., Result]

EVERY = 0.3
"""Stands for the 30 s between two lines."""
LONGEST = EVERY * 35 / 30
SLACK = 2.5
"""Seconds in which a loaded machine may be busy elsewhere; a silent stage would last about twice that."""


class Timed(io.StringIO):
    """A log that remembers when each line came."""

    def __init__(self) -> None:
        super().__init__()
        self.times = [time.monotonic()]

    def write(self, text: str) -> int:
        if "\n" in text:
            self.times.append(time.monotonic())
        return super().write(text)


def test_no_stage_is_silent_for_long_however_long_a_step_of_it_takes(
    copy: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, behind = Timed(), tournament.behind
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setitem(progress.SECONDS, "usual", EVERY)

    def slow(other: Preview, best: Preview) -> Behind:
        time.sleep(1.5)
        return behind(other, best)

    monkeypatch.setattr(tournament, "behind", slow)
    arguments = ["export", "--config", str(settings), "--out", str(copy), "--alpha", "0.7"]
    main.main(arguments, standalone_mode=False)
    lines = log.getvalue().splitlines()
    assert [line for line in lines if line.startswith("> policy")]
    told = [line for line in lines if line.startswith("  policy: ")]
    assert len(told) >= 2, lines
    gaps = [later - earlier for earlier, later in zip(log.times, log.times[1:], strict=False)]
    assert log.times[-1] - log.times[0] > 2 * SLACK
    assert max(gaps) < LONGEST + SLACK, sorted(gaps)[-3:]


def test_a_stage_that_runs_says_so_first_and_one_that_stands_is_not_announced(
    copy: Path, settings: Path, run: Command
) -> None:
    result = run("build", "--config", settings, "--out", copy, "--max-accuracy-drop", 40)
    titles = re.findall(r"^> (.*)$", result.stderr, re.MULTILINE)
    assert titles == ["verdict", "report", "bundle"]


def test_quiet_gives_the_answer_alone(copy: Path, settings: Path, run: Command) -> None:
    result = run("build", "-q", "--config", settings, "--out", copy)
    assert result.stderr == ""
    assert "checks kept" in result.stdout


def test_verbose_says_why_a_stage_runs_and_what_it_cost(copy: Path, settings: Path, run: Command) -> None:
    result = run("build", "--config", settings, "--out", copy, "--max-accuracy-drop", 41, "--verbose")
    assert "> verdict: its inputs or outputs changed" in result.stderr
    assert re.search(r"  verdict: .* in the kernel, memory at its most", result.stderr)


def test_quiet_and_verbose_exclude_each_other(run: Command) -> None:
    result = run("build", "-q", "-v", "--plan")
    assert result.exit_code == 2
    assert "give one of them" in result.stderr
