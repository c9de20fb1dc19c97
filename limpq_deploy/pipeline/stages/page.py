"""The stage that draws the page that people look at."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.report import LatencyReport
from limpq_deploy.latency.rounds import Rounds
from limpq_deploy.latency.study import LatencyStudy
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.handed_over import Handover
from limpq_deploy.pipeline.stages.comparison import Comparison, has_own_fp8, own_pair
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.facts import (
    BUILDS,
    CLASSES,
    COMMAND,
    HANDED_OVER,
    KEEPS_STORED,
    KNOWS_ANSWERS,
    KNOWS_WHAT_IF,
    MEASURES,
    OWN_FP8,
    VERSIONS,
)
from limpq_deploy.pipeline.stages.notes import STUDIES, studied_files
from limpq_deploy.pipeline.stages.versions import versions
from limpq_deploy.pipeline.stages.what_if_commands import commands_of
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.policy.what_if import WhatIf
from limpq_deploy.progress import Report
from limpq_deploy.report import ReportInputs, write_report
from limpq_deploy.report.curves import Curve
from limpq_deploy.train.finetuned import NOT_FINETUNED, NOT_TRAINED
from limpq_deploy.train.training_log import read_losses
from limpq_deploy.verdict.answers import Answers
from limpq_deploy.verdict.realised_bits import executed_bits
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.file_names import (
    ANSWERS,
    COMPARISON,
    ENGINE,
    FLOAT_MODEL,
    FP8_MODEL,
    HANDOVER,
    INDICATORS,
    LATENCY,
    MODEL,
    PARITY,
    PLACEMENT,
    POLICY,
    REPORT,
    ROUNDS,
    STORED,
    STUDY,
    TRAINING_LOGS,
    UNIFORM8_MODEL,
    VERDICT,
    WHAT_IF,
)


def _run(subject: Deployed, folder: Path, report: Report) -> str:
    studied = studied_files(subject)
    priced = subject.config.cost_table
    comparison = load_record(Comparison, folder / COMPARISON)
    engine = load_record(Engine, folder / ENGINE) if subject.builds_engine else None
    what_if = load_record(WhatIf, folder / WHAT_IF) if KNOWS_WHAT_IF.holds(subject, folder) else None
    write_report(
        folder / REPORT,
        ReportInputs(
            title=f"{subject.config.model} for {subject.target.name}",
            command=subject.asked.command_line(),
            trained_elsewhere=subject.handed_over,
            created=_written(folder / VERDICT),
            versions=versions(),
            realised=executed_bits(engine) if engine is not None else {},
            built=built_facts(subject, folder),
            files=_sizes(subject, folder),
            class_names=subject.class_names,
            trained=not subject.config.ptq,
            given=subject.config.policy.name if subject.config.policy is not None else None,
            verdict=load_record(Verdict, folder / VERDICT),
            policy=load_record(Policy, folder / POLICY),
            uniform=_uniform_policy(subject, comparison),
            indicators=load_record(Indicators, folder / INDICATORS),
            placement=load_record(Placement, folder / PLACEMENT),
            latency=load_record(LatencyReport, folder / LATENCY) if subject.builds_engine else None,
            parity=load_record(ParityReport, folder / PARITY),
            study=load_record(LatencyStudy, folder / STUDY) if STUDY in studied else None,
            cost_table=load_record(CostTable, priced) if priced is not None else None,
            rounds=load_record(Rounds, folder / ROUNDS) if ROUNDS in studied else None,
            what_if=what_if,
            commands=commands_of(what_if, subject.asked) if what_if is not None else {},
            answers=load_record(Answers, folder / ANSWERS) if KNOWS_ANSWERS.holds(subject, folder) else None,
            curves=tuple(_curves(subject, folder)),
        ),
    )
    return str(folder / REPORT)


REPORT_PAGE = Stage(
    name="report",
    title="report",
    settings=("cost_table",),
    facts=(COMMAND, VERSIONS, CLASSES),
    reads=(
        *(VERDICT, POLICY, COMPARISON, INDICATORS, PLACEMENT, PARITY, If(BUILDS, ENGINE), If(BUILDS, LATENCY)),
        *(If(KNOWS_WHAT_IF, WHAT_IF), If(KNOWS_ANSWERS, ANSWERS)),
        *(MODEL, FLOAT_MODEL, UNIFORM8_MODEL, *STUDIES, If(KEEPS_STORED, STORED), If(HANDED_OVER, HANDOVER)),
        If(OWN_FP8, FP8_MODEL),
    ),
    writes=(REPORT,),
    run=_run,
    when=(MEASURES,),
)
"""The page that people look at."""


TRAININGS = {
    "float": "Float model",
    "indicators": "All bit-widths together",
    "finetune": "Fine-tuning of the policy",
    "uniform": "Fine-tuning of uniform bits",
    "int8": "Fine-tuning of int8",
    "fp8": "Fine-tuning of FP8",
}
"""Trainings by the stages whose logs they are."""


def training_logs(subject: Deployed, folder: Path) -> dict[str, str]:
    """Title of each training of this build by its log's file; a folder may hold those of earlier builds too."""
    left_out = {"float"} if subject.start.trained else set()
    if subject.config.ptq:
        left_out |= TRAININGS.keys() - {"float"}
    if not subject.config.finetune:
        left_out |= TRAININGS.keys() - {"float", "indicators"}
    if own_pair(folder / COMPARISON) is None:
        left_out |= {"uniform"}
    if not has_own_fp8(folder / COMPARISON):
        left_out |= {"fp8"}
    return {f"{TRAINING_LOGS}/{name}.jsonl": title for name, title in TRAININGS.items() if name not in left_out}


