"""What a build would do now, and why. Nothing is written, not even the folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from limpq_deploy.pipeline.config import Config, option_of
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.declaration import Condition, Stage
from limpq_deploy.pipeline.stages.listed import stages_of
from limpq_deploy.workspace.sources import code_of
from limpq_deploy.workspace.step import Part, Step
from limpq_deploy.workspace.workspace import (
    BuildState,
    StageState,
    lost_output,
    other_code,
    read_state,
    short,
    whole,
)

NAMED = 3
"""At most so many of the things that changed are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A stage as it would be now. ``settings``: all that it depends on; ``reads``, ``writes``: files of this build.

    ``runs``: a stage behind one that runs counts as running, though it will stand where the same files come out.
    ``why``: in words, "up to date" where it does not run.
    """

    name: str
    title: str
    settings: tuple[str, ...]
    facts: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    runs: bool
    why: str


def plan_build(config: Config, *, fresh: bool = False) -> tuple[Planned, ...]:
    """Every stage of a build, in order. Raises what is found before the first stage of it."""
    subject = Subject(config)
    subject.check(engine=False)
    return tuple(planned(subject, config.out, BuildState(stages={}) if fresh else read_state(config.out), fresh=fresh))


def planned(subject: Subject, folder: Path, state: BuildState, *, fresh: bool = False) -> Iterator[Planned]:
    """The stages of a build whose finished ones are known."""
    coming: dict[str, str] = {}  # files that will be written anew, and by the stage of which title

    def ask(condition: Condition) -> bool:
        """What is not known yet may be needed."""
        known = all(name not in coming and (folder / name).exists() for name in condition.reads)
        return condition.holds(subject, folder) if known else True

    for stage in stages_of(subject):
        step = stage.step(subject, folder, ask)
        unmet = next((one for one in stage.when if not ask(one)), None)
        if unmet is not None:
            why = None
        elif fresh:
            why = "begun afresh, as --fresh asks"
        else:
            why = why_again(step, state.stages.get(stage.name), folder, coming, stage)
        if why is not None:
            coming |= dict.fromkeys(step.outputs, stage.title)
        yield Planned(
            name=stage.name,
            title=stage.title,
            settings=stage.depends_on,
            facts=tuple(fact.name for fact in stage.facts),
            reads=tuple(str(one) for one in step.reads),
            writes=step.outputs,
            runs=why is not None,
            why=why or ("up to date" if unmet is None else f"not needed, as this does not hold: {unmet.says}"),
        )


def why_again(step: Step, done: StageState | None, folder: Path, coming: Mapping[str, str], stage: Stage) -> str | None:
    """Why a stage would run; None where it stands. ``coming``: files that earlier stages write before it, with their
    titles."""
    if done is None:
        return "never ran"
    files = {str(one): one.file if isinstance(one, Part) else one for one in step.reads}
    files |= {name: name for condition in stage.conditions for name in condition.reads}
    after = [coming[file] for file in files.values() if file in coming]
    digests = step.digests(folder, without=coming)
    if done.named:
        now = short(digests)
        names = dict.fromkeys((*now, *done.named))
        left_to_come = {name for name in names if name.split(" (")[0] in coming}
        changed = [name for name in names if name not in left_to_come and now.get(name) != done.named.get(name)]
        if changed:
            return _changed(changed)
    elif not after and done.inputs != whole(step, digests):
        return "inputs changed"
    if (reason := other_code(done, code_of(step.run)) or lost_output(done, folder)) is not None:
        return reason
    return f"after {', '.join(dict.fromkeys(after))}, which runs" if after else None


def _changed(names: list[str]) -> str:
    known = {field.name for field in fields(Config)}
    shown = [option_of(name) if name in known else name for name in names[:NAMED]]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(shown)}{more} changed"


def plan_to_json(stages: tuple[Planned, ...]) -> dict[str, Any]:
    """For programs."""
    return {"stages": [{field.name: getattr(one, field.name) for field in fields(Planned)} for one in stages]}
