"""Stage that looks into the engine: planned against actual precision, reformats, layers that are slower in integers."""

from pathlib import Path

import numpy as np

from limpq_deploy.calibration.records import write_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.runtimes.base import DeviceTimed, Runtime
from limpq_deploy.export.timing.engine_audit import Samples, audit
from limpq_deploy.latency.baselines import least_batch
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.facts import BUILDS, ENGINE_OPTIONS, INTEGERS, NOT_ON_CPU, RUNTIME
from limpq_deploy.progress import Report
from limpq_deploy.workspace.file_names import AUDIT, ENGINE, FLOAT_ENGINE, FLOAT_MODEL, MODEL

RUNS = 100
"""Profiled runs of each engine."""


def _run(subject: Deployed, folder: Path, report: Report) -> str:
    runtime = subject.runtime()
    report(0, 2, "mixed")
    engine, samples = runtime.engine(folder / MODEL), profiled(runtime, folder / MODEL)
    report(1, 2, "float")
    plain, float_samples = runtime.engine(folder / FLOAT_MODEL), profiled(runtime, folder / FLOAT_MODEL)
    found = audit(
        load_model(folder / MODEL),
        engine,
        samples,
        float_model=load_model(folder / FLOAT_MODEL),
        float_engine=plain,
        float_samples=float_samples,
    )
    write_record(found, folder / AUDIT)
    write_record(plain, folder / FLOAT_ENGINE)
    return f"{len(found.lines)} layers, {found.reformats} reformats; " + (
        " ".join(found.notes) or "every layer runs as planned"
    )


AUDIT_OF_ENGINE = Stage(
    name="audit",
    title="audit",
    settings=ENGINE_OPTIONS,
    facts=RUNTIME,
    reads=(MODEL, FLOAT_MODEL, ENGINE),
    writes=(AUDIT, FLOAT_ENGINE),
    run=_run,
    when=(BUILDS, INTEGERS, NOT_ON_CPU),
)
"""The mixed engine beside the float one. ONNX Runtime's is in the latency study; where weights alone are integers,
nothing computes in them."""


def profiled(runtime: Runtime, path: Path) -> Samples | None:
    """Times of an engine's layers; None where the runtime tells none."""
    session = runtime.load(path)
    shape = (least_batch(runtime), *(size or 1 for size in session.input_shape[1:]))
    if not isinstance(session, DeviceTimed):
        return None
    return session.layer_times(np.random.default_rng(0).standard_normal(shape).astype(np.float32), RUNS)
