"""Stages that conclude: verdict, report, bundle."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy import __version__
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record, to_dict, write_record
from limpq_deploy.config import Config
from limpq_deploy.export.bundle import write_bundle
from limpq_deploy.export.engine_audit import Audit
from limpq_deploy.export.engine_inspect import planned_precision
from limpq_deploy.export.environment import read_environment
from limpq_deploy.export.exported import ExportRecord
from limpq_deploy.export.latency import LatencyReport
from limpq_deploy.export.lint import LintReport
from limpq_deploy.export.loading import load_model
from limpq_deploy.export.parity import ParityReport
from limpq_deploy.export.placement import BitPair, Placement
from limpq_deploy.export.runtimes.base import INTEGER, BuildsEngines, Engine
from limpq_deploy.finetuned import NOT_TRAINED, FineTuned
from limpq_deploy.indicators import Indicators
from limpq_deploy.judge import MIXED, judge
from limpq_deploy.latency.rounds import Rounds
from limpq_deploy.latency.study import LatencyStudy
from limpq_deploy.pipeline import Stage
from limpq_deploy.policy import LayerBits, Policy
from limpq_deploy.progress import Report
from limpq_deploy.report import ReportInputs, write_report
from limpq_deploy.stages.comparison import Comparison
from limpq_deploy.stages.deploy import runtime_inputs
from limpq_deploy.stages.files import (
    AUDIT,
    COMPARISON,
    ENGINE,
    EXPORT,
    FINETUNED_RECORD,
    FLOAT_MODEL,
    INDICATORS,
    LATENCY,
    LINT,
    MODEL,
    PIXELS,
    PLACEMENT,
    POLICY,
    ROUNDS,
    STORED,
    STUDY,
    UNIFORM8_MODEL,
)
from limpq_deploy.stages.measure import ACCURACY, PARITY, PARITY_IMAGES, Measured
from limpq_deploy.subject import Subject
from limpq_deploy.verdict import (
    FLOAT_BITS,
    BitOps,
    EndToEndParity,
    LayerParity,
    Limits,
    TrainedParity,
    Verdict,
    count_bitops,
    same_bits_everywhere,
)

VERDICT, REPORT, BUNDLE = "verdict.json", "report.html", "bundle"

CANARIES = 16

FLOAT_REASONS = dict.fromkeys(
    ("parity", "layer_parity"), "weights alone are integers, so nothing is executed in integers that could be compared"
)
"""Why a file of float activations has no parity checks."""

EXECUTED_BITS: dict[str, BitPair] = {**dict.fromkeys(INTEGER, (8, 8)), "float16": (16, 16), "bfloat16": (16, 16)}
"""(weight, activation) bits of an engine's layer by its precision; all others are float32."""


