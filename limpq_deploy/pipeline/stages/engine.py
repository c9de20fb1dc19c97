"""The stage that makes the engine, and what files there are of it. No torch here."""

from pathlib import Path

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.runtimes.base import Reporting
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.comparison import own_pair
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.facts import BUILDS, ENGINE_OPTIONS, RUNTIME
from limpq_deploy.progress import Report
from limpq_deploy.workspace.file_names import (
    COMPARISON,
    ENGINE,
    FLOAT_MODEL,
    LINT,
    MODEL,
    UNIFORM8_MODEL,
    UNIFORM_MODEL,
)


def _run_engine(subject: Deployed, folder: Path, report: Report) -> str:
    runtime = subject.runtime()
    if isinstance(runtime, Reporting):
        runtime.report_to(report)
    engine = runtime.engine(folder / MODEL)
    write_record(engine, folder / ENGINE)
    layers, planned = len(engine.layer_precision), load_record(LintReport, folder / LINT).planned_float
    kept = sum(engine.layer_precision.get(name, "").startswith("float") for name in planned)
    return (
        f"{engine.runtime} {engine.version}, {engine.provider}: "
        f"{layers - len(engine.float_layers)} of {layers} layers run in integers"
        + (f", {kept} of {len(planned)} that the policy keeps in float run so" if planned else "")
    )


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


def exported_files(folder: Path) -> dict[str, str]:
    """The exported models by name, relative to ``folder``: mixed, float, uniform8, and uniform where there is one."""
    files = {"mixed": MODEL, "float": FLOAT_MODEL, "uniform8": UNIFORM8_MODEL}
    if own_pair(folder / COMPARISON) is not None:
        files["uniform"] = UNIFORM_MODEL
    return files
