"""A whole build: settings in, stages in order, a verdict out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.records import load_record, to_dict, write_record
from limpq_deploy.config import Config, load_config, write_config
from limpq_deploy.export.parity import ParityReport
from limpq_deploy.pipeline import Stage, Workspace
from limpq_deploy.progress import progress
from limpq_deploy.stages.conclude import VERDICT, bundle_stage, report_stage, verdict_stage
from limpq_deploy.stages.deploy import (
    PARITY,
    accuracy_stage,
    export_stage,
    latency_stage,
    measure_parity,
    parity_stage,
)
from limpq_deploy.stages.learn import (
    finetune_stage,
    float_stage,
    indicators_stage,
    search_stage,
    uniform_stage,
)
from limpq_deploy.subject import Subject
from limpq_deploy.tables import verdict_table
from limpq_deploy.verdict import Verdict

CONFIG = "config.json"

MakeStage = Callable[[Subject, Path], Stage | None]

TRAINED: tuple[MakeStage, ...] = (float_stage, indicators_stage, search_stage, finetune_stage, uniform_stage)
EXPORTED: tuple[MakeStage, ...] = (export_stage,)
MEASURED: tuple[MakeStage, ...] = (parity_stage, accuracy_stage, latency_stage)
CONCLUDED: tuple[MakeStage, ...] = (verdict_stage, report_stage, bundle_stage)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a build came to. ``verdict`` None: it stopped before the engine, ``stopped_after`` says at which stage."""

    folder: Path
    seconds: float
    stopped_after: str
    why: str | None
    verdict: Verdict | None

    @property
    def failed(self) -> bool:
        """Whether a check of the verdict failed."""
        return self.verdict is not None and self.verdict.outcome == "failed"

    def summary(self) -> str:
        """What a person reads last."""
        if self.verdict is None:
            return (
                f"Stopped after {self.stopped_after}{f': {self.why}' if self.why else ''}. Files are in {self.folder}."
            )
        return "\n".join(
            (verdict_table(self.verdict), f"report: {self.folder / 'report.html'}", f"bundle: {self.folder / 'bundle'}")
        )

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "out": str(self.folder),
            "seconds": round(self.seconds, 3),
            "stopped_after": self.stopped_after,
            "verdict": to_dict(self.verdict) if self.verdict is not None else None,
        }


def run_build(config: Config, *, until: str | None = None, fresh: bool = False) -> Outcome:
    """Run all stages that are not done yet, up to ``until`` (a stage's name; None: all that the target allows).

    Inputs are checked before the first stage. Raises the errors of the stages; what finished stays.
    """
    start = time.perf_counter()
    subject = Subject(config)
    workspace = Workspace(config.out, say=_say)
    with workspace.held(fresh=fresh):
        subject.check(engine=until is None)
        write_config(config, config.out / CONFIG)
        last = ""
        for make in _stages(subject, engine=until is None):
            stage = make(subject, config.out)
            if stage is None:
                continue
            workspace.run(stage)
            last = stage.name
            if stage.name == until:
                break
    finished = until is None and subject.builds_engine
    return Outcome(
        folder=config.out,
        seconds=time.perf_counter() - start,
        stopped_after=last,
        why=None if finished else _why(subject, until),
        verdict=load_record(Verdict, config.out / VERDICT) if finished else None,
    )


def repeat_parity(folder: Path) -> ParityReport:
    """Measure a build's parity again, from its own files and configuration."""
    if not (folder / CONFIG).is_file():
        raise RecordError(f"{folder} is no build directory (it has no {CONFIG}); name the --out of a build")
    subject = Subject(replace(load_config(folder / CONFIG), out=folder))
    with progress("parity") as report:
        found = measure_parity(subject, folder, report)
    write_record(found, folder / PARITY)
    return found


def _stages(subject: Subject, *, engine: bool) -> Iterator[MakeStage]:
    yield from TRAINED
    if subject.target.exportable:
        yield from EXPORTED
    if subject.builds_engine and engine:
        yield from MEASURED
        yield from CONCLUDED


def _why(subject: Subject, until: str | None) -> str:
    if until is not None:
        return "as asked"
    if not subject.target.exportable:
        return f"the target {subject.target.name} is trained and never exported"
    return "--no-engine, so nothing was measured and there is no verdict"


def _say(title: str, line: str, seconds: float, skipped: bool) -> None:
    mark = click.style("=" if skipped else "+", fg="cyan" if skipped else "green", bold=True)
    took = "unchanged" if skipped else f"{seconds:.1f} s"
    click.echo(f"{mark} {click.style(f'{title:<18}', bold=True)} {line} {click.style(f'[{took}]', dim=True)}", err=True)
