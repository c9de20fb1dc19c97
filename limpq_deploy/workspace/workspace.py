"""Stages on disk: digests, resume, one build at a time.

A stage is done when its inputs have the digest they had when it ran and its outputs are the files it wrote. What was
killed in between was never recorded, and is done again: a training from its last checkpoint, everything else whole.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from limpq_deploy.calibration.errors import OutputError, RecordError
from limpq_deploy.calibration.own_folders import mark, open_lock, require_own
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.progress import progress
from limpq_deploy.workspace.sources import Code, code_of
from limpq_deploy.workspace.step import Step, digest_of

STATE = "stages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """A finished stage: the digest of its inputs, SHA-256 of each output, wall seconds, and its closing line.

    ``sources`` and ``libraries``: the code that it ran, as `Code` has it; empty in files of older versions, as is
    ``named``: the first 12 digits of the SHA-256 of each setting (by its option), input and file read. ``completed``:
    files of earlier stages that it put something down in, as they were then.
    """

    inputs: str
    outputs: dict[str, str]
    seconds: float
    said: str
    sources: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    completed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildState:
    """All finished stages of a directory, by name. ``written``: SHA-256 of files that no stage writes, the settings."""

    stages: dict[str, StageState]
    written: dict[str, str] = field(default_factory=dict)
    format: Literal["limpq.stages/1"] = field(default="limpq.stages/1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A stage that this build went through: ``ran`` is False where it was done before and nothing had changed."""

    name: str
    title: str
    ran: bool
    seconds: float
    said: str


class Workspace:
    """An output directory, held by one build at a time. ``passed``: the stages gone through so far."""

    def __init__(
        self,
        folder: Path,
        *,
        say: Callable[[Passed], None],
        tell: Callable[[bool], object] = lambda runs: None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """``say`` is called after each stage; ``tell`` before each that all processes take part in: whether it runs;
        ``note`` before one that runs again though nothing was asked differently: why."""
        self.folder = folder
        self.say = say
        self.tell = tell
        self.note = note
        self._fresh = False
        self.state = BuildState(stages={})
        self.passed: list[Passed] = []
        self._dropped: list[str] = []

    @contextlib.contextmanager
    def held(self, *, fresh: bool = False) -> Iterator[None]:
        """Hold the directory; ``fresh`` forgets what was done. Raises OutputError if another build holds it."""
        descriptor = self._open_lock()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark(descriptor)
            except BlockingIOError as error:
                raise OutputError(
                    f"another build is running in {self.folder}; wait for it to end, or choose another --out"
                ) from error
            except OSError as error:
                raise OutputError(
                    f"{self.folder} cannot be locked ({error.strerror}), as on network file systems without locks; "
                    "choose a folder on a local disk with --out"
                ) from error
            self.remove_leftovers((STATE,))
            self._fresh = fresh
            if not fresh:
                self.state = read_state(self.folder)
                if damage := state_damage(self.folder):
                    self.note(f"{damage}, so all stages run again; stop here to put the file back")
            yield
        finally:
            os.close(descriptor)

    def run(self, stage: Step, *, again: bool = False) -> bool:
        """Run a stage unless it is done (``again``: even then); returns whether it ran."""
        digests, code = stage.digests(self.folder), code_of(stage.run)
        digest = whole(stage, digests)
        done = self.state.stages.get(stage.name)
        other = other_code(done, code) if done is not None else None
        stands = done is not None and done.inputs == digest and not other and not lost_output(done, self.folder)
        stands = stands and not again
        if not stands:
            self._clear(stage, checkpoint=self._fresh or again)
        if stage.together:
            self.tell(not stands)
        if stands:
            assert done is not None
            self._pass(stage, done, ran=False)
            return False
        if other and not again:
            self.note(f"{stage.title} runs again: {other}")
        self._record({name: state for name, state in self.state.stages.items() if name != stage.name})
        start = time.perf_counter()
        why = "never ran" if done is None else other or ("as asked" if again else "its inputs or outputs changed")
        with progress(stage.title, why=why) as report:
            said = stage.run(report)
        seconds = time.perf_counter() - start
        outputs = {name: digest_of(self.folder / name) for name in stage.outputs}
        self._dropped += [name for name in (done.outputs if done else ()) if name not in outputs]
        state = StageState(
            inputs=digest,
            outputs=outputs,
            seconds=seconds,
            said=said,
            sources=code.sources,
            libraries=code.libraries,
            named=stage.named(digests),
            completed={name: digest_of(self.folder / name) for name in stage.completes},
        )
        self._record({**self._completed(state), stage.name: state})
        self._clear(stage, checkpoint=True)
        self._pass(stage, state, ran=True)
        return True

    def _completed(self, stage: StageState) -> dict[str, StageState]:
        """The stages before, files of theirs that this one completed as they are now."""
        now = stage.completed
        return {
            name: replace(one, outputs={file: now.get(file, digest) for file, digest in one.outputs.items()})
            for name, one in self.state.stages.items()
        }

    def outdated(self, *, failed: bool = False) -> tuple[str, ...]:
        """Outputs of an earlier build that this one did not come to, once it has changed something before them, or
        failed to (``failed``)."""
        if not failed and not any(stage.ran for stage in self.passed):
            return ()
        passed = {stage.name for stage in self.passed}
        mine = {name for stage in passed for name in self.state.stages[stage].outputs}
        others = [state.outputs for name, state in self.state.stages.items() if name not in passed]
        left = (*(name for outputs in others for name in outputs), *self._dropped)
        return tuple(name for name in dict.fromkeys(left) if name not in mine and (self.folder / name).exists())

    def remember(self, name: str) -> None:
        """Record a file that no stage writes, for those who read the build when it is finished."""
        self.state = replace(self.state, written={**self.state.written, name: digest_of(self.folder / name)})
        self._record(self.state.stages)

    def remove_leftovers(self, names: Iterable[str]) -> None:
        """Remove temporary files that a killed build left beside these files."""
        for name in names:
            path = self.folder / name
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                if left.is_file():
                    left.unlink(missing_ok=True)

    def _clear(self, stage: Step, *, checkpoint: bool) -> None:
        """Remove what a killed run of a stage left, with ``checkpoint`` that too."""
        self.remove_leftovers(stage.outputs)
        if stage.checkpoint is not None:
            self.remove_leftovers((stage.checkpoint,))
            if checkpoint:
                (self.folder / stage.checkpoint).unlink(missing_ok=True)

    def _open_lock(self) -> int:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return open_lock(self.folder)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror}; choose another folder with --out"
            ) from error

    def _pass(self, stage: Step, state: StageState, *, ran: bool) -> None:
        passed = Passed(name=stage.name, title=stage.title, ran=ran, seconds=state.seconds, said=state.said)
        self.passed.append(passed)
        self.say(passed)

    def _record(self, stages: dict[str, StageState]) -> None:
        self.state = replace(self.state, stages=stages)
        write_record(self.state, self.folder / STATE)