def verdict_stage(subject: Subject, folder: Path) -> Stage:
    """Every promise against its measurement."""
    limits = Limits(
        max_accuracy_drop=subject.config.max_accuracy_drop,
        max_latency_ms=subject.config.max_latency_ms,
        min_speedup=subject.config.min_speedup,
    )

    def run(report: Report) -> str:
        policy = load_record(Policy, folder / POLICY)
        parity = load_record(ParityReport, folder / PARITY)
        placement = load_record(Placement, folder / PLACEMENT)
        checked, engine = load_record(LintReport, folder / LINT), load_record(Engine, folder / ENGINE)
        verdict = judge(
            model=subject.config.model,
            target=subject.target.name,
            budgets=policy.costs,
            bitops=_bitops(placement, policy, load_record(Comparison, folder / COMPARISON), folder),
            limits=limits,
            accuracy=load_record(Measured, folder / ACCURACY).accuracy,
            parity=None
            if placement.weights_only
            else EndToEndParity(
                images=parity.images,
                codes=parity.elements,
                mismatches=parity.mismatches,
                logits_bit_equal=parity.logits_equal,
                max_lsb=parity.max_lsb,
                layer_by_layer=parity.mode == "layer by layer",
                lost_bounds=tuple(one.tensor for one in parity.clips.lost) if parity.clips else (),
            ),
            layer_parity=None if placement.weights_only else _layer_parity(parity),
            reasons=FLOAT_REASONS if placement.weights_only else None,
            trained_parity=_trained_parity(parity) if _exact(subject, checked) else None,
            float_nodes=_unplanned_floats(folder),
            planned_float={name: engine.layer_precision.get(name, "absent") for name in checked.planned_float},
            latency=load_record(LatencyReport, folder / LATENCY),
            notes=(
                *_calibration_notes(load_record(FineTuned, folder / FINETUNED_RECORD)),
                *_parity_notes(parity),
                *_size_notes(load_record(ExportRecord, folder / EXPORT)),
                *_latency_notes(subject, folder, load_record(LatencyReport, folder / LATENCY)),
                *float_notes(subject.config),
                *_warnings(load_record(Indicators, folder / INDICATORS)),
            ),
        )
        write_record(verdict, folder / VERDICT)
        failed = [check.name for check in verdict.checks if not check.passed]
        if failed:
            return f"{verdict.outcome}: {', '.join(failed)}"
        return f"{verdict.outcome}: {len(verdict.checks)} checks"

    return Stage(
        name="verdict",
        title="verdict",
        inputs={"limits": to_dict(limits)},
        reads=(
            *(POLICY, COMPARISON, PLACEMENT, INDICATORS, FINETUNED_RECORD),
            *(ENGINE, EXPORT, PARITY, ACCURACY, LINT, LATENCY, *_studied(subject)),
        ),
        outputs=(VERDICT,),
        run=run,
    )


def report_stage(subject: Subject, folder: Path) -> Stage:
    """The page that people look at."""
    command = subject.config.command_line()
    studied = _studied(subject)

    def run(report: Report) -> str:
        comparison = load_record(Comparison, folder / COMPARISON)
        engine = load_record(Engine, folder / ENGINE)
        write_report(
            folder / REPORT,
            ReportInputs(
                title=f"{subject.config.model} for {subject.target.name}",
                command=command,
                created=_written(folder / VERDICT),
                versions=versions(),
                realised=_realised(engine),
                built=_built(subject, load_record(Indicators, folder / INDICATORS)),
                files=_sizes(folder),
                class_names=subject.dataset.classes,
                trained=not subject.config.ptq,
                given=subject.config.policy.name if subject.config.policy is not None else None,
                verdict=load_record(Verdict, folder / VERDICT),
                policy=load_record(Policy, folder / POLICY),
                uniform=_uniform_policy(subject, comparison),
                indicators=load_record(Indicators, folder / INDICATORS),
                placement=load_record(Placement, folder / PLACEMENT),
                latency=load_record(LatencyReport, folder / LATENCY),
                parity=load_record(ParityReport, folder / PARITY),
                study=load_record(LatencyStudy, folder / STUDY) if STUDY in studied else None,
                rounds=load_record(Rounds, folder / ROUNDS) if ROUNDS in studied else None,
            ),
        )
        return str(folder / REPORT)

    return Stage(
        name="report",
        title="report",
        inputs={"command": command, "versions": versions(), "classes": subject.dataset.classes},
        reads=(
            *(VERDICT, POLICY, COMPARISON, INDICATORS, PLACEMENT, ENGINE, LATENCY, PARITY),
            *(MODEL, FLOAT_MODEL, UNIFORM8_MODEL, *studied),
            *((STORED,) if subject.config.storage is not None else ()),
        ),
        outputs=(REPORT,),
        run=run,
    )


