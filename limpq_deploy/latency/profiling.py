"""A build's model profiled on this device, from its files alone. No torch here."""

from pathlib import Path

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.markers import with_markers
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import runtime_record
from limpq_deploy.export.timing.profile import ProfileSettings
from limpq_deploy.export.timing.profile import profile as measure
from limpq_deploy.export.timing.report import Threads
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.latency.bench import available, progress_of, require_batches, require_threads
from limpq_deploy.policy.indicators import Indicators, LayerEdge
from limpq_deploy.progress import progress
from limpq_deploy.workspace.file_names import FLOAT_MODEL, INDICATORS, PLACEMENT
from limpq_deploy.workspace.finished import BuildFiles


def profile_build(
    folder: Path,
    *,
    threads: Threads = "default",
    batch: int = 1,
    seconds: float = 1.0,
    graphs: int = 8,
    runtime: str | None = None,
    seed: int = 0,
    options: EngineOptions | None = None,
) -> LatencyTable:
    """Time the parts of a build's model. Reads its float model, placement and indicators. ``options``: how the
    runtime builds engines.

    Raises ModelError for a directory that is no build's, one of a version that did not record what is needed, and one
    for a target that the runtime does not execute; SettingError for a batch that the engines would not take, and for
    threads of a runtime that computes on a device.
    """
    files, placement, _, edges = profiled_files(folder)
    chosen = runtime or placement.spec.runtime
    if chosen is None:
        raise ModelError(f"the target {placement.spec.name} is never executed; build for another with --target")
    own = placement.spec.runs_on
    if own is not None and runtime_record(chosen).dialect != own.dialect:
        raise ModelError(
            f"{folder} is a build for {placement.spec.name}, whose quantizers {chosen} does not execute; leave "
            "--runtime away, or build for that target"
        )
    found = available(chosen, options)
    require_threads(found, threads)
    float_model = files.path(FLOAT_MODEL)
    require_batches((batch,), (float_model,), found)
    template = with_markers(load_model(float_model))
    with progress("profiling") as report:
        return measure(
            template,
            placement,
            [(edge.producer, edge.consumer, edge.elements) for edge in edges],
            found,
            ProfileSettings(threads=threads, batch=batch, seconds=seconds, mixed=graphs, seed=seed),
            report=progress_of(report),
        )


def profiled_files(folder: Path) -> tuple[BuildFiles, Placement, Indicators, tuple[LayerEdge, ...]]:
    """A build's files with its placement, indicators and edges. Raises ModelError where one is not there."""
    for name in (FLOAT_MODEL, PLACEMENT, INDICATORS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}; name the --out directory of a build that came to its export")
    files = BuildFiles(folder)
    placement = load_record(Placement, files.path(PLACEMENT))
    if placement.weights_only:
        raise ModelError(
            f"{folder} is a build with --act-bits, whose activations are floats; the parts of such a network are "
            "neither timed nor priced yet: profile a build without it"
        )
    indicators = load_record(Indicators, files.path(INDICATORS))
    if indicators.edges is None:
        raise ModelError(f"the indicators of {folder} know no edges; renew them with `limpq-deploy indicators --fresh`")
    return files, placement, indicators, indicators.edges
