"""What a caller hears of long work: stages, steps, metrics and notes."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any


class Callback:
    """Subclass it and override what you want to hear; each call is made in the thread that works.

    An exception that a method raises ends the work, and finished stages are kept.
    """

    def on_stage(self, stage: Any) -> None:
        """After each stage of a build: ``name``, ``title``, ``ran`` (False: done before), ``seconds``, ``said``."""

    def on_step(self, title: str, done: int, total: int, note: str) -> None:
        """While work goes on: steps done, steps in all, and a short text such as ``loss 0.31``."""

    def on_metric(self, name: str, value: float, step: int) -> None:
        """A figure of a training, such as ``finetune/loss/mixed`` after ``step`` steps."""

    def on_note(self, sentence: str) -> None:
        """What is worth knowing of this work, one sentence."""


class _Stepping(Callback):
    def __init__(self, step: Callable[[str, int, int, str], object]) -> None:
        self._step = step

    def on_step(self, title: str, done: int, total: int, note: str) -> None:
        self._step(title, done, total, note)


Listener = Callback | Callable[[str, int, int, str], object]
"""A `Callback`, or a function that is called as its ``on_step``."""

_LISTENING: ContextVar[tuple[Callback, ...]] = ContextVar("listening", default=())
_TITLE: ContextVar[str] = ContextVar("title", default="")


@contextlib.contextmanager
def listening(listener: Listener | None) -> Iterator[Callback]:
    """Within, a listener hears all; it gets back as a `Callback`."""
    heard = listener if isinstance(listener, Callback) else Callback() if listener is None else _Stepping(listener)
    token = _LISTENING.set((*_LISTENING.get(), heard))
    try:
        yield heard
    finally:
        _LISTENING.reset(token)


@contextlib.contextmanager
def heard(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Gives what tells all listeners of a piece of work with this title."""
    token = _TITLE.set(title)

    def tell(done: int, total: int, note: str = "") -> None:
        for one in _LISTENING.get():
            one.on_step(title, done, total, note)

    try:
        yield tell
    finally:
        _TITLE.reset(token)


def metric(name: str, value: float, step: int) -> None:
    """Tell all listeners a figure of the work that goes on; its name begins with the work's title."""
    for one in _LISTENING.get():
        one.on_metric(f"{_TITLE.get()}/{name}" if _TITLE.get() else name, value, step)
