"""While code of others runs, what it writes to standard output goes to standard error: banners of C libraries, prints
of processes that it starts."""

import contextlib
import os
import sys
from collections.abc import Iterator

STDOUT, STDERR = 1, 2


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """File descriptor 1 leads to stderr, or nowhere where that is closed. What is written to ``sys.stdout`` meanwhile
    goes there too, unless that is another file. Where standard output was closed from the start nothing is done: its
    descriptor may be any file by now."""
    if sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    kept = _redirected()
    try:
        yield
    finally:
        if kept is not None:
            _flush_buffers()
            os.dup2(kept, STDOUT)
            os.close(kept)


def duplicate(descriptor: int) -> int:
    """A copy of a file descriptor, above 2: a standard stream that was closed leaves its number to whatever is opened
    next. Raises OSError where there is no such descriptor."""
    copies = [os.dup(descriptor)]
    while copies[-1] <= STDERR:
        copies.append(os.dup(descriptor))
    *low, kept = copies
    for copy in low:
        os.close(copy)
    return kept


def _redirected() -> int | None:
    """Let file descriptor 1 lead to stderr; returns a copy of it as it was, None where there is none."""
    try:
        kept = duplicate(STDOUT)
    except OSError:
        return None
    try:
        if sys.__stderr__ is None:
            raise OSError("closed from the start, so that its number may be any file by now")
        os.dup2(STDERR, STDOUT)
    except OSError:  # what is not the answer goes nowhere
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), STDOUT)
    return kept


def _flush_buffers() -> None:
    """What is still held back would come out after file descriptor 1 is restored."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).fflush(None)