def _curves(subject: Deployed, folder: Path) -> Iterator[Curve]:
    for name, title in training_logs(subject, folder).items():
        losses = read_losses(folder / name)
        if losses:
            yield Curve(title=title, losses=losses)


def _written(path: Path) -> str:
    """When a file was written. The verdict's time is that of the page, so that equal records give equal bytes."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _uniform_policy(subject: Deployed, comparison: Comparison) -> Policy | None:
    """The uniform bits as a policy, for the pictures; it has no objective of its own."""
    if comparison.pair is None:
        return None
    return Policy(
        bits={layer.name: LayerBits.of(comparison.pair) for layer in subject.placement.searched},
        objective=0.0,
        alpha=1.0,
    )


def built_facts(subject: Deployed, folder: Path) -> dict[str, str]:
    """What the page says of model, data and training; of a build that was handed over, as it was said there."""
    if subject.handed_over:
        return dict(load_record(Handover, folder / HANDOVER).built)
    indicators = load_record(Indicators, folder / INDICATORS)
    splits = ", ".join(f"{len(split):,} {name}" for name, split in subject.dataset.splits.items())
    source = indicators.source if isinstance(indicators.source, Mapping) else {}
    return {
        "Model": subject.config.model,
        "Weights": subject.start.source if subject.start.trained else f"{subject.start.source}, briefly",
        "Data set": f"{subject.dataset.name} ({splits} images)",
        "Target": subject.target.description,
        "Indicators": f"{source.get('steps', '?')} joint steps, seed {subject.config.seed}",
        **({"Indicators": NOT_TRAINED, "Training": NOT_TRAINED} if subject.config.ptq else {}),
        **({"Training": NOT_FINETUNED} if not subject.config.finetune else {}),
    }


def _sizes(subject: Deployed, folder: Path) -> dict[str, int]:
    """Bytes on disk of this build's exported models; a folder may hold those of earlier builds too."""
    names = [MODEL, FLOAT_MODEL, UNIFORM8_MODEL]
    if KEEPS_STORED.holds(subject, folder):
        names.insert(1, STORED)
    if OWN_FP8.holds(subject, folder):
        names.append(FP8_MODEL)
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
