"""Stages that train nothing: importance from ranges alone, and the calibrated model of a policy."""

from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.model.activation_memory import with_memory
from limpq_deploy.model.edges import with_edges
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.comparison import compared_pairs, eight_bits, fp8_pairs
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.facts import (
    CALIBRATES,
    CALIBRATES_OTHERS,
    CALIBRATION,
    DATA,
    EXPORTS,
    MEASURES_IMPORTANCE,
    MODEL_FACT,
    OWN_FP8,
    OWN_UNIFORM,
    PAIRS,
    PLACED,
    UNIFORM_PAIR,
    calibration_images,
    ranges_method,
)
from limpq_deploy.pipeline.stages.previewer import joint_info
from limpq_deploy.pipeline.stages.training import save_untrained
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.progress import Report
from limpq_deploy.quant.quantized_model import joint_model, model_of_policy
from limpq_deploy.train.checkpoints import save_module
from limpq_deploy.train.device import on_device
from limpq_deploy.train.finetuned import NOT_TRAINED, FloatModel
from limpq_deploy.train.joint import read_indicators, uniform
from limpq_deploy.train.kept_memory import freed_memory_kept
from limpq_deploy.train.ptq import calibrate, set_ranges
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


def _run_ranges(subject: Subject, folder: Path, report: Report) -> str:
    config, method = subject.config, ranges_method(subject)
    searching = config.policy is None
    traced, data = subject.traced(folder / FLOAT_WEIGHTS), subject.joint_data
    model = joint_model(traced, subject.placement, config.candidates, share=True)
    report(0, 1, f"ranges ({method})")
    with on_device(model), freed_memory_kept():
        images = set_ranges(
            model, data.split("train"), ranges=method, images=calibration_images(subject), seed=config.seed
        )
    model.set_bits(uniform(subject.placement, config.candidates[-1]))
    source = {"method": NOT_TRAINED, "ranges": method, "images": images, "seed": config.seed, "steps": 0}
    found = with_edges(
        with_memory(read_indicators(model, config.candidates, source), traced, subject.placement), traced
    )
    found = _unlearned(found)
    if searching:
        held = data.split("val")
        found = measured(found, model, held, seed=config.seed, report=report, judge=subject.judge)
    save_module(folder / JOINT, model, joint_info(subject))
    write_record(subject.placement, folder / PLACEMENT)
    write_record(found, folder / INDICATORS)
    what = f"{len(found.layers)} layers x {len(config.candidates)} bit-widths" if searching else "not measured"
    return f"{NOT_TRAINED}: {method} on {images:,} images; importance: {what}"


RANGES_ALONE = Stage(
    name="indicators",
    title="importance",
    settings=("ptq", "bits", "formats", "seed"),
    facts=(MODEL_FACT, DATA, PLACED, CALIBRATION, MEASURES_IMPORTANCE),
    reads=(FLOAT_WEIGHTS,),
    writes=(JOINT, PLACEMENT, INDICATORS),
    run=_run_ranges,
    when=(CALIBRATES,),
    frees_memory=True,
)
"""The network of all bit-widths with ranges alone, and the importance measured in it.

With a given policy nothing is searched, and nothing but the ranges is recorded.
"""


def _run_calibration(subject: Subject, folder: Path, report: Report) -> str:
    return _calibrate(subject, folder, "finetune", PAIRS.of(folder / POLICY), report)


def _run_uniform(subject: Subject, folder: Path, report: Report) -> str:
    return _calibrate(subject, folder, "uniform", compared_pairs(subject, folder), report)


def _run_int8(subject: Subject, folder: Path, report: Report) -> str:
    return _calibrate(subject, folder, "int8", eight_bits(subject), report)


def _run_fp8(subject: Subject, folder: Path, report: Report) -> str:
    return _calibrate(subject, folder, "fp8", fp8_pairs(subject), report)


def _calibrate(subject: Subject, folder: Path, stage: str, pairs: dict[str, BitPair] | None, report: Report) -> str:
    """A policy's model with ranges and the correction that measures best; nothing is trained."""
    assert pairs is not None  # the stage is not needed otherwise
    traced = subject.traced(folder / FLOAT_WEIGHTS)
    model = model_of_policy(traced, subject.placement, pairs, scales=subject.config.scales, share=True)
    found = calibrate(
        model,
        pairs,
        subject.dataset,
        ranges=subject.config.ranges,
        images=calibration_images(subject),
        seed=subject.config.seed,
        float_top1=load_record(FloatModel, folder / FLOAT_RECORD).top1,
        foreign_weights=subject.foreign_weights,
        report=report,
        judge=subject.judge,
        float_model=traced.graph_module,
    )
    return save_untrained(subject, folder, stage, model, pairs, found)


CALIBRATED_MODEL = Stage(
    name="finetune",
    title="calibration",
    settings=("ptq", "finetune", "scales", "seed"),
    facts=(MODEL_FACT, DATA, CALIBRATION),
    reads=(PAIRS, FLOAT_WEIGHTS, FLOAT_RECORD, PLACEMENT),
    writes=(FINETUNED, FINETUNED_RECORD),
    run=_run_calibration,
    when=(CALIBRATES,),
    frees_memory=True,
)
"""The mixed policy, calibrated."""

CALIBRATED_UNIFORM = replace(
    CALIBRATED_MODEL,
    name="uniform",
    title="uniform baseline",
    reads=(UNIFORM_PAIR, *CALIBRATED_MODEL.reads[1:]),
    writes=(UNIFORM, UNIFORM_RECORD),
    run=_run_uniform,
    when=(CALIBRATES, OWN_UNIFORM),
)
"""The uniform policy within the same budgets, calibrated the same way."""

CALIBRATED_INT8 = replace(
    CALIBRATED_MODEL,
    name="int8",
    title="int8 baseline",
    facts=(*CALIBRATED_MODEL.facts, PLACED),
    reads=(FLOAT_WEIGHTS, FLOAT_RECORD),
    writes=(INT8, INT8_RECORD),
    run=_run_int8,
    when=(CALIBRATES_OTHERS, EXPORTS),
)
"""8 bits everywhere, calibrated the same way."""

CALIBRATED_FP8 = replace(
    CALIBRATED_MODEL,
    name="fp8",
    title="FP8 baseline",
    reads=CALIBRATED_MODEL.reads[1:],
    writes=(FP8_WEIGHTS, FP8_RECORD),
    run=_run_fp8,
    when=(CALIBRATES_OTHERS, EXPORTS, OWN_FP8),
)
"""FP8 everywhere, calibrated the same way, where formats admit it."""


def _unlearned(indicators: Indicators) -> Indicators:
    """Without first values: nothing was learned, so nothing moved."""
    layers = tuple(replace(layer, weight_init=None, act_init=None) for layer in indicators.layers)
    return replace(indicators, layers=layers)
