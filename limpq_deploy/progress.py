"""Progress of long work: a bar on a terminal, in a log a line at its start and one every half minute."""

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from limpq_deploy.calibration.plain_text import plain, visible
from limpq_deploy.callbacks import heard

Level = Literal["quiet", "usual", "verbose"]

SECONDS: dict[Level, float | None] = {"quiet": None, "usual": 30.0, "verbose": 5.0}
"""Between two lines of a log at each level; None: there are none."""

_level: dict[str, Level] = {"now": "usual"}

LEAST_SHARE, LEAST_STEPS = 0.02, 5
"""What must be done of a phase, in share or in steps, before the rest is estimated: its first step is often slow."""

T = TypeVar("T")


class Report(Protocol):
    """Called while work goes on: steps done, steps in all, and a short text such as ``loss 0.31``."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Report nothing."""


def speak(level: Level) -> None:
    """How much is told from now on: nothing but answers and errors, the usual, or more often and with the cost."""
    _level["now"] = level


def is_quiet() -> bool:
    return _level["now"] == "quiet"


def is_verbose() -> bool:
    return _level["now"] == "verbose"


@dataclass(slots=True)
class _Count:
    done: int = 0
    total: int = 0
    note: str = ""

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


class Course:
    """How far some work is, and what is left of it. ``clock`` gives seconds.

    `report` counts its steps, `part` what is done within the step that is under way. Work of several phases, each with
    a count of its own, is estimated phase by phase.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self._clock = clock
        self._began = self._since = clock()
        self._first = 0.0
        self._steps, self._part = _Count(), _Count()

    def report(self, done: int, total: int, note: str = "") -> None:
        if total != self._steps.total or done < self._steps.done:
            self._begin_phase(done / total if total > 0 else 0.0)
        if done != self._steps.done:
            self._part = _Count()
        self._steps = _Count(done, total, note)

    def part(self, done: int, total: int, note: str = "") -> None:
        if self._steps.total == 0 and (total != self._part.total or done < self._part.done):
            self._begin_phase(0.0)
        self._part = _Count(done, total, note)

    def left(self) -> float | None:
        """Seconds that the phase still takes, as fast as it went so far; None where that cannot be said."""
        share, gone = self._share(), self._clock() - self._since
        steps = (share - self._first) * max(self._steps.total, self._part.total)
        if gone <= 0 or (share - self._first < LEAST_SHARE and steps < LEAST_STEPS):
            return None
        return gone * (1 - share) / (share - self._first)

    def line(self) -> str:
        """``indicators: 120 of 253 (loss 0.31), 65 s so far, about 72 s left``"""
        counts = [_shown(one) for one in (self._steps, self._part) if one.total > 0 or one.note]
        left = self.left()
        told = [*counts, f"{lasting(self._clock() - self._began)} so far"]
        if left is not None:
            several = " of this part" if self._since > self._began + 1 else ""
            told.append(f"about {lasting(left)} left{several}")
        return f"{self.title}: {', '.join(told)}"

    def seconds(self) -> float:
        return self._clock() - self._began

    def _begin_phase(self, share: float) -> None:
        self._since, self._first, self._part = self._clock(), share, _Count()

    def _share(self) -> float:
        if self._steps.total > 0:
            within = self._part.share / self._steps.total if self._steps.done < self._steps.total else 0.0
            return self._steps.share + within
        return self._part.share


def _shown(count: _Count) -> str:
    text = f"{count.done:,} of {count.total:,}" if count.total > 1 else ""
    note = " ".join(plain(count.note).split())
    return f"{text} ({note})" if text and note else text or note


def lasting(seconds: float) -> str:
    """``72 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


_under_way: list[Callable[[int, int, str], None]] = []
"""Where `counted` tells what it counts: the innermost `progress` last."""


def counted(items: Iterable[T], total: int, note: str = "") -> Iterator[T]:
    """The same items; how many are done is told to the progress that is under way, if any."""
    for number, item in enumerate(items):
        tell_part(number, total, note)
        yield item


def tell_part(done: int, total: int, note: str = "") -> None:
    """Tell how much is done of the step that is under way, without handing a `Report` down to where it is done."""
    if _under_way:
        _under_way[-1](done, total, note)


@contextlib.contextmanager
def progress(title: str, *, why: str = "", brief: bool = False) -> Iterator[Report]:
    """A `Report` that draws a bar with time left on stderr; where that is no terminal, it writes a line now (with
    -v: ``why``), and every 30 s what is done and left, however long a step takes. ``brief``: it takes a second or two,
    and is not announced. All listeners hear it too, whatever is drawn."""
    with heard(title) as tell, _drawn(title, why, brief) as draw:

        def report(done: int, total: int, note: str = "") -> None:
            draw(done, total, note)
            tell(done, total, note)

        yield report


@contextlib.contextmanager
def _drawn(title: str, why: str, brief: bool) -> Iterator[Report]:
    seconds = SECONDS[_level["now"]]
    if seconds is None or int(os.environ.get("RANK", "0")):  # torchrun's others are silent
        yield silent
        return
    manner = _bar(title) if sys.stderr.isatty() else _lines(title, why, seconds, announced=not brief or is_verbose())
    with manner as course:
        _under_way.append(course.part)
        try:
            yield course.report
        finally:
            _under_way.pop()


@contextlib.contextmanager
def _lines(title: str, why: str, seconds: float, *, announced: bool) -> Iterator[Course]:
    stream, course, ended = sys.stderr, Course(title), threading.Event()

    def write(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # who reads has gone away
            print(visible(line), file=stream, flush=True)

    def tell() -> None:
        while not ended.wait(seconds):
            write(f"  {course.line()}")

    if announced:
        write(f"> {title}{f': {why}' if why and is_verbose() else ''}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield course
    finally:
        ended.set()
        teller.join()
        if is_verbose():
            write(f"  {title}: {course.seconds():.1f} s, {_cost(used)}")


def _cost(before: resource.struct_rusage) -> str:
    now = resource.getrusage(resource.RUSAGE_SELF)
    own, kernel = now.ru_utime - before.ru_utime, now.ru_stime - before.ru_stime
    return f"CPU {own:.1f} s and {kernel:.1f} s in the kernel, memory at its most {now.ru_maxrss / 2**20:.2f} GiB"


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Course]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        TextColumn("  [bold]{task.description:<18}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("[dim]{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, note="")

        class Drawn(Course):
            def report(self, done: int, total: int, note: str = "") -> None:
                super().report(done, total, note)
                bars.update(task, completed=done, total=total, note=escape(plain(note)))

            def part(self, done: int, total: int, note: str = "") -> None:
                super().part(done, total, note)
                if self._steps.total == 0:
                    bars.update(task, completed=done, total=total, note=escape(plain(note)))

        yield Drawn(title)
