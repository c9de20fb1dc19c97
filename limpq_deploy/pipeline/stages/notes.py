"""Sentences of a build's verdict: what was changed of the model, sizes, calibration, parity, latency, warnings."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.graph.exported import ExportRecord
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.timing.engine_audit import Audit
from limpq_deploy.export.timing.report import LatencyReport
from limpq_deploy.latency.rounds import Rounds
from limpq_deploy.latency.study import LatencyStudy
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.declaration import If
from limpq_deploy.pipeline.stages.facts import AUDITED, LOOKED_INTO, ROUNDS_MADE, STUDIED
from limpq_deploy.pipeline.stages.measure import PARITY_IMAGES, Measured
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.report.figures import plural
from limpq_deploy.train.finetuned import NOT_FINETUNED, FineTuned
from limpq_deploy.verdict.realised_bits import layers_of_unknown_precision
from limpq_deploy.verdict.record import MIXED, AccuracyResult
from limpq_deploy.workspace.file_names import (
    ACCURACY,
    AUDIT,
    ENGINE,
    EXPORT,
    FINETUNED_RECORD,
    FLOAT_ENGINE,
    INDICATORS,
    LATENCY,
    PARITY,
    ROUNDS,
    STUDY,
)


def verdict_notes(subject: Deployed, folder: Path) -> tuple[str, ...]:
    """All of them, from the records of the stages before."""
    trained = load_record(FineTuned, folder / FINETUNED_RECORD)
    return (
        *subject.model_notes,
        *subject.start.notes,
        *operator_notes(subject.placement),
        *_calibration_notes(trained),
        *torch_notes(trained, load_record(Measured, folder / ACCURACY).accuracy),
        *_parity_notes(load_record(ParityReport, folder / PARITY)),
        *_size_notes(load_record(ExportRecord, folder / EXPORT)),
        *(_engine_notes(subject, folder) if subject.builds_engine else (HANDED_OVER_NOTE,)),
        *float_notes(subject.config),
        *_warnings(load_record(Indicators, folder / INDICATORS)),
    )


HANDED_OVER_NOTE = (
    "No engine ran here: accuracy and parity are those of the files as written, executed by ONNX Runtime with "
    "every optimisation off, and executed BitOps are those that the target promises. What is left to do is done from "
    "the bundle, on the machine with the GPU: limpq-deploy finish BUNDLE."
)


def _engine_notes(subject: Deployed, folder: Path) -> Iterator[str]:
    """Of an engine, and of what was timed."""
    yield from _unknown_precision_notes(layers_of_unknown_precision(load_record(Engine, folder / ENGINE)))
    yield from _latency_notes(subject, folder, load_record(LatencyReport, folder / LATENCY))


STUDIES = (If(STUDIED, STUDY), If(LOOKED_INTO, AUDIT), If(AUDITED, FLOAT_ENGINE), If(ROUNDS_MADE, ROUNDS))
"""Files on latency and engines that a build makes beside the latency report and its engine's record."""


def studied_files(subject: Deployed) -> tuple[str, ...]:
    """Those that this build makes; settings alone decide."""
    return tuple(one.file for one in STUDIES if one.condition.holds(subject, subject.config.out))


def _latency_notes(subject: Deployed, folder: Path, latency: LatencyReport) -> Iterator[str]:
    """How far BitOps predict latency here, and what was predicted of this engine."""
    made = studied_files(subject)
    if STUDY in made:
        yield load_record(LatencyStudy, folder / STUDY).sentence
    if AUDIT in made:
        yield from load_record(Audit, folder / AUDIT).notes
    if ROUNDS in made:
        rounds = load_record(Rounds, folder / ROUNDS)
        yield f"Latency limit: {rounds.why}."
        batch = min(series.batch for series in latency.series)
        measured = latency.find(MIXED, threads="default", batch=batch).stats.p50_ms
        error = 100 * (rounds.last.predicted_ms / measured - 1)
        yield (
            f"The trained engine: predicted {rounds.last.predicted_ms:.3f} ms, measured {measured:.3f} ms in the "
            f"latency stage ({error:+.1f} %), with the machine as busy as it was in either."
        )


