"""The stage that makes what is shipped."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.plain_text import escaped
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes.base import BuildsEngines, KeepsPlans, Runtime, every_output, in_rows
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime
from limpq_deploy.export.ship.bundle import write_bundle
from limpq_deploy.export.ship.shipped_plans import PLAN, PLAN_RECORD, RECORD_SUFFIX
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.facts import (
    BUILDS,
    CLASSES,
    DATA,
    ENGINE_OPTIONS,
    HANDS_OVER,
    HANDS_WHAT_IF_OVER,
    MEASURES,
    OWN_FP8,
    OWN_UNIFORM,
    PIXEL_INPUT,
    RUNTIME,
    VERSIONS,
)
from limpq_deploy.pipeline.stages.handover import CARRIED, carried_files
from limpq_deploy.pipeline.stages.versions import versions
from limpq_deploy.policy.policy import Policy
from limpq_deploy.progress import Report
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.file_names import (
    BUNDLE,
    CANDIDATE_BUNDLES,
    COMPARISON,
    FLOAT_MODEL,
    FP8_MODEL,
    MODEL,
    PIXELS,
    POLICY,
    REPORT,
    UNIFORM8_MODEL,
    UNIFORM_MODEL,
    VERDICT,
    WHAT_IF,
)

CANARIES = 16


def _run(subject: Deployed, folder: Path, report: Report) -> str:
    shipped = PIXELS if subject.config.input == "uint8" else MODEL
    split = subject.dataset.split("test")
    images, _ = next(split.subset(np.arange(min(CANARIES, len(split)))).batches(CANARIES))
    runtime = subject.runtime()
    answers = in_rows(every_output(runtime.load(folder / MODEL))(images))
    if shipped == PIXELS:
        images = subject.preprocess.pixels(images).astype(np.float32)
        _require_same(in_rows(every_output(runtime.load(folder / PIXELS))(images)), answers)
    if subject.hands_over:  # as the CPU twin answers, until there is an engine
        answers = in_rows(every_output(OnnxRuntime().load(folder / shipped))(images))
    manifest = write_bundle(
        folder / BUNDLE,
        {
            "model.onnx": folder / shipped,
            **_labels(subject),
            "report.html": folder / REPORT,
            **(carried_files(subject, folder) if subject.hands_over else {}),
            **(_plan_files(runtime, folder / shipped) if isinstance(runtime, KeepsPlans) else {}),
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
        answered_by=OnnxRuntime.name if subject.hands_over else None,
    )
    others = () if subject.hands_over else _write_candidates(subject, folder, runtime, report)
    size = sum(file.size for file in manifest.files)
    beside = f"; {', '.join(others)} in {folder / CANDIDATE_BUNDLES} (ship --candidate NAME)" if others else ""
    return f"{folder / BUNDLE}, {len(manifest.files)} files, {size / 2**20:.2f} MiB{beside}"


def _write_candidates(subject: Deployed, folder: Path, runtime: Runtime, report: Report) -> tuple[str, ...]:
    """A bundle of every file that could be shipped instead of the policy's own, in ``candidates/NAME``."""
    split = subject.dataset.split("test")
    images, _ = next(split.subset(np.arange(min(CANARIES, len(split)))).batches(CANARIES))
    verdict = load_record(Verdict, folder / VERDICT)
    others = [one for one in verdict.candidates if one.file != MODEL]
    shutil.rmtree(folder / CANDIDATE_BUNDLES, ignore_errors=True)
    for number, one in enumerate(others):
        report(number, len(others), one.name)
        write_bundle(
            folder / CANDIDATE_BUNDLES / one.name,
            {
                "model.onnx": folder / one.file,
                **_labels(subject),
                "report.html": folder / REPORT,
                **(_plan_files(runtime, folder / one.file) if isinstance(runtime, KeepsPlans) else {}),
            },
            model=subject.config.model,
            target=subject.target.name,
            model_file="model.onnx",
            canary_inputs_NCHW=images,
            canary_outputs=in_rows(every_output(runtime.load(folder / one.file))(images)),
            environment=read_environment(),
            versions=versions(),
            policy={"candidate": one.name, "bits": one.bits},
            verdict=verdict,
            preprocess=subject.preprocess,
            engine=runtime.options if isinstance(runtime, BuildsEngines) else None,
        )
    return tuple(one.name for one in others)


ALWAYS = (POLICY, FLOAT_MODEL, UNIFORM8_MODEL, COMPARISON)
"""Files that are read whether or not the build is handed over."""

SHIPPED = Stage(
    name="bundle",
    title="bundle",
    settings=("input", *ENGINE_OPTIONS),
    facts=(CLASSES, DATA, VERSIONS, *RUNTIME),
    reads=(
        *(MODEL, If(PIXEL_INPUT, PIXELS), POLICY, VERDICT, REPORT),
        *(If(HANDS_OVER, name) for name in CARRIED.values() if name not in (*ALWAYS, WHAT_IF)),
        If(HANDS_WHAT_IF_OVER, WHAT_IF),
        *(FLOAT_MODEL, UNIFORM8_MODEL, COMPARISON, If(OWN_UNIFORM, UNIFORM_MODEL), If(OWN_FP8, FP8_MODEL)),
    ),
    writes=(BUNDLE, If(BUILDS, CANDIDATE_BUNDLES)),
    run=_run,
    when=(MEASURES,),
)
"""What is shipped: model (that which takes pixels, where there is one), labels, canaries, manifest; the plan where one
was built, and where none was, what the machine that builds it needs."""


def _labels(subject: Deployed) -> dict[str, bytes]:
    """A line for each class; no file where there are none."""
    names = "".join(f"{escaped(name)}\n" for name in subject.class_names)
    return {"labels.txt": names.encode()} if names else {}


def _plan_files(runtime: KeepsPlans, model: Path) -> dict[str, Path]:
    """The plan that answered, with its record."""
    _, plan = runtime.built(model)
    return {PLAN: plan, PLAN_RECORD: plan.with_suffix(RECORD_SUFFIX)}


def _require_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """The file that takes pixels answers as the one that was measured, which it does by construction."""
    if found.tobytes() != expected.tobytes():
        raise ModelError(
            f"{PIXELS} gives other logits than {MODEL} for the same images (by up to "
            f"{np.abs(found - expected).max():g}); leave --input uint8 away on this runtime"
        )
