"""Stages on disk: digests, resume, one build at a time.

A stage is done when its inputs have the digest they had when it ran and its outputs are the files it wrote. What was
killed in between was never recorded, and is done again whole.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from limpq_deploy import __version__
from limpq_deploy.calibration.errors import OutputError, RecordError
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.progress import Report, progress

STATE = "stages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """A finished stage: the digest of its inputs, SHA-256 of each output, wall seconds, and its closing line."""

    inputs: str
    outputs: dict[str, str]
    seconds: float
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildState:
    """All finished stages of a directory, by name."""

    stages: dict[str, StageState]
    format: Literal["limpq.stages/1"] = field(default="limpq.stages/1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step. ``inputs``: everything that its result depends on, JSON-able; ``reads``: files of earlier stages.

    ``outputs``: files (or folders) that it writes, relative to the directory. ``run`` gets a progress report and
    returns one line for people.
    """

    name: str
    title: str
    inputs: Mapping[str, Any]
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Report], str]


class Workspace:
    """An output directory, held by one build at a time."""

    def __init__(self, folder: Path, *, quiet: bool = False, say: Callable[[str, str, float, bool], None]) -> None:
        """``say(title, line, seconds, skipped)`` is called after each stage."""
        self.folder = folder
        self.quiet = quiet
        self.say = say
        self.state = BuildState(stages={})

    @contextlib.contextmanager
    def held(self, *, fresh: bool = False) -> Iterator[None]:
        """Hold the directory; ``fresh`` forgets what was done. Raises OutputError if another build holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror}; choose another folder with --out"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(
                    f"another build is running in {self.folder}; wait for it to end, or choose another --out"
                ) from error
            self._remove_leftovers()
            if not fresh:
                self.state = self._load()
            yield
        finally:
            os.close(descriptor)

    def run(self, stage: Stage) -> bool:
        """Run a stage unless it is done; returns whether it ran."""
        digest = self._digest(stage)
        done = self.state.stages.get(stage.name)
        if done is not None and done.inputs == digest and self._outputs_stand(done):
            self.say(stage.title, done.said, done.seconds, True)
            return False
        self._record({name: state for name, state in self.state.stages.items() if name != stage.name})
        start = time.perf_counter()
        with progress(stage.title, quiet=self.quiet) as report:
            said = stage.run(report)
        seconds = time.perf_counter() - start
        outputs = {name: _digest_of(self.folder / name) for name in stage.outputs}
        state = StageState(inputs=digest, outputs=outputs, seconds=seconds, said=said)
        self._record({**self.state.stages, stage.name: state})
        self.say(stage.title, said, seconds, False)
        return True

    def _digest(self, stage: Stage) -> str:
        inputs = {
            "version": __version__,
            "stage": stage.name,
            "inputs": stage.inputs,
            "reads": {name: _digest_of(self.folder / name) for name in stage.reads},
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _outputs_stand(self, done: StageState) -> bool:
        return all(
            (self.folder / name).exists() and _digest_of(self.folder / name) == digest
            for name, digest in done.outputs.items()
        )

    def _record(self, stages: dict[str, StageState]) -> None:
        self.state = BuildState(stages=stages)
        write_record(self.state, self.folder / STATE)

    def _load(self) -> BuildState:
        path = self.folder / STATE
        if not path.exists():
            return BuildState(stages={})
        try:
            return load_record(BuildState, path)
        except RecordError:
            return BuildState(stages={})

    def _remove_leftovers(self) -> None:
        """Temporary files of a build that was killed."""
        for path in self.folder.glob(".*.tmp"):
            if path.is_file():
                path.unlink(missing_ok=True)


def _digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents."""
    if path.is_file():
        return sha256_of(path)
    listing = {str(file.relative_to(path)): sha256_of(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
