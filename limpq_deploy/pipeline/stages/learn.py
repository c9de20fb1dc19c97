"""Stages that train: float model, indicators, policy, fine-tuning."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.comparison import compared_pairs, eight_bits, fp8_pairs
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.facts import (
    DATA,
    EXPORTS,
    FINETUNE_TRAINING,
    FINETUNES,
    FLOAT_TRAINING,
    JOINT_TRAINING,
    MODEL_FACT,
    OWN_FP8,
    OWN_UNIFORM,
    PAIRS,
    PLACED,
    TRAINS,
    UNIFORM_PAIR,
    finetune_training,
    float_training,
    joint_training,
)
from limpq_deploy.pipeline.stages.previewer import joint_info, load_joint
from limpq_deploy.pipeline.stages.training import checkpoint_of, finetuned_info, prepare, save_model
from limpq_deploy.progress import Report
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, model_of_policy
from limpq_deploy.train.accuracy import figure
from limpq_deploy.train.checkpoints import load_module, save_module
from limpq_deploy.train.device import on_device
from limpq_deploy.train.finetune import finetune
from limpq_deploy.train.finetuned import FloatModel, Top1
from limpq_deploy.train.float_training import train_float
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.processes import leads
from limpq_deploy.workspace.file_names import (
    FINETUNED,
    FINETUNED_RECORD,
    FLOAT_RECORD,
    FLOAT_WEIGHTS,
    FP8_RECORD,
    FP8_WEIGHTS,
    INDICATORS,
    INT8,
    INT8_RECORD,
    JOINT,
    PLACEMENT,
    POLICY,
    UNIFORM,
    UNIFORM_RECORD,
)


def _run_float(subject: Subject, folder: Path, report: Report) -> str:
    config, dataset = subject.config, subject.dataset
    trains = not subject.start.trained
    if leads():
        dataset.check()
    subject.require_data_of_task()
    resumed = ""
    if trains:
        execution, resumed = prepare(subject, folder, FLOAT_MODEL)
        network = subject.trainable_model
        resumed += "" if network is subject.model else "; trained by its traced graph, as it cannot be as written"
        train_float(
            network,
            dataset,
            settings=float_training(subject),
            seed=config.seed,
            report=report,
            execution=execution,
            task=subject.task,
        )
    if not leads():
        return ""
    val, test = dataset.split("val"), dataset.split("test")
    judge, judged = subject.judge.beside(subject.model), subject.judge.of(test)
    with on_device(subject.model):
        found = Top1(
            val=figure(subject.model, val, judge),
            test=figure(subject.model, test, judge),
            val_images=len(val),
            test_images=len(test),
        )
    save_module(folder / FLOAT_WEIGHTS, subject.model, subject.float_info)
    source = subject.start.source
    write_record(FloatModel(source=source, top1=found, measure=judged.named), folder / FLOAT_RECORD)
    unused = [
        name for name in ("float_steps", "float_epochs", "float_lr") if getattr(config.training, name) is not None
    ]
    ignored = f"; {' and '.join(unused)} without effect" if unused and not trains else ""
    return f"{judged.measure.said(found.test)} on test in PyTorch ({source}{ignored}){resumed}"


FLOAT_MODEL = Stage(
    name="float",
    title="float model",
    facts=(MODEL_FACT, DATA, FLOAT_TRAINING),
    writes=(FLOAT_WEIGHTS, FLOAT_RECORD),
    run=_run_float,
    checkpoint=checkpoint_of("float"),
    together=True,
)
"""The user's weights, or a brief training from fresh ones."""


def _run_joint(subject: Subject, folder: Path, report: Report) -> str:
    config, settings = subject.config, joint_training(subject)
    execution, resumed = prepare(subject, folder, JOINTLY_TRAINED)
    indicators, model = train_indicators(
        subject.traced(folder / FLOAT_WEIGHTS),
        subject.placement,
        subject.joint_data,
        bits=config.candidates,
        settings=settings,
        seed=config.seed,
        report=report,
        execution=execution,
        task=subject.task,
    )
    if not leads():
        return ""
    held = subject.joint_data.split("val")
    indicators = measured(indicators, model, held, seed=config.seed, report=report, judge=subject.judge)
    save_module(folder / JOINT, model, joint_info(subject))
    write_record(subject.placement, folder / PLACEMENT)
    write_record(indicators, folder / INDICATORS)
    source = indicators.source
    weights, acts = (100 * source[f"median_{tensor}_movement"] for tensor in ("weight", "act"))
    moved = f"scales moved {weights:.0f} % (weights), {acts:.0f} % (activations)"
    noted = "".join(f"; warning: {warning}" for warning in source["warnings"])
    return f"{len(indicators.layers)} layers x {len(config.candidates)} bit-widths; {moved}{resumed}{noted}"


JOINTLY_TRAINED = Stage(
    name="indicators",
    title="indicators",
    settings=("ptq", "bits", "formats"),
    facts=(MODEL_FACT, DATA, PLACED, JOINT_TRAINING),
    reads=(FLOAT_WEIGHTS,),
    writes=(JOINT, PLACEMENT, INDICATORS),
    run=_run_joint,
    when=(TRAINS,),
    checkpoint=checkpoint_of("indicators"),
    together=True,
)
"""Joint training of all bit-widths."""


