"""Stages that measure the engine: parity, accuracy, latency."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.reference.parity import Fed, ParityReport
from limpq_deploy.export.runtimes.base import every_output
from limpq_deploy.export.runtimes.onnxruntime.as_written import AsWritten
from limpq_deploy.export.timing.measure import measure_models
from limpq_deploy.latency.baselines import least_batch, with_fp32
from limpq_deploy.latency.bench import progress_of
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.compared import against_engine, against_reference, alone, as_written
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.engine import exported_files
from limpq_deploy.pipeline.stages.facts import (
    BEGAN_HERE,
    BUILDS,
    DATA,
    ENGINE_OPTIONS,
    HANDED_OVER,
    MEASURES,
    OWN_FP8,
    OWN_UNIFORM,
    PAIRS,
    RUNTIME,
    TIMED,
)
from limpq_deploy.progress import Report
from limpq_deploy.tasks.score import TOP1, Scored
from limpq_deploy.train.evaluate import Evaluation
from limpq_deploy.train.judged import compare, judged
from limpq_deploy.verdict.answers import answers_of
from limpq_deploy.verdict.candidates import SERIES, AccuracyPair, CandidateName
from limpq_deploy.verdict.record import AccuracyResult, float_baseline
from limpq_deploy.workspace.file_names import (
    ACCURACY,
    ANSWERS,
    COMPARISON,
    FINETUNED,
    FLOAT_MODEL,
    FLOAT_WEIGHTS,
    FP8_MODEL,
    GIVEN,
    GIVEN_EXPORTED,
    HANDED_PARITY,
    LATENCY,
    MODEL,
    PARITY,
    UNIFORM8_MODEL,
    UNIFORM_MODEL,
)

if TYPE_CHECKING:
    from limpq_deploy.pipeline.context import Subject

BESIDE = (UNIFORM8_MODEL, If(OWN_UNIFORM, UNIFORM_MODEL), If(OWN_FP8, FP8_MODEL))
"""Files of uniform bits beside the policy's own."""

