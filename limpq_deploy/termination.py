"""SIGTERM (systemd, Slurm, docker stop) ends a command as Ctrl-C does: by an exception, so that all is tidied up."""

import signal
import threading
from types import FrameType


class Terminated(BaseException):
    """The process was asked to end."""


def listen() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread; where somebody else answers it, or it is ignored,
    that stays."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends at once
    raise Terminated