def read_state(folder: Path) -> BuildState:
    """The finished stages of a folder; none where nothing (or nothing that can be read) is recorded."""
    try:
        return load_record(BuildState, folder / STATE) if (folder / STATE).exists() else BuildState(stages={})
    except RecordError:
        return BuildState(stages={})


def state_damage(folder: Path) -> str | None:
    """Why the record of finished stages cannot be read; None where it can, or where there is none."""
    try:
        if (folder / STATE).exists():
            load_record(BuildState, folder / STATE)
    except RecordError as error:
        return str(error)
    return None


def require_own_folder(folder: Path) -> None:
    """Raise OutputError where a folder holds files of somebody else. A record of finished stages is a marker too: that
    of older versions."""
    require_own(folder, ours=bool(read_state(folder).stages))


def whole(step: Step, digests: dict[str, str]) -> str:
    """The digest of all that a step depends on."""
    return hashlib.sha256(json.dumps([step.name, digests], sort_keys=True).encode()).hexdigest()


def lost_output(done: StageState, folder: Path) -> str | None:
    """An output of a finished stage that is missing or another file now; None where all stand."""
    for name, digest in (*done.outputs.items(), *done.completed.items()):
        if not (folder / name).exists():
            return f"{name} is missing"
        if digest_of(folder / name) != digest:
            return f"{name} is not what it wrote"
    return None


def other_code(done: StageState, code: Code) -> str | None:
    """How the code that a stage would run now is another than it ran then; None where it is the same."""
    names = sorted({*done.libraries, *code.libraries})
    changed = [name for name in names if done.libraries.get(name) != code.libraries.get(name)]
    if done.libraries and changed:
        versions = ((name, done.libraries.get(name, "absent"), code.libraries.get(name, "absent")) for name in changed)
        return ", ".join(f"{name} is {now}, and was {then} when it ran" for name, then, now in versions)
    if changed or done.sources != code.sources:
        return "sources changed"
    return None