def _unknown_precision_notes(layers: tuple[str, ...]) -> Iterator[str]:
    """That executed BitOps are assumed in part."""
    if layers:
        yield (
            f"The mixed engine does not report the precision of {len(layers)} layers ({', '.join(layers[:5])}"
            f"{' and more' if len(layers) > 5 else ''}): their executed BitOps are those that the target promises."
        )


def float_notes(config: Config) -> Iterator[str]:
    """That the float baseline is not the strongest one, where it was asked for in FP32."""
    if config.float_type == "float32" and config.target_spec.float_baseline == "float16":
        yield "Float is the float model's engine in FP32, as --float-type asks; in FP16 it would most likely be faster."


def _parity_notes(parity: ParityReport) -> tuple[str, ...]:
    """What limits the comparison: few images, tensors that the runtime does not compute, kernels chosen."""
    notes = []
    if parity.images < PARITY_IMAGES:
        notes.append(
            f"Parity was shown on {parity.images} images, all that the test split has; {PARITY_IMAGES} are usual here."
        )
    if parity.unwatched:
        notes.append(
            f"{len(parity.unwatched)} code tensors are not computed by the runtime's graph and were not compared: "
            f"{', '.join(list(parity.unwatched)[:5])}."
        )
    return (*notes, *parity.notes)


def operator_notes(placement: Placement) -> tuple[str, ...]:
    """What of a network runs in float between its quantizers."""
    floats = placement.float_operators
    if not floats:
        return ()
    share = 100 * (1 - placement.float_share)
    size = 4 * sum(one.num_weights for one in floats)
    return (
        f"{plural(len(floats), 'operator')} without an integer form run in float between quantizers: "
        f"{placement.floats_in_words}; {share:.1f} % of all multiply-accumulates run in integers, {size:,} bytes of "
        "weights are floats. BitOps are those of layers.",
    )


def _calibration_notes(found: FineTuned) -> tuple[str, ...]:
    """That a model was not trained at its bits, and how it came to its scales."""
    made = found.calibrated
    if made is None:
        return ()
    if made.how == NOT_FINETUNED:
        return (f"{made.how.capitalize()}: {made.why}. Without --no-finetune the same build goes on from here.",)
    left = f" {len(made.uncorrected)} layers have neither bias nor BatchNorm to correct." if made.uncorrected else ""
    return (f"{made.how.capitalize()}: {made.ranges} on {made.images:,} training images, then {made.why}.{left}",)


def torch_notes(trained: FineTuned, deployed: AccuracyResult) -> Iterator[str]:
    """That two records name two accuracies, because they are of two things."""
    pairs = (("float", trained.float_top1, deployed.float), ("mixed", trained.top1, deployed.mixed))
    other = [
        f"{name} {outside.measure.shown(inside.test)} there and {outside.shown} here"
        for name, inside, outside in pairs
        if round(inside.test, 2) != round(outside.value, 2)
    ]
    if other:
        yield (
            f"{deployed.mixed.measure.title} of the test split in {FINETUNED_RECORD} is of the model in PyTorch, in "
            f"this verdict of the files on the runtime: {', '.join(other)}. The runtime adds in another order, which "
            "tips values at ties."
        )


def _size_notes(record: ExportRecord) -> tuple[str, ...]:
    """What the policy's compression comes to in files."""
    nominal, written, stored = record.nominal, record.model, record.stored
    notes = [
        f"The weights take {nominal:,} bytes at the policy's bits and {written.weights:,} bytes in {written.name}, "
        f"which has {written.size:,} bytes in all."
    ]
    if stored is not None:
        notes.append(
            f"In {stored.name} they take {stored.weights:,} bytes ({stored.size:,} in all); `limpq-deploy unpack` "
            f"gives {written.name} back, byte for byte."
        )
    return tuple(notes)


def _warnings(indicators: Indicators) -> tuple[str, ...]:
    source: Mapping[str, Any] = indicators.source if isinstance(indicators.source, Mapping) else {}
    return tuple(str(warning) for warning in source.get("warnings", ()))
