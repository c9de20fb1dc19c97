"""Stages that train: float model, indicators, policy, fine-tuning."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.datasets import require_classes
from limpq_deploy.calibration.records import load_record, to_dict, write_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.measure import measured
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.comparison import compared_pairs
from limpq_deploy.pipeline.stages.previewer import joint_info, load_joint
from limpq_deploy.pipeline.stages.ptq import calibrated_stage, ranges_stage
from limpq_deploy.pipeline.stages.training import Names, checkpoint_of, finetuned_info, prepare, training_inputs
from limpq_deploy.policy.convergence import convergence_sentence
from limpq_deploy.policy.policy import Policy
from limpq_deploy.progress import Report
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, model_of_policy
from limpq_deploy.train.accuracy import top1
from limpq_deploy.train.checkpoints import load_module, save_module
from limpq_deploy.train.finetune import finetune
from limpq_deploy.train.finetuned import FloatModel, Top1
from limpq_deploy.train.float_training import train_float
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.processes import leads
from limpq_deploy.train.recipe import finetune_recipe, float_recipe, joint_recipe
from limpq_deploy.workspace.file_names import (
    FINETUNED,
    FINETUNED_RECORD,
    FLOAT,
    FLOAT_RECORD,
    INDICATORS,
    JOINT,
    PLACEMENT,
    POLICY,
    UNIFORM,
    UNIFORM_RECORD,
)
from limpq_deploy.workspace.workspace import Stage

PUBLISHED_LEARNING_RATE = 0.01
"""Of the float training where published weights get a new last layer: ten times below that from random numbers."""


def float_stage(subject: Subject, folder: Path) -> Stage:
    """The user's weights, or a brief training from fresh ones."""
    config = subject.config
    dataset = subject.dataset
    settings = float_recipe(config.training, len(dataset.split("train")))
    if config.pretrained and config.training.float_lr is None:
        settings = replace(settings, learning_rate=PUBLISHED_LEARNING_RATE)
    trains = not subject.start.trained

    inputs = {
        **subject.model_digest(),
        "data": subject.data_digest(),
        "training": training_inputs(subject, settings) if trains else None,
    }

    def run(report: Report) -> str:
        if leads():
            dataset.check()
        require_classes(dataset, subject.num_classes)
        resumed = ""
        if trains:
            execution, resumed = prepare(subject, folder, "float", inputs, (), run)
            network = subject.trainable_model
            resumed += "" if network is subject.model else "; trained by its traced graph, as it cannot be as written"
            train_float(
                network,
                dataset,
                settings=settings,
                seed=config.seed,
                report=report,
                execution=execution,
            )
        if not leads():
            return ""
        val, test = dataset.split("val"), dataset.split("test")
        found = Top1(
            val=top1(subject.model, val),
            test=top1(subject.model, test),
            val_images=len(val),
            test_images=len(test),
        )
        save_module(folder / FLOAT, subject.model, subject.float_info)
        source = subject.start.source
        write_record(FloatModel(source=source, top1=found), folder / FLOAT_RECORD)
        unused = [
            name for name in ("float_steps", "float_epochs", "float_lr") if getattr(config.training, name) is not None
        ]
        ignored = f"; {' and '.join(unused)} without effect" if unused and not trains else ""
        return f"top-1 {found.test:.2f} % on test in PyTorch ({source}{ignored}){resumed}"

    return Stage(
        name="float",
        title="float model",
        inputs=inputs,
        reads=(),
        outputs=(FLOAT, FLOAT_RECORD),
        run=run,
        checkpoint=checkpoint_of("float"),
        together=True,
    )


