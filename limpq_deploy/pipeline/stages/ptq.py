"""Stages of a build that trains nothing: importance from ranges alone, and the calibrated model of a policy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.records import load_record, to_dict, write_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.measure import measured
from limpq_deploy.model.activation_memory import with_memory
from limpq_deploy.model.edges import with_edges
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.previewer import joint_info
from limpq_deploy.pipeline.stages.training import Names, finetuned_info
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.progress import Report
from limpq_deploy.quant.quantized_model import joint_model, model_of_policy
from limpq_deploy.train.checkpoints import save_module
from limpq_deploy.train.device import on_device
from limpq_deploy.train.finetuned import NOT_TRAINED, FloatModel
from limpq_deploy.train.joint import read_indicators, uniform
from limpq_deploy.train.ptq import IMAGES, calibrate, set_ranges
from limpq_deploy.workspace.file_names import FLOAT, FLOAT_RECORD, INDICATORS, JOINT, PLACEMENT
from limpq_deploy.workspace.workspace import Stage

EFFECTIVE = ("batch_size", "label_smoothing", "warmup", "accumulate", "precision", "channels_last", "freeze_batchnorm")
"""Settings of training that a float model trained here still takes, beside ``float_*``."""


def ranges_stage(subject: Subject, folder: Path) -> Stage:
    """The network of all bit-widths with ranges alone, and the importance measured in it.

    With a given policy nothing is searched, and nothing but the ranges is recorded.
    """
    config = subject.config
    searching = config.policy is None

    inputs = {
        **_inputs(subject),
        "placement": to_dict(subject.placement),
        "bits": config.bits,
        "measured": searching,
    }

    def run(report: Report) -> str:
        traced, data = subject.traced(folder / FLOAT), subject.joint_data
        model = joint_model(traced, subject.placement, config.bits)
        report(0, 1, f"ranges ({_ranges(subject)})")
        with on_device(model):
            images = set_ranges(
                model, data.split("train"), ranges=_ranges(subject), images=_images(subject), seed=config.seed
            )
        model.set_bits(uniform(subject.placement, config.bits[-1]))
        source = {"method": NOT_TRAINED, "ranges": _ranges(subject), "images": images, "seed": config.seed, "steps": 0}
        found = with_edges(with_memory(read_indicators(model, config.bits, source), traced, subject.placement), traced)
        found = _unlearned(found)
        if searching:
            found = measured(found, model, data.split("val"), seed=config.seed, report=report)
        save_module(folder / JOINT, model, joint_info(subject))
        write_record(subject.placement, folder / PLACEMENT)
        write_record(found, folder / INDICATORS)
        what = f"{len(found.layers)} layers x {len(config.bits)} bit-widths" if searching else "not measured"
        return f"{NOT_TRAINED}: {_ranges(subject)} on {images:,} images; importance: {what}{_ignored(subject)}"

    return Stage(
        name="indicators",
        title="importance",
        inputs=inputs,
        reads=(FLOAT,),
        outputs=(JOINT, PLACEMENT, INDICATORS),
        run=run,
    )


def calibrated_stage(subject: Subject, folder: Path, pairs: dict[str, BitPair], names: Names) -> Stage:
    """A policy's model with ranges and the correction that measures best; nothing is trained."""
    config = subject.config

    def run(report: Report) -> str:
        traced = subject.traced(folder / FLOAT)
        model = model_of_policy(traced, subject.placement, pairs, scales=config.scales)
        found = calibrate(
            model,
            pairs,
            subject.dataset,
            ranges=_ranges(subject),
            images=_images(subject),
            seed=config.seed,
            float_top1=load_record(FloatModel, folder / FLOAT_RECORD).top1,
            foreign_weights=subject.foreign_weights,
            report=report,
        )
        save_module(folder / names.checkpoint, model, finetuned_info(subject, pairs))
        write_record(found, folder / names.record)
        assert found.calibrated is not None
        seen = "; the given weights may have seen those images" if found.val_may_be_seen else ""
        return f"top-1 {found.top1.test:.2f} % on test in PyTorch, {NOT_TRAINED}; {found.calibrated.why}{seen}"

    return Stage(
        name=names.stage,
        title=names.title,
        inputs={**_inputs(subject), "pairs": pairs, "scales": config.scales},
        reads=(FLOAT, FLOAT_RECORD, PLACEMENT),
        outputs=(names.checkpoint, names.record),
        run=run,
    )


def _inputs(subject: Subject) -> dict[str, Any]:
    return {
        **subject.model_digest(),
        "data": subject.data_digest(),
        "ptq": [_ranges(subject), _images(subject)],
        "seed": subject.config.seed,
    }


def _ranges(subject: Subject) -> str:
    return subject.config.ranges or "mse"


def _images(subject: Subject) -> int:
    return subject.config.calibration_images or IMAGES


def _unlearned(indicators: Indicators) -> Indicators:
    """Without first values: nothing was learned, so nothing moved."""
    layers = tuple(replace(layer, weight_init=None, act_init=None) for layer in indicators.layers)
    return replace(indicators, layers=layers)


def _ignored(subject: Subject) -> str:
    """Settings of training that nothing takes."""
    training = subject.config.training.given()
    unused = [name for name in training if name not in EFFECTIVE and not name.startswith(("float_", "log", "workers"))]
    return f"; {' and '.join(unused)} without effect" if unused else ""
