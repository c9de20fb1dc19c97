"""What a stage is: a declaration of what it depends on, reads and writes, which can be printed without a build."""

import functools
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.settings import TRAINING_OPTIONS, option_of
from limpq_deploy.progress import Report
from limpq_deploy.train.kept_memory import freed_memory_kept, freed_memory_returned
from limpq_deploy.train.settings import Training
from limpq_deploy.workspace.step import Part, Step

TRAINING = frozenset(f"training.{field.name}" for field in fields(Training))
SETTINGS = frozenset(field.name for field in fields(Config) if field.name != "training") | TRAINING
"""Every setting of a build by name."""


@dataclass(frozen=True, slots=True)
class Condition:
    """When something is needed. ``says``: in words; ``settings``: whose values it is read from; ``reads``: files of
    earlier stages, without which it is not known yet."""

    says: str
    settings: tuple[str, ...]
    holds: Callable[[Any, Path], bool]
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_known(self.says, self.settings)


Ask = Callable[[Condition], bool]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that a stage depends on beyond plain settings, such as what the images are. ``of`` gives it, JSON-able;
    ``settings``: those that it comes of, which need not be named beside it."""

    name: str
    settings: tuple[str, ...]
    of: Callable[[Any], Any]

    def __post_init__(self) -> None:
        _require_known(self.name, self.settings)


@dataclass(frozen=True, slots=True)
class If:
    """A file that is read or written under a condition only."""

    condition: Condition
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of a build. ``settings``: names of those whose values it depends on (a file's by its contents).

    ``reads``: files of earlier stages, which must be there, or parts of them; ``writes``: files or folders;
    ``completes``: files of earlier stages that it puts something down in, of which it reads a part. ``run`` is
    given what the build is about, its folder and a progress report, and returns one line for people. ``when``: all of
    these must hold for the stage to be needed. Several stages of one name exclude each other.
    ``checkpoint``, ``together``: as in `Step`. ``frees_memory``: it makes and frees whole networks and computes little,
    so that memory goes back to the system at once. Raises ValueError for a setting that there is not.
    """

    name: str
    title: str
    settings: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    reads: tuple[str | Part | If, ...] = ()
    writes: tuple[str | If, ...]
    completes: tuple[str, ...] = ()
    run: Callable[[Any, Path, Report], str]
    when: tuple[Condition, ...] = ()
    checkpoint: str | None = None
    together: bool = False
    frees_memory: bool = False

    def __post_init__(self) -> None:
        _require_known(self.name, self.settings)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those of the stage and of its files."""
        files = (one.condition for one in (*self.reads, *self.writes) if isinstance(one, If))
        return tuple(dict.fromkeys((*self.when, *files)))

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Names of all settings that the stage depends on, by themselves or by a fact or a condition."""
        of_facts = (name for fact in self.facts for name in fact.settings)
        of_conditions = (name for condition in self.conditions for name in condition.settings)
        return tuple(dict.fromkeys((*self.settings, *of_facts, *of_conditions)))

    def inputs(self, subject: Deployed) -> dict[str, Any]:
        """Values of settings and facts by name."""
        values = {name: _value(getattr(subject.config, name)) for name in self.settings}
        return {**values, **{fact.name: fact.of(subject) for fact in self.facts}}

    def needed(self, subject: Deployed, folder: Path) -> bool:
        """Whether all conditions of the stage hold."""
        return all(one.holds(subject, folder) for one in self.when)

    def step(self, subject: Deployed, folder: Path, ask: Ask | None = None) -> Step:
        """This stage of one build; ``ask`` answers its conditions instead of the build itself."""
        asked = ask or (lambda condition: condition.holds(subject, folder))

        @functools.wraps(self.run)
        def run(report: Report) -> str:
            with freed_memory_returned() if self.frees_memory else freed_memory_kept():
                try:
                    return self.run(subject, folder, report)
                finally:
                    gc.collect()  # graphs of torch.fx hold each other, and whole networks with them

        return Step(
            name=self.name,
            title=self.title,
            inputs=self.inputs(subject),
            reads=tuple(_needed(self.reads, asked)),
            outputs=tuple(str(name) for name in _needed(self.writes, asked)),
            completes=self.completes,
            run=run,
            checkpoint=self.checkpoint,
            together=self.together,
            asked=dict(_asked(subject.config, self.depends_on)),
        )


def _needed(files: Iterable[str | Part | If], ask: Ask) -> Iterator[str | Part]:
    for one in files:
        if not isinstance(one, If):
            yield one
        elif ask(one.condition):
            yield one.file


def _asked(config: Config, settings: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Settings by their options, or keys of ``[training]``, as they were given."""
    for setting in settings:
        name = setting.removeprefix("training.")
        value = getattr(config if name == setting else config.training, name)
        option = option_of(name) if name == setting or name in TRAINING_OPTIONS else setting
        yield option, str(value) if isinstance(value, Path) else value


def _value(setting: Any) -> Any:
    return sha256_of(setting) if isinstance(setting, Path) else setting


def _require_known(origin: str, names: Iterable[str]) -> None:
    if unknown := sorted(set(names) - SETTINGS):
        raise ValueError(f"{origin} depends on {', '.join(unknown)}; expected fields of Config, or training.FIELD")