def indicators_stage(subject: Subject, folder: Path) -> Stage:
    """Joint training of all bit-widths (with ``ptq``: the same network with ranges alone)."""
    config = subject.config
    if config.ptq:
        return ranges_stage(subject, folder)
    settings = joint_recipe(config.training, len(subject.dataset.split("train")))

    inputs = {
        **subject.model_digest(),
        "data": subject.data_digest(),
        "placement": to_dict(subject.placement),
        "bits": config.bits,
        "training": training_inputs(subject, settings),
    }
    reads = (FLOAT,)

    def run(report: Report) -> str:
        execution, resumed = prepare(subject, folder, "indicators", inputs, reads, run)
        indicators, model = train_indicators(
            subject.traced(folder / FLOAT),
            subject.placement,
            subject.joint_data,
            bits=config.bits,
            settings=settings,
            seed=config.seed,
            report=report,
            execution=execution,
        )
        if not leads():
            return ""
        indicators = measured(indicators, model, subject.joint_data.split("val"), seed=config.seed, report=report)
        save_module(folder / JOINT, model, joint_info(subject))
        write_record(subject.placement, folder / PLACEMENT)
        write_record(indicators, folder / INDICATORS)
        source = indicators.source
        weights, acts = (100 * source[f"median_{tensor}_movement"] for tensor in ("weight", "act"))
        moved = f"scales moved {weights:.0f} % (weights), {acts:.0f} % (activations)"
        settled = convergence_sentence(source)
        notes = [f"the scales' {settled}"] if settled else []
        if source["stopped_early"]:
            notes.insert(0, f"stopped after {source['steps']} of {settings.steps} steps")
        notes += [f"warning: {warning}" for warning in source["warnings"]]
        noted = "".join(f"; {note}" for note in notes)
        return f"{len(indicators.layers)} layers x {len(config.bits)} bit-widths; {moved}{resumed}{noted}"

    return Stage(
        name="indicators",
        title="indicators",
        inputs=inputs,
        reads=reads,
        outputs=(JOINT, PLACEMENT, INDICATORS),
        run=run,
        checkpoint=checkpoint_of("indicators"),
        together=True,
    )


def finetune_stage(subject: Subject, folder: Path) -> Stage:
    """The mixed policy, trained (with ``ptq``: calibrated)."""
    pairs = load_record(Policy, folder / POLICY).pairs()
    if subject.config.ptq:
        return calibrated_stage(subject, folder, pairs, Names("finetune", "calibration", FINETUNED, FINETUNED_RECORD))
    return _finetune_stage(subject, folder, pairs, Names("finetune", "fine-tuning", FINETUNED, FINETUNED_RECORD))


def uniform_stage(subject: Subject, folder: Path) -> Stage | None:
    """The uniform policy within the same budgets, by the same recipe: what mixed bits have to beat.

    None where there is no such policy, or where it is the policy itself.
    """
    pairs = compared_pairs(subject, folder)
    if pairs is None:
        return None
    make = calibrated_stage if subject.config.ptq else _finetune_stage
    return make(subject, folder, pairs, Names("uniform", "uniform baseline", UNIFORM, UNIFORM_RECORD))


def load_finetuned(
    subject: Subject, traced: TracedModel, policy: Mapping[str, BitPair], checkpoint: Path
) -> QuantizedModel:
    """A fine-tuned model from its checkpoint, in evaluation mode."""
    model = model_of_policy(traced, subject.placement, policy, scales=subject.config.scales)
    load_module(checkpoint, model, finetuned_info(subject, policy))
    return model.eval()


def _finetune_stage(subject: Subject, folder: Path, pairs: dict[str, BitPair], names: Names) -> Stage:
    config = subject.config
    settings = finetune_recipe(config.training, len(subject.dataset.split("train")))

    inputs = {
        **subject.model_digest(),
        "pairs": pairs,
        "scales": config.scales,
        "data": subject.data_digest(),
        "bits": config.bits,
        "training": training_inputs(subject, settings),
    }
    reads = (FLOAT, FLOAT_RECORD, JOINT, PLACEMENT)

    def run(report: Report) -> str:
        execution, resumed = prepare(subject, folder, names.stage, inputs, reads, run)
        traced = subject.traced(folder / FLOAT)
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
        )
        if not leads():
            return ""
        save_module(folder / names.checkpoint, model, finetuned_info(subject, pairs))
        write_record(found, folder / names.record)
        flattered = (
            "; checkpoints were chosen on images held out of train, which the given weights may have seen"
            if found.val_may_be_seen and found.chosen_step > 0
            else ""
        )
        return f"top-1 {found.top1.test:.2f} % on test in PyTorch ({found.epochs:.1f} epochs){flattered}{resumed}"

    return Stage(
        name=names.stage,
        title=names.title,
        inputs=inputs,
        reads=reads,
        outputs=(names.checkpoint, names.record),
        run=run,
        checkpoint=checkpoint_of(names.stage),
        together=True,
    )