PARITY_IMAGES = 256
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Accuracy of the exported files on the runtime; see `AccuracyResult`. ``pairs``: every two of the candidates."""

    accuracy: AccuracyResult
    pairs: tuple[AccuracyPair, ...] = ()
    format: Literal["limpq.accuracy/1"] = field(default="limpq.accuracy/1")


def _run_parity(subject: Deployed, folder: Path, report: Report) -> str:
    found = measure_parity(subject, folder, report)
    write_record(found, folder / PARITY)
    if subject.placement.weights_only:
        agreed = 100 * (found.top1_agreement or 0)
        return f"no codes to compare; top-1 of the trained model agrees on {agreed:.2f} % of images"
    logits = "bit-equal" if found.logits_equal else "not bit-equal"
    against = f"{found.mismatches:,} of {found.elements:,} codes differ, logits {logits} ({found.images} images)"
    if subject.hands_over:
        against = f"file as written, no engine here ({found.images} images)"
    steps = sum(entry.mismatches for entry in found.faithful)
    largest = max((entry.max_lsb for entry in found.faithful), default=0)
    return f"{against}; trained model layer by layer: {steps:,} codes, by at most {largest} LSB"


PARITY_OF_CODES = Stage(
    name="parity",
    title="parity",
    settings=ENGINE_OPTIONS,
    facts=(DATA, *RUNTIME),
    reads=(
        *(If(BEGAN_HERE, name) for name in (GIVEN, GIVEN_EXPORTED, FLOAT_WEIGHTS, FINETUNED)),
        *(PAIRS, MODEL, If(HANDED_OVER, HANDED_PARITY)),
    ),
    writes=(PARITY,),
    run=_run_parity,
    when=(MEASURES,),
)
"""Integer reference, runtime and trained model, compared code by code on real images."""


def measure_parity(subject: Deployed, folder: Path, report: Report) -> ParityReport:
    """Compare on the first images of the test split (at least 256 where there are so many)."""
    runtime = subject.runtime()
    path = folder / MODEL
    batches = [images for images, _ in _parity_batches(subject)]
    report(0, 2, "reference against runtime")
    compared = against_engine if subject.target.clip == "float" else against_reference
    if subject.hands_over:
        compared = as_written
    if subject.placement.weights_only:
        compared = alone
    found, fed = compared(path, batches, runtime)
    report(1, 2, "trained model, layer by layer")
    if subject.handed_over:
        return with_handed(found, fed, load_record(ParityReport, folder / HANDED_PARITY), path)
    from limpq_deploy.pipeline.stages.trained import with_trained

    return with_trained(subject, folder, found, fed)


def with_handed(found: ParityReport, fed: Iterable[Fed], handed: ParityReport, path: Path) -> ParityReport:
    """What was found of an engine, and beside it what the machine that trained found of model and file."""
    file = AsWritten().load(path)
    pairs = [(one.logits.argmax(1), file.run(one.images_NCHW).argmax(1)) for one in fed]
    alike = sum(int((engine == written).reshape(len(engine), -1).all(1).sum()) for engine, written in pairs)
    return replace(
        found,
        faithful=handed.faithful,
        folding=handed.folding,
        end_to_end=handed.end_to_end,
        trained_logits_equal=handed.trained_logits_equal,
        scales=handed.scales,
        top1_agreement=handed.top1_agreement,
        disagreements=handed.disagreements,
        given=handed.given,
        notes=(
            *found.notes,
            f"The engine puts {alike} of {found.images} images into the class of the file as written.",
            "The trained model was compared with the file as written, where it was trained.",
        ),
    )


def _run_accuracy(subject: "Subject", folder: Path, report: Report) -> str:
    runtime = subject.runtime()
    split = subject.dataset.split("test")
    files = exported_files(folder)
    found: dict[str, Evaluation | Scored] = {}
    task = subject.judge.of(split)
    reference = every_output(runtime.load(folder / FLOAT_MODEL)) if task.judges_by_float else None
    for number, (name, file) in enumerate(files.items()):

        def done(count: int, number: int = number, name: str = name) -> None:
            report(number * len(split) + count, len(files) * len(split), name)

        predict = every_output(runtime.load(folder / file))
        found[name] = judged(predict, split.batches(BATCH), task, reference=reference, progress=done)
    comparison = load_record(Comparison, folder / COMPARISON)
    uniform = found.get("uniform", found["mixed"] if comparison.same else None)
    result = AccuracyResult(
        float=found["float"].accuracy,
        mixed=found["mixed"].accuracy,
        uniform8=found["uniform8"].accuracy,
        uniform=uniform.accuracy if uniform else None,
        fp8=found["fp8"].accuracy if "fp8" in found else None,
        uniform_bits=comparison.bits,
        against_uniform=compare(found["mixed"], uniform) if uniform else None,
        against_float=compare(found["mixed"], found["float"]),
        of=f"the exported files on {runtime.name}, {len(split):,} images of test",
    )
    named = {SERIES[name]: one for name, one in found.items()}
    write_record(Measured(accuracy=result, pairs=tuple(_pairs(named))), folder / ACCURACY)
    write_record(answers_of(named, split), folder / ANSWERS)
    said = f"mixed {result.mixed.shown}, float {result.float.shown}"
    if result.uniform is not None:
        said += f", {result.uniform_bits} {result.uniform.shown}"
    if task.measure != TOP1:
        said = f"{task.measure.name}: {said}"
    return f"{said} ({result.mixed.images} test images, on {runtime.name})"


def _pairs(found: Mapping[CandidateName, Evaluation | Scored]) -> Iterator[AccuracyPair]:
    """Every two candidates, in both orders, on the same images."""
    for first, second in itertools.permutations(found, 2):
        pair = compare(found[first], found[second])
        low, high = pair.interval
        yield AccuracyPair(
            first=first, second=second, points=pair.points, low=low, high=high, p_first_worse=pair.p_first_worse
        )


ACCURACY_OF_FILES = Stage(
    name="accuracy",
    title="accuracy",
    settings=ENGINE_OPTIONS,
    facts=(DATA, *RUNTIME),
    reads=(COMPARISON, MODEL, FLOAT_MODEL, *BESIDE),
    writes=(ACCURACY, ANSWERS),
    run=_run_accuracy,
    when=(MEASURES,),
)
"""The task's figure (top-1) of every exported file on the runtime, on the test split."""


def _run_latency(subject: Deployed, folder: Path, report: Report) -> str:
    runs_on = subject.target.runs_on
    assert runs_on is not None
    seconds = subject.config.latency_seconds
    files = {name: folder / file for name, file in exported_files(folder).items()}
    runtime = subject.runtime()
    models, runtimes = with_fp32(files, runtime)
    batch = least_batch(runtime)
    found = measure_models(
        models,
        settings=runs_on.threads,
        seconds=seconds,
        runtime=runtime,
        runtimes=runtimes,
        batches=(batch,),
        report=progress_of(report),
    )
    write_record(found, folder / LATENCY)
    gain = found.speedup("mixed", "float", threads="default", batch=batch)
    p50 = found.find("mixed", threads="default", batch=batch).stats.p50_ms
    other = float_baseline(models)
    return (
        f"p50 {p50:.3f} ms, {gain.ratio:.2f} times as fast as {other} (95 % {gain.low:.2f} to {gain.high:.2f}); "
        f"{seconds:g} s of calls each, `limpq-deploy bench` takes longer"
    )


LATENCY_OF_FILES = Stage(
    name="latency",
    title="latency",
    settings=("latency_seconds", *ENGINE_OPTIONS),
    facts=TIMED,
    reads=(COMPARISON, MODEL, FLOAT_MODEL, *BESIDE),
    writes=(LATENCY,),
    run=_run_latency,
    when=(BUILDS,),
)
"""Mixed, float (where it is FP16, FP32 too), uniform, int8 and FP8, interleaved in one run: on a CPU one thread, then
the runtime's own choice."""


def _parity_batches(subject: Deployed) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    split = subject.dataset.split("test")
    return split.subset(np.arange(min(PARITY_IMAGES, len(split)))).batches(BATCH)
