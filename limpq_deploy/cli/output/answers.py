"""Standard output is the answer: what a command answers goes there, and nothing else does.

While a command runs, file descriptor 1 and ``sys.stdout`` lead to stderr, and so do those of processes that it starts:
prints of a user's module, banners of C libraries, output of workers. `answer` alone reaches the real standard output.
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import click

from limpq_deploy.calibration.plain_text import visible
from limpq_deploy.foreign_output import STDERR, STDOUT, duplicate, stdout_to_stderr
from limpq_deploy.progress import is_quiet

_streams: list[TextIO] = []
"""The real standard output while a command runs; empty otherwise."""

_state = {"json": False, "given": False}
"""Whether one JSON object is asked for, and whether anything was answered."""


def answer(text: str) -> None:
    """Write a line to standard output: what the user asked for."""
    _state["given"] = True
    click.echo(visible(text), file=_streams[-1] if _streams else None)


def aside(text: str) -> None:
    """Write lines beside the answer, to standard error, where nothing stands that a terminal obeys; none with -q."""
    if not is_quiet():
        click.echo(visible(text), err=True)


def expect(*, as_json: bool) -> None:
    """A new command line: whether it asks for JSON."""
    _state.update(json=as_json, given=False)


def given() -> bool:
    """Whether the command has answered."""
    return _state["given"]


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that cannot write to standard output but by `answer`."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        with _guard():
            return command(*arguments, **options)

    return run


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Where JSON is asked for, and an error comes before the answer, the answer is an object with ``error`` (the
    sentence) and ``exit_code``. The error goes on."""
    try:
        yield
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
        raise
    except click.exceptions.Exit as end:
        if end.exit_code:
            _fail("stopped before the answer", end.exit_code)
        raise
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        _fail(
            "stopped before the answer" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}", code
        )
        raise


def leave() -> None:
    """At the end of the program: what still prints, such as exit handlers of a user's module, does so on stderr."""
    if sys.stdout is None:  # it was closed from the start
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(STDERR, STDOUT)
    sys.stdout = sys.stderr


def _fail(sentence: str, exit_code: int) -> None:
    if _state["json"] and not _state["given"] and not int(os.environ.get("RANK", "0")):  # torchrun's others are silent
        with contextlib.suppress(OSError, ValueError):
            answer(json.dumps({"error": " ".join(sentence.split()), "exit_code": exit_code}))


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    before = sys.stdout
    if before is None:  # it was closed from the start, and file descriptor 1 may be any file by now
        yield
        return
    real = _open_real(before)
    _streams.append(real)
    try:
        with stdout_to_stderr():
            sys.stdout = sys.stderr
            yield
    finally:
        _streams.pop()
        sys.stdout = before
        if real is not before:
            with contextlib.suppress(OSError):  # a reader that went away was told by `answer`
                real.close()


def _open_real(stdout: TextIO) -> TextIO:
    """A stream of its own on file descriptor 1 where ``stdout`` is that; else (a test's buffer) ``stdout`` itself."""
    try:
        if stdout.fileno() != STDOUT:
            return stdout
        return os.fdopen(duplicate(STDOUT), "w", encoding=stdout.encoding, errors="backslashreplace")
    except (OSError, ValueError):
        return stdout
