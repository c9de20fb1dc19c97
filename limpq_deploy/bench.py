"""ONNX files timed side by side on a runtime. No torch here, so that a target machine stays light."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from limpq_deploy.calibration.errors import ModelError, RuntimeUnavailable
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.export.environment import read_environment
from limpq_deploy.export.latency import LatencyProtocol, LatencyReport, LatencySeries, Threads, measure_interleaved
from limpq_deploy.export.loading import load_model
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Runtime, Session
from limpq_deploy.progress import Report, progress, silent
from limpq_deploy.stages.files import FLOAT_MODEL, MODEL, UNIFORM8_MODEL

MODEL_KEY = "limpq.model"
"""Metadata of an exported model: the name of what it was made from."""

BUILT = {"mixed": MODEL, "float": FLOAT_MODEL, "uniform8": UNIFORM8_MODEL}
"""What is timed of a build's directory, by the series' name."""

INPUTS = 4
"""Different batches that calls take in turn, so that no input stays in the nearest cache."""


def bench_models(
    paths: Sequence[Path],
    *,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    seconds: float = 3.0,
    runtime: str = "onnxruntime",
) -> LatencyReport:
    """Time files, and the models of build directories; all of one batch size and number of threads are interleaved.

    ``threads`` None: one, then as many as the runtime takes. ``seconds`` of recorded calls for each. Raises ModelError
    for a directory that is no build's.
    """
    found = _available(runtime)
    settings: tuple[Threads, ...] = (1, "default") if threads is None else (threads,)
    with progress("timing") as report:
        return measure_models(
            named_models(paths), batches=batches, settings=settings, seconds=seconds, runtime=found, report=report
        )


def named_models(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by the names of their series: a build's are mixed, float and uniform8 (with several directories behind the
    directory's name), others have their file's name, with its folder where two are alike."""
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if not path.is_dir()]
    models: dict[str, Path] = {}
    for folder in folders:
        built = {name: folder / file for name, file in BUILT.items() if (folder / file).is_file()}
        if "mixed" not in built:
            raise ModelError(f"{folder} holds no {MODEL}; name ONNX files, or the --out directory of a finished build")
        prefix = "" if len(folders) == 1 else f"{folder.name}/"
        models.update({prefix + name: path for name, path in built.items()})
    for file in files:
        alike = sum(other.name == file.name for other in files) > 1 or file.name in models
        models[str(file) if alike else file.name] = file
    return models


def measure_models(
    models: Mapping[str, Path],
    *,
    settings: Sequence[Threads],
    seconds: float,
    runtime: Runtime,
    batches: Sequence[int] = (1,),
    report: Report = silent,
) -> LatencyReport:
    """Time models by name for each batch size and number of threads; those of one such run are interleaved."""
    protocols: list[LatencyProtocol] = []
    series: list[LatencySeries] = []
    runs = [(threads, batch) for threads in settings for batch in dict.fromkeys(batches)]
    for number, (threads, batch) in enumerate(runs):
        count = None if threads == "default" else threads
        sessions = {name: runtime.load(path, threads=count) for name, path in models.items()}

        def share(done: float, number: int = number, threads: Threads = threads, batch: int = batch) -> None:
            report(100 * number + round(100 * done), 100 * len(runs), f"threads {threads}, batch {batch}")

        protocol = LatencyProtocol(batch=batch, threads=threads, min_seconds=seconds, inputs=INPUTS)
        series += measure_interleaved(
            {name: timed_call(session, protocol) for name, session in sessions.items()},
            protocol,
            options={name: session.environment() for name, session in sessions.items()},
            progress=share,
        )
        protocols.append(protocol)
    return LatencyReport(
        environment=read_environment(),
        protocols=tuple(protocols),
        series=tuple(series),
        model=_model_name(models),
        files={name: sha256_of(path) for name, path in models.items()},
    )


def timed_call(session: Session, protocol: LatencyProtocol) -> Callable[[], object]:
    """One call of a session on the protocol's batches of random images, in turn."""
    shape = (protocol.batch, *(size or 1 for size in session.input_shape[1:]))
    generator = np.random.default_rng(protocol.seed)
    batches = [generator.standard_normal(shape, np.float32) for _ in range(protocol.inputs)]
    turn = itertools.cycle(batches).__next__
    return lambda: session.run(turn())


def _available(name: str) -> Runtime:
    runtime = runtime_named(name)
    why = runtime.unavailable()
    if why is not None:
        raise RuntimeUnavailable(why)
    return runtime


def _model_name(models: Mapping[str, Path]) -> str | None:
    """What the files say that they were made from; None where they say nothing, or different things."""
    names = set()
    for path in models.values():
        if path.suffix == ".onnx":
            names |= {entry.value for entry in load_model(path).metadata_props if entry.key == MODEL_KEY}
    return names.pop() if len(names) == 1 else None
