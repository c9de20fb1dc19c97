"""What a build would do now, and why. Nothing is written, not even the folder."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.declaration import Condition
from limpq_deploy.pipeline.stages.early_checks import check_inputs
from limpq_deploy.pipeline.stages.estimate import estimate_stages
from limpq_deploy.pipeline.stages.listed import stages_of
from limpq_deploy.progress import progress
from limpq_deploy.workspace.sources import code_of
from limpq_deploy.workspace.step import Part, Step
from limpq_deploy.workspace.workspace import (
    BuildState,
    StageState,
    lost_output,
    other_code,
    read_state,
    require_own_folder,
    whole,
)

NAMED = 3
"""At most so many of the things that changed are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A stage as it would be now. ``settings``: all that it depends on; ``reads``, ``writes``: files of this build.

    ``runs``: a stage behind one that runs counts as running, though it will stand where the same files come out.
    ``why``: in words, "up to date" where it does not run. ``seconds``: about how long it will take, 0 where it does not
    run, None where nobody knows.
    """

    name: str
    title: str
    settings: tuple[str, ...]
    facts: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    runs: bool
    why: str
    seconds: float | None = None


def plan_build(config: Config, *, fresh: bool = False) -> tuple[Planned, ...]:
    """Every stage of a build, in order, with its time as a short trial of the network lets expect it. Raises what is
    found before the first stage of it."""
    require_own_folder(config.out)
    subject = Subject(config)
    with progress("checking inputs", brief=True):
        check_inputs(subject, engine=False)
    state = BuildState(stages={}) if fresh else read_state(config.out)
    stages = tuple(planned(subject, config.out, state, fresh=fresh))
    if not any(one.runs for one in stages):
        return tuple(replace(one, seconds=0.0) for one in stages)
    with progress("trying out the network", brief=True):
        seconds = estimate_stages(subject)
    return tuple(replace(one, seconds=seconds.get(one.name) if one.runs else 0.0) for one in stages)


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
            why = why_again(step, state.stages.get(stage.name), folder, coming)
        open_yet = [one.says for one in stage.when if any(name in coming for name in one.reads)]
        yield Planned(
            name=stage.name,
            title=stage.title,
            settings=stage.depends_on,
            facts=tuple(fact.name for fact in stage.facts),
            reads=tuple(str(one) for one in step.reads),
            writes=step.outputs,
            runs=why is not None,
            why=(f"{why}; only where {open_yet[0]}" if why and open_yet else why)
            or ("up to date" if unmet is None else f"not needed; it is only where {unmet.says}"),
        )
        if why is not None:
            coming |= dict.fromkeys(step.outputs, stage.title)


def why_again(step: Step, done: StageState | None, folder: Path, coming: Mapping[str, str]) -> str | None:
    """Why a stage would run; None where it stands. ``coming``: files that earlier stages write before it, with their
    titles."""
    if done is None:
        return "never ran"
    files = {str(one): one.file if isinstance(one, Part) else one for one in step.reads}
    first = [title for name, title in coming.items() if name in files.values()]
    digests = step.digests(folder, without=coming)
    if changed := _changed(step, done.named, digests, {name for name, file in files.items() if file in coming}):
        return changed
    if not done.named and not first and done.inputs != whole(step, digests):
        return "inputs changed"
    if (reason := other_code(done, code_of(step.run)) or lost_output(done, folder)) is not None:
        return reason
    return f"after {first[0]}, which runs" if first else None


def _changed(step: Step, then: Mapping[str, str], digests: Mapping[str, str], coming: Collection[str]) -> str | None:
    """Which inputs are other ones than they were: settings where it was asked differently, else facts and files. None
    where there are none, or nothing is known of then."""
    now = step.named(digests)
    every = [name for name in dict.fromkeys((*now, *then)) if name not in coming and now.get(name) != then.get(name)]
    changed = [name for name in every if name in digests or name not in now]
    if not then or not changed:
        return None
    names = [name for name in every if name in step.asked and name in then] or changed
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more} changed"


def plan_to_json(stages: tuple[Planned, ...]) -> dict[str, Any]:
    """For programs."""
    return {"stages": [{field.name: getattr(one, field.name) for field in fields(Planned)} for one in stages]}
