"""Progress of long work: a bar on a terminal, silence in logs."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Report(Protocol):
    """Called while work goes on: steps done, steps in all, and a short text such as ``loss 0.31``."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Report nothing."""


@contextlib.contextmanager
def progress(title: str) -> Iterator[Report]:
    """A `Report` that draws a bar with time left on stderr; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("  [bold]{task.description:<22}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, note=note)

        yield report
