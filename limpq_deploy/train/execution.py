"""How a training is run: what stands here changes no result. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVERY_MINUTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A file from which a killed training goes on.

    ``identity``: JSON-able, what the training is about (model, data, settings ...); a file of another one is refused.
    A checkpoint is written after ``every_steps`` steps (None: not by steps), or ``every_minutes``, whichever comes
    first, and on Ctrl-C and SIGTERM.
    """

    path: Path
    identity: Mapping[str, Any]
    every_steps: int | None = None
    every_minutes: float = EVERY_MINUTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """``workers``: processes that read images ahead, 0 for none. ``log``: JSON lines, one per step (of a long training,
    about two thousand). ``tensorboard``: a folder of event files. ``checkpoint``: see `Checkpoint`."""

    workers: int = 0
    checkpoint: Checkpoint | None = None
    log: Path | None = None
    tensorboard: Path | None = None


ALONE = Execution()
"""No workers, no traces."""
