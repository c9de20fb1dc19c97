"""Model files timed by the protocol of `timing_loop`: loaded into a runtime, fed with random images, interleaved."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes.base import Runtime, Session
from limpq_deploy.export.runtimes.cuda.watch import GpuUse, watching
from limpq_deploy.export.timing.concurrent_runs import RunsAtOnce
from limpq_deploy.export.timing.report import WALL, LatencyProtocol, LatencyReport, LatencySeries, Setting, Threads
from limpq_deploy.export.timing.timing_loop import measure_interleaved
from limpq_deploy.export.timing.trtexec import times_beside

MODEL_KEY = "limpq.model"
"""Metadata of an exported model: the name of what it was made from."""

INPUTS = 4
"""Different batches that calls take in turn, so that no input stays in the nearest cache."""

LONGEST_TURN_MS, LEAST_TURNS = 50.0, 12
"""Short runs have short turns, so that there are enough of them for a drift to hit all candidates equally."""

LONGEST_WARM_UP_MS, WARM_UP_SHARE = 200.0, 0.2
"""Warm-up of a candidate: this share of what is recorded of it."""

CPU_TIME = "cpu"
"""Part of a call on one thread: the time in which it computed, without that in which others had the CPU."""

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and a short text."""


class CpuTimedCall:
    """A call on one thread of this process, with its CPU time beside the clock's: on a busy machine the two differ by
    the time in which others ran."""

    main_part = WALL

    def __init__(self, call: Callable[[], object]) -> None:
        self._call, self._ns = call, 0

    def __call__(self) -> None:
        start = time.thread_time_ns()
        self._call()
        self._ns = time.thread_time_ns() - start

    def parts_ms(self) -> dict[str, float]:
        return {CPU_TIME: self._ns / 1e6}


def measure_models(
    models: Mapping[str, Path],
    *,
    settings: Sequence[Threads],
    seconds: float,
    runtime: Runtime,
    batches: Sequence[int] = (1,),
    streams: Sequence[int] = (1,),
    runtimes: Mapping[str, Runtime] | None = None,
    trtexec: bool = True,
    report: Progress | None = None,
) -> LatencyReport:
    """Time models by name for each number of threads, batch size and number of runs at once; those of one such run are
    interleaved. ``runtimes``: of models that ``runtime`` does not run, such as one file with other settings of an
    engine's builder. ``trtexec``: ask it too, where it is installed and plans are kept."""
    own = runtimes or {}
    protocols: list[LatencyProtocol] = []
    series: list[LatencySeries] = []
    accelerator: dict[str, Any] | None = None
    runs = [Setting(*one) for one in itertools.product(settings, dict.fromkeys(batches), dict.fromkeys(streams))]
    for number, setting in enumerate(runs):
        count = None if setting.threads == "default" else setting.threads
        sessions = {name: own.get(name, runtime).load(path, threads=count) for name, path in models.items()}

        def share(done: float, number: int = number, setting: Setting = setting) -> None:
            if report is not None:
                report((number + done) / len(runs), str(setting))

        protocol = LatencyProtocol(
            batch=setting.batch,
            streams=setting.streams,
            threads=setting.threads,
            warm_up_ms=min(LONGEST_WARM_UP_MS, 1000 * seconds * WARM_UP_SHARE),
            min_seconds=seconds,
            turn_ms=min(LONGEST_TURN_MS, 1000 * seconds / LEAST_TURNS),
            inputs=INPUTS,
        )
        calls = {name: timed_call(session, protocol) for name, session in sessions.items()}
        facts = {name: session.environment() for name, session in sessions.items()}
        accelerator = next((one["accelerator"] for one in facts.values() if "accelerator" in one), None)
        with watching(accelerator is not None) as gpu:
            timed = measure_interleaved(calls, protocol, options=facts, progress=share, warmed=gpu.start)
            use, doubts = gpu.seen()
        series += [with_gpu(one, use, doubts) for one in timed]
        protocols.append(protocol)
        calls.clear()  # a device's memory is given back before the next run
        sessions.clear()
    all_runtimes = {name: own.get(name, runtime) for name in models}
    return LatencyReport(
        environment=replace(read_environment(), accelerator=accelerator),
        protocols=tuple(protocols),
        series=tuple(series),
        model=_model_name(models),
        files={name: sha256_of(path) for name, path in models.items()},
        trtexec=times_beside(models, all_runtimes, batches, seconds=seconds) if trtexec else (),
    )


def with_gpu(series: LatencySeries, use: GpuUse | None, doubts: tuple[str, ...]) -> LatencySeries:
    """A series with what the GPU did meanwhile among its options, and what that makes doubtful."""
    if use is None and not doubts:
        return series
    options = series.options | ({"gpu": to_dict(use)} if use is not None else {})
    return replace(series, options=options, doubts=(*series.doubts, *doubts))


def random_images(session: Session, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Numbers of the size of normalised images, or pixels where a session takes these."""
    if getattr(session, "takes_pixels", False):
        return generator.integers(0, 256, shape).astype(np.float32)
    return generator.standard_normal(shape, np.float32)


def timed_call(session: Session, protocol: LatencyProtocol) -> Callable[[], object]:
    """One call of a session on the protocol's batches of random images, in turn.

    A session that times its own parts (a GPU's) has a method ``timed``, which takes the batches and gives a
    `PartedCall`; on one thread of a CPU the call's CPU time stands beside the clock's. Several streams: so many runs at
    once.
    """
    shape = (protocol.batch, *(size or 1 for size in session.input_shape[1:]))
    generator = np.random.default_rng(protocol.seed)
    images = [random_images(session, shape, generator) for _ in range(protocol.inputs)]
    own = getattr(session, "timed", None)
    if own is not None:
        found: Callable[[], object] = own(images, streams=protocol.streams)
        return found
    if protocol.streams > 1:
        return RunsAtOnce(session.run, images, protocol.streams)
    turn = itertools.cycle(images).__next__

    def call() -> object:
        return session.run(turn())

    return CpuTimedCall(call) if protocol.threads == 1 else call


def _model_name(models: Mapping[str, Path]) -> str | None:
    """What the files say that they were made from; None where they say nothing, or different things."""
    names = set()
    for path in models.values():
        if path.suffix == ".onnx":
            names |= {entry.value for entry in load_model(path).metadata_props if entry.key == MODEL_KEY}
    return names.pop() if len(names) == 1 else None