def load_finetuned(
    subject: Subject, traced: TracedModel, policy: Mapping[str, BitPair], checkpoint: Path, *, share: bool = False
) -> QuantizedModel:
    """A fine-tuned model from its checkpoint, in evaluation mode. ``share``: its weights take the place of the traced
    model's, for who is done with those."""
    model = model_of_policy(traced, subject.placement, policy, scales=subject.config.scales, share=share)
    load_module(checkpoint, model, finetuned_info(subject, policy))
    return model.eval()


def _run_finetune(subject: Subject, folder: Path, report: Report) -> str:
    return _finetune(subject, folder, FINETUNED_MODEL, PAIRS.of(folder / POLICY), report)


def _run_uniform(subject: Subject, folder: Path, report: Report) -> str:
    return _finetune(subject, folder, FINETUNED_UNIFORM, compared_pairs(subject, folder), report)


def _run_int8(subject: Subject, folder: Path, report: Report) -> str:
    return _finetune(subject, folder, FINETUNED_INT8, eight_bits(subject), report)


def _run_fp8(subject: Subject, folder: Path, report: Report) -> str:
    return _finetune(subject, folder, FINETUNED_FP8, fp8_pairs(subject), report)


def _finetune(subject: Subject, folder: Path, stage: Stage, pairs: dict[str, BitPair] | None, report: Report) -> str:
    assert pairs is not None  # the stage is not needed otherwise
    config, settings = subject.config, finetune_training(subject)
    if stage.name == "int8":  # the joint network may not know 8 bits
        settings = replace(settings, start="float")
    execution, resumed = prepare(subject, folder, stage)
    traced = subject.traced(folder / FLOAT_WEIGHTS)
    if settings.start == "joint":
        model = model_of_policy(traced, subject.placement, pairs, scales=config.scales)
        inherit(model, load_joint(subject, traced, folder))
    else:
        model = subject.quantized(traced, pairs)
    found = finetune(
        model,
        pairs,
        subject.dataset,
        settings=settings,
        seed=config.seed,
        float_top1=load_record(FloatModel, folder / FLOAT_RECORD).top1,
        teacher=traced.graph_module,
        foreign_weights=subject.foreign_weights,
        report=report,
        execution=execution,
        judge=subject.judge,
    )
    if not leads():
        return ""
    save_model(subject, folder, stage.name, model, pairs, found)
    flattered = (
        "; checkpoints were chosen on images held out of train, which the given weights may have seen"
        if found.val_may_be_seen and found.chosen_step > 0
        else ""
    )
    return f"{found.figure.said(found.top1.test)} on test in PyTorch ({found.epochs:.1f} epochs){flattered}{resumed}"


FINETUNED_MODEL = Stage(
    name="finetune",
    title="fine-tuning",
    settings=("ptq", "finetune", "bits", "formats", "scales"),
    facts=(MODEL_FACT, DATA, FINETUNE_TRAINING),
    reads=(PAIRS, FLOAT_WEIGHTS, FLOAT_RECORD, JOINT, PLACEMENT),
    writes=(FINETUNED, FINETUNED_RECORD),
    run=_run_finetune,
    when=(FINETUNES,),
    checkpoint=checkpoint_of("finetune"),
    together=True,
)
"""The mixed policy, trained."""

FINETUNED_UNIFORM = replace(
    FINETUNED_MODEL,
    name="uniform",
    title="uniform baseline",
    reads=(UNIFORM_PAIR, *FINETUNED_MODEL.reads[1:]),
    writes=(UNIFORM, UNIFORM_RECORD),
    run=_run_uniform,
    when=(FINETUNES, OWN_UNIFORM),
    checkpoint=checkpoint_of("uniform"),
)
"""The uniform policy within the same budgets, by the same recipe: what mixed bits have to beat."""

FINETUNED_INT8 = replace(
    FINETUNED_MODEL,
    name="int8",
    title="int8 baseline",
    settings=("ptq", "finetune", "scales"),
    facts=(*FINETUNED_MODEL.facts, PLACED),
    reads=(FLOAT_WEIGHTS, FLOAT_RECORD),
    writes=(INT8, INT8_RECORD),
    run=_run_int8,
    when=(FINETUNES, EXPORTS),
    checkpoint=checkpoint_of("int8"),
)
"""8 bits everywhere, by the same recipe; no policy is in it, so that another one leaves it as it is."""

FINETUNED_FP8 = replace(
    FINETUNED_MODEL,
    name="fp8",
    title="FP8 baseline",
    reads=FINETUNED_MODEL.reads[1:],
    writes=(FP8_WEIGHTS, FP8_RECORD),
    run=_run_fp8,
    when=(FINETUNES, EXPORTS, OWN_FP8),
    checkpoint=checkpoint_of("fp8"),
)
"""FP8 everywhere, by the same recipe, where formats admit it."""
