"""What leaves the machine: latency, bundles, model repositories. No torch here."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limpq_deploy.api.finished import Report, folder_of
from limpq_deploy.calibration.errors import OutputError, RecordError
from limpq_deploy.callbacks import Listener, listening
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.ship.repository import Keys
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.export.ship.verify import verify_bundle
from limpq_deploy.export.timing.report import LatencyReport
from limpq_deploy.latency.bench import bench_models
from limpq_deploy.serving.ship import Shipped
from limpq_deploy.serving.ship import ship as ship_build
from limpq_deploy.workspace.file_names import BUNDLE


def bench(
    models: Report | str | Path | Sequence[str | Path],
    *,
    batches: Sequence[int] = (1,),
    streams: Sequence[int] = (1,),
    threads: int | None = None,
    seconds: float = 3.0,
    runtime: str = "onnxruntime",
    engine: EngineOptions | None = None,
    progress: Listener | None = None,
) -> LatencyReport:
    """Latency of ONNX files, timed in turns in one run; of a build, its mixed, float and uniform 8-bit model.

    ``batches``: images per call. ``streams``: batches that run at once. ``threads`` None: one, then as many as the
    runtime takes. ``seconds`` of recorded calls for each series. ``engine``: how TensorRT builds. All times are in ms,
    and every raw sample is kept, with machine, warm-up and reasons to doubt it.

    Raises RuntimeUnavailable where the runtime cannot run here, ModelError for a folder that is no build.

    Examples:
        >>> report = limpq_deploy.bench("limpq-build", seconds=0.1, threads=1)
        >>> sorted({series.name for series in report.series})
        ['float', 'mixed', 'uniform8']
    """
    several = [models] if isinstance(models, str | Path | Report) else list(models)
    paths = list(map(folder_of, several))
    with listening(progress):
        return bench_models(
            paths,
            batches=batches,
            streams=streams,
            threads=threads,
            seconds=seconds,
            runtime=runtime,
            options=engine,
        )


def bundle(build: Report | str | Path, out: str | Path | None = None) -> Path:
    """The bundle of a finished build, every file checked; a copy of it at ``out`` where that is given.

    A bundle holds the model, its preprocessing, canaries and a manifest with the SHA-256 and size of every file.
    Raises RecordError for a build without a bundle, BundleRefused for a changed file, OutputError where ``out`` exists.

    Examples:
        >>> limpq_deploy.bundle("limpq-build", "to-ship").name
        'to-ship'
    """
    folder = folder_of(build)
    found = folder / BUNDLE
    if not found.is_dir():
        raise RecordError(f"{folder} has no {BUNDLE}; expected a build that was not stopped before its end")
    verify_bundle(found)
    if out is None:
        return found
    target = Path(out)
    if target.exists():
        raise OutputError(f"{target} exists already; name a new folder")
    shutil.copytree(found, target)
    verify_bundle(target)
    return target


def ship(
    build: Report | str | Path,
    repository: str | Path,
    *,
    backend: Any = "onnxruntime",
    name: str | None = None,
    max_batch: int = 8,
    instances: int = 1,
    threads: int | None = None,
    queue_delay_us: int | None = None,
    config: str | Path | None = None,
    plans: Mapping[str, Path] | None = None,
    candidate: str | None = None,
    keep: int = 3,
    force: bool = False,
    sign: str | Path | None = None,
    key: str | Path | None = None,
) -> Shipped:
    """Add a finished build to a Triton model repository as the next version, in one rename, and serve that version.

    ``backend``: onnxruntime, python or tensorrt. ``max_batch``: images per request; ``instances``: copies that answer
    at once. ``candidate``: another file of the build (mixed, uniform, int8, fp8, float). ``keep``: versions that remain
    for a rollback. ``sign``, ``key``: private and public key. ``plans``: TensorRT plans by compute capability.

    Raises ShipRefused for a failed verdict without ``force``, ConfigRefused for a configuration that does not fit.

    Examples:
        >>> shipped = limpq_deploy.ship("limpq-build", "models", name="digits", force=True)
        >>> shipped.version
        1
    """
    options = ServingOptions(
        backend=backend, max_batch=max_batch, instances=instances, threads=threads, queue_delay_us=queue_delay_us
    )
    return ship_build(
        folder_of(build),
        Path(repository),
        options,
        name=name,
        config=_path(config),
        plans=plans or {},
        candidate=candidate,
        keep=keep,
        force=force,
        keys=Keys(private=_path(sign), public=_path(key)),
    )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
