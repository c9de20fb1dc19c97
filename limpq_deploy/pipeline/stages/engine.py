"""The stage that makes the engine, and what files there are of it. No torch here."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.runtimes.base import CompiledEngine, Engine, Reporting, Runtime
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.comparison import has_own_fp8, own_pair
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.facts import BUILDS, COMPILES_ONLY, ENGINE_OPTIONS, RUNTIME
from limpq_deploy.progress import Report
from limpq_deploy.workspace.file_names import (
    COMPARISON,
    ENGINE,
    FLOAT_MODEL,
    FP8_MODEL,
    LINT,
    MODEL,
    UNIFORM8_MODEL,
    UNIFORM_MODEL,
)

if TYPE_CHECKING:
    from limpq_deploy.pipeline.context import Subject


def _run_engine(subject: Deployed, folder: Path, report: Report) -> str:
    engine = _engine(subject.runtime(), folder, report)
    layers, planned = len(engine.layer_precision), load_record(LintReport, folder / LINT).planned_float
    kept = sum(engine.layer_precision.get(name, "").startswith("float") for name in planned)
    return (
        f"{engine.runtime} {engine.version}, {engine.provider}: "
        f"{layers - len(engine.float_layers)} of {layers} layers run in integers"
        + (f", {kept} of {len(planned)} that the policy keeps in float run so" if planned else "")
    )


def _run_compiler(subject: "Subject", folder: Path, report: Report) -> str:
    engine = _engine(subject.compiler(), folder, report)
    assert isinstance(engine, CompiledEngine)
    in_fp8 = f", {engine.fp8_layers} in FP8" if engine.fp8_layers else ""
    return (
        f"built by {engine.compiler} for {engine.provider}: {engine.kernels} kernels, {engine.integer_layers} of "
        f"{engine.layers} layers in integers{in_fp8}; not run: none of these GPUs is here"
    )


def _engine(runtime: Runtime, folder: Path, report: Report) -> Engine:
    """The exported model's engine, and its record."""
    if isinstance(runtime, Reporting):
        runtime.report_to(report)
    engine = runtime.engine(folder / MODEL)
    write_record(engine, folder / ENGINE)
    return engine


ENGINE_RECORD = Stage(
    name="engine",
    title="engine",
    settings=ENGINE_OPTIONS,
    facts=RUNTIME,
    reads=(MODEL, LINT),
    writes=(ENGINE,),
    run=_run_engine,
    when=(BUILDS,),
)
"""What the runtime makes of the exported model."""

COMPILED_ENGINE = replace(ENGINE_RECORD, run=_run_compiler, when=(COMPILES_ONLY,))
"""The same where the engine is for GPUs of other machines."""


def exported_files(folder: Path) -> dict[str, str]:
    """The exported models by name, relative to ``folder``: mixed, float, uniform8, and uniform and fp8 where they
    have files of their own."""
    files = {"mixed": MODEL, "float": FLOAT_MODEL, "uniform8": UNIFORM8_MODEL}
    if own_pair(folder / COMPARISON) is not None:
        files["uniform"] = UNIFORM_MODEL
    if has_own_fp8(folder / COMPARISON):
        files["fp8"] = FP8_MODEL
    return files