def bundle_stage(subject: Subject, folder: Path) -> Stage:
    """What is shipped: model (that which takes pixels, where there is one), labels, canaries, manifest."""
    shipped = PIXELS if subject.config.input == "uint8" else MODEL

    def run(report: Report) -> str:
        split = subject.dataset.split("test")
        images, _ = next(split.subset(np.arange(min(CANARIES, len(split)))).batches(CANARIES))
        runtime = subject.runtime()
        answers = runtime.load(folder / MODEL).run(images)
        if shipped == PIXELS:
            images = subject.preprocess.pixels(images).astype(np.float32)
            _require_same(runtime.load(folder / PIXELS).run(images), answers)
        manifest = write_bundle(
            folder / BUNDLE,
            {
                "model.onnx": folder / shipped,
                "labels.txt": "".join(f"{name}\n" for name in subject.dataset.classes).encode(),
                "report.html": folder / REPORT,
            },
            model=subject.config.model,
            target=subject.target.name,
            model_file="model.onnx",
            canary_inputs_NCHW=images,
            canary_outputs=answers,
            environment=read_environment(),
            versions=versions(),
            policy=load_record(Policy, folder / POLICY),
            verdict=load_record(Verdict, folder / VERDICT),
            preprocess=subject.preprocess if shipped == MODEL else subject.preprocess.of_pixels(),
            engine=runtime.options if isinstance(runtime, BuildsEngines) else None,
        )
        size = sum(file.size for file in manifest.files)
        return f"{folder / BUNDLE}, {len(manifest.files)} files, {size / 2**20:.2f} MiB"

    return Stage(
        name="bundle",
        title="bundle",
        inputs={
            "classes": subject.dataset.classes,
            "data": subject.dataset.digest(),
            "versions": versions(),
            "input": subject.config.input,
            **runtime_inputs(subject),
        },
        reads=(*dict.fromkeys((MODEL, shipped)), POLICY, VERDICT, REPORT),
        outputs=(BUNDLE,),
        run=run,
    )


def _require_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """The file that takes pixels answers as the one that was measured, which it does by construction."""
    if found.tobytes() != expected.tobytes():
        raise ModelError(
            f"{PIXELS} gives other logits than {MODEL} for the same images (by up to "
            f"{np.abs(found - expected).max():g}); leave --input uint8 away on this runtime"
        )


def versions() -> dict[str, str]:
    """This program, Python and the libraries at work."""
    environment = read_environment()
    return {"limpq-deploy": __version__, "python": environment.python, **environment.libraries}


def _written(path: Path) -> str:
    """When a file was written. The verdict's time is that of the page, so that equal records give equal bytes."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _bitops(placement: Placement, policy: Policy, comparison: Comparison, folder: Path) -> tuple[BitOps, ...]:
    realised = _realised(load_record(Engine, folder / ENGINE))
    counted = [count_bitops("mixed", placement, policy.pairs(), realised=realised)]
    if comparison.pair is not None:
        pairs = {layer.name: comparison.pair for layer in placement.searched}
        counted.append(count_bitops(f"uniform {comparison.bits}", placement, pairs))
    counted.append(count_bitops("uniform8", placement, same_bits_everywhere(placement, 8, 8)))
    counted.append(count_bitops("float", placement, same_bits_everywhere(placement, FLOAT_BITS, FLOAT_BITS)))
    return tuple(counted)


def _realised(engine: Engine) -> dict[str, BitPair]:
    """(weight, activation) bits that the engine executes by layer: an integer layer runs 8 by 8 bits."""
    return {
        name: EXECUTED_BITS.get(precision, (FLOAT_BITS, FLOAT_BITS))
        for name, precision in engine.layer_precision.items()
    }


def _unplanned_floats(folder: Path) -> tuple[str, ...]:
    """What computes in float though it should not: nodes of the graph that the runtime shows, or layers of its engine.

    Layers that the policy leaves in float are in no list.
    """
    lint = load_record(LintReport, folder / LINT)
    if lint.optimized:
        return lint.float_compute
    planned = planned_precision(load_model(folder / MODEL))
    floats = load_record(Engine, folder / ENGINE).float_layers
    return tuple(name for name in floats if planned[name] in INTEGER)


def _uniform_policy(subject: Subject, comparison: Comparison) -> Policy | None:
    """The uniform bits as a policy, for the pictures; it has no objective of its own."""
    if comparison.pair is None:
        return None
    weight, act = comparison.pair
    return Policy(
        bits={layer.name: LayerBits(weight=weight, act=act) for layer in subject.placement.searched},
        objective=0.0,
        alpha=1.0,
    )


def _built(subject: Subject, indicators: Indicators) -> dict[str, str]:
    splits = ", ".join(f"{len(split):,} {name}" for name, split in subject.dataset.splits.items())
    source = indicators.source if isinstance(indicators.source, Mapping) else {}
    return {
        "Model": subject.config.model,
        "Weights": subject.config.weights.name if subject.config.weights else "trained here, briefly",
        "Data set": f"{subject.dataset.name} ({splits} images)",
        "Target": subject.target.description,
        "Indicators": f"{source.get('steps', '?')} joint steps, seed {subject.config.seed}",
        **({"Indicators": NOT_TRAINED, "Training": NOT_TRAINED} if subject.config.ptq else {}),
    }


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes on disk of the exported models."""
    names = (MODEL, STORED, FLOAT_MODEL, UNIFORM8_MODEL)
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def _layer_parity(report: ParityReport) -> LayerParity | None:
    if report.top1_agreement is None:
        return None
    return LayerParity(
        images=report.images,
        layers=len(report.faithful),
        codes=sum(entry.elements for entry in report.faithful),
        mismatches=sum(entry.mismatches for entry in report.faithful),
        max_lsb=max((entry.max_lsb for entry in report.faithful), default=0),
        max_tie_distance=max((entry.max_tie_distance or 0.0 for entry in report.faithful), default=0.0),
        top1_agreement=report.top1_agreement,
        disagreements=len(report.disagreements),
    )


