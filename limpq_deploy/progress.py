"""Progress of long work: a bar on a terminal, silence in logs."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from limpq_deploy.callbacks import heard


class Report(Protocol):
    """Called while work goes on: steps done, steps in all, and a short text such as ``loss 0.31``."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def silent(done: int, total: int, note: str = "") -> None:
    """Report nothing."""


@contextlib.contextmanager
def progress(title: str) -> Iterator[Report]:
    """A `Report` that draws a bar with time left on stderr, none where that is no terminal, and tells all listeners."""
    with heard(title) as tell, _bar(title) as draw:

        def report(done: int, total: int, note: str = "") -> None:
            draw(done, total, note)
            tell(done, total, note)

        yield report


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Report]:
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
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

        def report(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, note=note)

        yield report
