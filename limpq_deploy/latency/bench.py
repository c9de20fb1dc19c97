"""ONNX files timed side by side on a runtime. No torch here, so that a target machine stays light."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from limpq_deploy.calibration.errors import ModelError, RuntimeUnavailable, SettingError
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.targets import runtime_record
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsEngines, Runtime
from limpq_deploy.export.timing.as_deployed import with_misfits
from limpq_deploy.export.timing.measure import Progress, measure_models
from limpq_deploy.export.timing.report import LatencyReport, Threads
from limpq_deploy.latency.baselines import with_fp32
from limpq_deploy.progress import Report, progress
from limpq_deploy.workspace.file_names import FLOAT_MODEL, FP8_MODEL, MODEL, UNIFORM8_MODEL
from limpq_deploy.workspace.finished import BuildFiles, checked

BUILT = {"mixed": MODEL, "float": FLOAT_MODEL, "uniform8": UNIFORM8_MODEL}
"""What is timed of a build's directory, by the series' name; FP8 too, where that build made it."""


def bench_models(
    paths: Sequence[Path],
    *,
    batches: Sequence[int] = (1,),
    streams: Sequence[int] = (1,),
    threads: int | None = None,
    seconds: float = 3.0,
    runtime: str = "onnxruntime",
    options: EngineOptions | None = None,
) -> LatencyReport:
    """Time files, and the models of build directories; all of one batch size, number of threads and of runs at
    once are interleaved.

    ``threads`` None: on a CPU one, then as many as the runtime takes. ``seconds`` of recorded calls for each.
    ``options``: how the runtime builds engines. A build's float model is timed in FP32 too where the runtime takes it
    in FP16. A file that is not for this runtime is doubtful. Raises ModelError for a directory that is no build's,
    SettingError for a batch that the engines would not take, and for threads of a runtime that computes on a device.
    """
    found = available(runtime, options)
    settings = _settings(found, threads)
    models, runtimes = with_fp32(named_models(paths), found)
    require_batches(batches, models.values(), found)
    with progress("timing") as report:
        measured = measure_models(
            models,
            batches=batches,
            streams=streams,
            settings=settings,
            seconds=seconds,
            runtime=found,
            runtimes=runtimes,
            report=progress_of(report),
        )
    return with_misfits(measured, models, runtime)


def require_threads(runtime: Runtime, threads: Threads | None) -> None:
    """Raise SettingError where a number of threads was given for a runtime that computes on a device."""
    if runtime_record(runtime.name).device != "cpu" and threads not in (None, "default"):
        raise SettingError(f"--threads has no effect on {runtime.name}, which computes on a device; leave it away")


def _settings(runtime: Runtime, threads: int | None) -> tuple[Threads, ...]:
    """Numbers of threads to time with."""
    require_threads(runtime, threads)
    if threads is not None:
        return (threads,)
    return runtime_record(runtime.name).threads


def named_models(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by the names of their series: a build's are mixed, float, uniform8 and fp8 (with several directories behind
    the directory's name), others have their file's name, with its folder where two are equal."""
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if not path.is_dir()]
    models: dict[str, Path] = {}
    for folder in folders:
        if not (folder / MODEL).is_file():
            raise ModelError(f"{folder} holds no {MODEL}; name ONNX files, or the --out directory of a finished build")
        written = BuildFiles(folder)
        built = {name: written.path(file) for name, file in BUILT.items() if (folder / file).is_file()}
        if written.has(FP8_MODEL):
            built["fp8"] = written.path(FP8_MODEL)
        prefix = "" if len(folders) == 1 else f"{folder.name}/"
        models.update({prefix + name: path for name, path in built.items()})
    for file in files:
        ambiguous = sum(other.name == file.name for other in files) > 1 or file.name in models
        models[str(file) if ambiguous else file.name] = checked(file)
    return models


def require_batches(batches: Sequence[int], models: Iterable[Path], runtime: Runtime) -> None:
    """Raise SettingError, before anything is built, where ``--batch`` asks for images that ``--engine-batch`` leaves
    out; a file of a fixed batch takes that one whatever is set."""
    if not isinstance(runtime, BuildsEngines):
        return
    taken = runtime.options.sizes
    outside = [batch for batch in batches if not taken.least <= batch <= taken.most]
    if outside and any(path.suffix == ".onnx" and _free_batch(path) for path in models):
        wanted = f"{min(taken.least, *batches)}:{outside[0]}:{max(taken.most, *batches)}"
        raise SettingError(
            f"--batch {outside[0]} lies outside the range {taken} that engines are built for; give --engine-batch "
            f"{wanted}"
        )


def _free_batch(path: Path) -> bool:
    dims = load_model(path).graph.input[0].type.tensor_type.shape.dim
    return not (dims and dims[0].dim_value)


def progress_of(report: Report) -> Progress:
    """A progress bar for `measure_models`."""
    return lambda share, note: report(round(100 * share), 100, note)


def available(name: str, options: EngineOptions | None = None) -> Runtime:
    """The runtime of this name. Raises RuntimeUnavailable where it cannot be used here, or as `runtime_named`."""
    runtime = runtime_named(name, options)
    why = runtime.unavailable()
    if why is not None:
        raise RuntimeUnavailable(why)
    return runtime