def _exact(subject: Subject, checked: LintReport) -> bool:
    """Whether the target sums in integers everywhere, so that scales of powers of two leave nothing to differ."""
    return subject.target.clip == "integer" and not checked.planned_float


def _trained_parity(report: ParityReport) -> TrainedParity | None:
    """Only powers of two promise that nothing differs."""
    if report.scales != "pow2" or report.trained_logits_equal is None:
        return None
    return TrainedParity(
        images=report.images,
        codes=sum(entry.elements for entry in report.end_to_end),
        mismatches=sum(entry.mismatches for entry in report.end_to_end),
        logits_bit_equal=report.trained_logits_equal,
    )


def _studied(subject: Subject) -> tuple[str, ...]:
    """Files on latency that this build makes beside the latency report."""
    made: tuple[str, ...] = (STUDY, AUDIT) if subject.target.runtime == "onnxruntime" else (AUDIT,)
    if subject.placement.weights_only:
        made = ()
    return (*made, *((ROUNDS,) if subject.config.goes_round else ()))


def _latency_notes(subject: Subject, folder: Path, latency: LatencyReport) -> Iterator[str]:
    """How far BitOps predict latency here, and what was predicted of this engine."""
    studied = _studied(subject)
    if STUDY in studied:
        yield load_record(LatencyStudy, folder / STUDY).sentence
    if AUDIT in studied:
        yield from load_record(Audit, folder / AUDIT).notes
    if ROUNDS in studied:
        rounds = load_record(Rounds, folder / ROUNDS)
        yield f"Latency limit: {rounds.why}."
        measured = latency.find(MIXED, threads="default").stats.p50_ms
        error = 100 * (rounds.last.predicted_ms / measured - 1)
        yield (
            f"The trained engine: predicted {rounds.last.predicted_ms:.3f} ms, measured {measured:.3f} ms in the "
            f"latency stage ({error:+.1f} %), with the machine as busy as it was in either."
        )


def float_notes(config: Config) -> Iterator[str]:
    """That the float baseline is not the strongest one, where it was asked for in FP32."""
    if config.target == "tensorrt" and config.float_type == "float32":
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


def _calibration_notes(found: FineTuned) -> tuple[str, ...]:
    """That a model was not trained, and how it came to its scales."""
    made = found.calibrated
    if made is None:
        return ()
    left = f" {len(made.uncorrected)} layers have neither bias nor BatchNorm to correct." if made.uncorrected else ""
    return (f"{made.how.capitalize()}: {made.ranges} on {made.images:,} training images, then {made.why}.{left}",)


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
