"""Stages that take a policy's model from the joint training, in place of fine-tuning."""

from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.comparison import compared_pairs
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.facts import DATA, MODEL_FACT, OWN_UNIFORM, PAIRS, TAKES_JOINT, UNIFORM_PAIR
from limpq_deploy.pipeline.stages.previewer import load_joint
from limpq_deploy.pipeline.stages.training import save_untrained
from limpq_deploy.progress import Report
from limpq_deploy.quant.quantized_model import model_of_policy
from limpq_deploy.train.finetuned import FloatModel
from limpq_deploy.train.untuned import take_joint
from limpq_deploy.workspace.file_names import (
    FINETUNED,
    FINETUNED_RECORD,
    FLOAT_RECORD,
    FLOAT_WEIGHTS,
    JOINT,
    PLACEMENT,
    POLICY,
    UNIFORM,
    UNIFORM_RECORD,
)


def _run_policy(subject: Subject, folder: Path, report: Report) -> str:
    return _take(subject, folder, "finetune", PAIRS.of(folder / POLICY), report)


def _run_uniform(subject: Subject, folder: Path, report: Report) -> str:
    return _take(subject, folder, "uniform", compared_pairs(subject, folder), report)


def _take(subject: Subject, folder: Path, stage: str, pairs: dict[str, BitPair] | None, report: Report) -> str:
    assert pairs is not None  # the stage is not needed otherwise
    traced = subject.traced(folder / FLOAT_WEIGHTS)
    model = model_of_policy(traced, subject.placement, pairs, scales=subject.config.scales)
    found = take_joint(
        model,
        pairs,
        subject.dataset,
        joint=load_joint(subject, traced, folder),
        seed=subject.config.seed,
        float_top1=load_record(FloatModel, folder / FLOAT_RECORD).top1,
        foreign_weights=subject.foreign_weights,
        report=report,
        judge=subject.judge,
        float_model=traced.graph_module,
    )
    return save_untrained(subject, folder, stage, model, pairs, found)


UNTUNED_MODEL = Stage(
    name="finetune",
    title="joint network",
    settings=("ptq", "finetune", "bits", "formats", "scales", "seed"),
    facts=(MODEL_FACT, DATA),
    reads=(PAIRS, FLOAT_WEIGHTS, FLOAT_RECORD, JOINT, PLACEMENT),
    writes=(FINETUNED, FINETUNED_RECORD),
    run=_run_policy,
    when=(TAKES_JOINT,),
)
"""The mixed policy, as it was trained with all bit-widths."""

UNTUNED_UNIFORM = replace(
    UNTUNED_MODEL,
    name="uniform",
    title="uniform baseline",
    reads=(UNIFORM_PAIR, *UNTUNED_MODEL.reads[1:]),
    writes=(UNIFORM, UNIFORM_RECORD),
    run=_run_uniform,
    when=(TAKES_JOINT, OWN_UNIFORM),
)
"""The uniform policy within the same budgets, taken the same way."""
