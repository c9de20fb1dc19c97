"""Time the study's graphs side by side, as engines where the runtime builds such. No torch here."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.runtimes.base import BuildsEngines, Engine, Runtime
from limpq_deploy.export.timing.measure import Progress
from limpq_deploy.export.timing.profile import ProfileSettings, figure, time_graphs, write_timing_graphs
from limpq_deploy.latency.study import NATIVE_SWEEP, LatencyStudy, Measured, study
from limpq_deploy.verdict.realised_bits import executed_bits


def swept_pairs(placement: Placement, runtime: Runtime) -> tuple[BitPair, ...]:
    """The target's native pairs with one kind of float: of a runtime that builds engines the one that its floats run
    in, for it would take the other one for the same."""
    pairs = placement.spec.native_pairs
    if not isinstance(runtime, BuildsEngines):
        return pairs
    floats = 16 if runtime.options.float_type == "float16" else 32
    return tuple(pair for pair in pairs if max(pair) in (8, floats))


def time_study(
    template: onnx.ModelProto,
    placement: Placement,
    policies: Mapping[str, Mapping[str, BitPair]],
    runtime: Runtime,
    settings: ProfileSettings,
    report: Progress | None = None,
) -> LatencyStudy:
    """Time the policies' graphs, interleaved, and say what they show; executed bits are those that the engines tell.

    A graph of which no engine is built is left out, and stands in the study with the reason. Raises that reason where
    there is no other graph.
    """
    with tempfile.TemporaryDirectory() as work:
        # A graph's name is part of its file, by which engines are kept: that of a profile's graph finds its engine.
        named = {name.removeprefix(NATIVE_SWEEP): name for name in policies}
        bits = {short: policies[name] for short, name in named.items()}
        files = {
            named[short]: path for short, path in write_timing_graphs(template, placement, bits, Path(work)).items()
        }
        engines, refused = _engines(files, runtime)
        files = {name: path for name, path in files.items() if name not in refused}
        if not files:
            raise ModelError(f"no engine is built of any of the study's graphs: {next(iter(refused.values()))}")
        series = time_graphs(files, runtime, settings, report)
    measured = {}
    for name, one in series.items():
        stats = figure(one, settings)
        measured[name] = Measured(ms=stats.ms, low_ms=stats.low_ms, high_ms=stats.high_ms, doubts=one.doubts)
    device = next(iter(series.values())).options.get("cpu") or runtime.name
    for engine in engines.values():
        device = engine.plan.machine.gpu if engine.plan is not None else device
    return study(
        placement,
        {name: policies[name] for name in files},
        measured,
        realised={name: executed_bits(engine) for name, engine in engines.items()},
        device=str(device),
        threads=settings.threads,
        batch=settings.batch,
        refused=refused,
    )


def _engines(files: Mapping[str, Path], runtime: Runtime) -> tuple[dict[str, Engine], dict[str, str]]:
    """Records of the engines, and why one is not built, by name; neither where the runtime builds none."""
    engines, refused = {}, {}
    for name, path in files.items() if isinstance(runtime, BuildsEngines) else ():
        try:
            engines[name] = runtime.engine(path)
        except ModelError as error:
            refused[name] = str(error)
    return engines, refused
