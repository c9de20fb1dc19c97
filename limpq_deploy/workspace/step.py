"""A stage as the folder of a build sees it: what it depends on by name, files read and written, and what to call."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.export.ship.manifest import SIGNATURE
from limpq_deploy.progress import Report

NAMED_DEPTH = 2
"""How deep dictionaries among the inputs are distinguished by name: ``training.settings.steps``."""

SHORT = 12
"""Digits of a SHA-256 that are recorded by name."""


@dataclass(frozen=True, slots=True)
class Part:
    """What matters of a file to a stage that reads it: ``of`` gives it, JSON-able."""

    file: str
    name: str
    of: Callable[[Path], Any]

    def __str__(self) -> str:
        return f"{self.file} ({self.name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. ``inputs``: by name, everything beside files that its result depends on, JSON-able; ``reads``: files of
    earlier steps.

    ``asked``: settings by their options, of which those inputs come; no part of the digest, but it says what changed.
    ``outputs``: files (or folders) that it writes, relative to the directory; ``completes``: those of earlier steps
    that it writes again with something more in them. ``run`` gets a progress report and
    returns one line for people. ``checkpoint``: a file that a killed run leaves for the next one. ``together``: all
    processes that torchrun started run it, of which the first writes.
    """

    name: str
    title: str
    inputs: Mapping[str, Any]
    reads: tuple[str | Part, ...]
    outputs: tuple[str, ...]
    run: Callable[[Report], str]
    completes: tuple[str, ...] = ()
    checkpoint: str | None = None
    together: bool = False
    asked: Mapping[str, Any] = field(default_factory=dict)

    def named(self, digests: Mapping[str, str]) -> dict[str, str]:
        """The first digits of digests, and of those of what was asked, as they are recorded to say what has changed."""
        asked = {name: _hash(value) for name, value in self.asked.items()}
        return {name: digest[:SHORT] for name, digest in (*asked.items(), *digests.items())}

    def digests(self, folder: Path, *, without: Collection[str] = ()) -> dict[str, str]:
        """SHA-256 of every input and of every file that is read, by name; files ``without`` are left away.

        Raises RecordError where a file is missing.
        """
        inputs = {name: _hash(value) for name, value in _named(self.inputs, NAMED_DEPTH)}
        return inputs | self.read_digests(folder, without=without)

    def read_digests(self, folder: Path, *, without: Collection[str] = ()) -> dict[str, str]:
        """Of the files alone."""
        found = {}
        for one in self.reads:
            name = one.file if isinstance(one, Part) else one
            path = folder / name
            if name in without:
                continue
            if not path.exists():
                raise RecordError(
                    f"{path}, which the stage {self.name!r} reads, is missing; run the build again, which makes it"
                )
            found[str(one)] = _hash(one.of(path)) if isinstance(one, Part) else digest_of(path)
        return found


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents. A signature is put to a bundle when it is finished,
    and checked by its own key."""
    if path.is_file():
        return sha256_of(path)
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != SIGNATURE)
    return _hash({str(file.relative_to(path)): sha256_of(file) for file in files})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _named(inputs: Mapping[str, Any], depth: int, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every input by its name, of a dictionary every entry."""
    for name, value in inputs.items():
        if isinstance(value, dict) and value and depth:
            yield from _named(value, depth - 1, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
