"""What long work says: lines in a log, with a fake clock and with a real one."""

import io
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from limpq_deploy import progress as module
from limpq_deploy.progress import Course, counted, lasting, progress, speak


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    yield
    speak("usual")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was written to standard error since it was last asked; lines come every 0.1 s instead of every 30."""
    monkeypatch.setitem(module.SECONDS, "usual", 0.1)
    monkeypatch.setitem(module.SECONDS, "verbose", 0.05)
    return lambda: capsys.readouterr().err


def test_what_is_left_is_estimated_from_what_was_done() -> None:
    clock = Clock()
    course = Course("indicators", clock)
    course.report(0, 100)
    clock.now += 60
    course.report(25, 100, "loss 0.3")
    assert course.left() == pytest.approx(180)
    assert course.line() == "indicators: 25 of 100 (loss 0.3), 60 s so far, about 3 min left"


def test_a_first_step_alone_says_nothing_of_thousands() -> None:
    clock = Clock()
    course = Course("importance", clock)
    course.report(0, 1000)
    clock.now += 60
    course.report(1, 1000)
    assert course.left() is None
    course.report(6, 1000)
    assert course.left() is not None


def test_a_training_that_went_on_from_a_checkpoint_is_not_credited_with_what_it_found() -> None:
    clock = Clock()
    course = Course("fine-tuning", clock)
    course.report(50, 100, "resumed at step 50")
    assert course.left() is None
    clock.now += 10
    course.report(75, 100)
    assert course.left() == pytest.approx(10)


def test_what_is_done_of_the_step_under_way_counts() -> None:
    clock = Clock()
    course = Course("policy", clock)
    course.report(0, 4, "kl")
    clock.now += 10
    course.part(5, 10, "batches")
    assert course.left() == pytest.approx(10 * 0.875 / 0.125)
    course.report(1, 4, "loss")
    assert course.left() == pytest.approx(30)


def test_work_of_several_phases_is_estimated_by_the_phase_under_way() -> None:
    clock = Clock()
    course = Course("indicators", clock)
    clock.now += 100
    course.report(150, 150)
    course.report(0, 4, "importance")
    clock.now += 20
    course.report(1, 4, "importance")
    assert course.left() == pytest.approx(60)
    assert course.line().endswith("2 min so far, about 60 s left of this part")


def test_nothing_is_estimated_of_what_was_not_counted() -> None:
    clock = Clock()
    course = Course("export", clock)
    clock.now += 70
    assert course.line() == "export: 70 s so far"


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_seconds_in_words(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


def test_a_log_gets_a_line_at_the_start_and_others_while_a_single_step_lasts(log: Callable[[], str]) -> None:
    with progress("parity"):
        assert log() == "> parity\n"
        time.sleep(0.35)
    lines = log().splitlines()
    assert lines[0].startswith("  parity: ")
    assert 2 <= len(lines) <= 3


def test_what_takes_a_second_is_not_announced_but_told_when_it_lasts(log: Callable[[], str]) -> None:
    with progress("checking inputs", brief=True):
        assert log() == ""
        time.sleep(0.15)
    assert log().startswith("  checking inputs: ")


def test_what_is_done_deep_within_is_told_without_handing_a_report_down(log: Callable[[], str]) -> None:
    with progress("accuracy") as report:
        report(0, 2, "float")
        for _ in counted(range(4), 4, "batches"):
            time.sleep(0.06)
    said = log()
    assert "accuracy: 0 of 2 (float), 1 of 4 (batches)" in said
    assert "left" in said


def test_counting_where_nothing_is_under_way_says_nothing(log: Callable[[], str]) -> None:
    assert list(counted("abc", 3)) == ["a", "b", "c"]
    assert log() == ""


def test_quiet_says_nothing_at_all(log: Callable[[], str]) -> None:
    speak("quiet")
    with progress("parity") as report:
        report(0, 1)
        time.sleep(0.15)
    assert log() == ""


def test_verbose_says_why_and_what_it_cost(log: Callable[[], str]) -> None:
    speak("verbose")
    with progress("parity", why="inputs changed"):
        pass
    first, last = log().splitlines()
    assert first == "> parity: inputs changed"
    assert "in the kernel, memory at its most" in last


def test_processes_beside_the_first_are_silent(log: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with progress("parity"):
        pass
    assert log() == ""


def test_a_reader_that_went_away_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with progress("parity"):
        pass
