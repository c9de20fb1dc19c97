"""Profiles: what a model's parts take on a device, at each precision that the device has.

Graphs (`timing_graph`) of the uniform policies are timed node by node, where the runtime has a profiler: a first guess.
Then they and some mixed policies are timed whole, interleaved, and the figures fitted to both (`model`). Each
mixed graph is also predicted by a table that did not know it: the error that a search has to expect.
"""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import runtime_record
from limpq_deploy.export.runtimes.base import BuildsEngines, DeviceTimed, Runtime
from limpq_deploy.export.runtimes.onnxruntime.profile import NodeTime, layer_times
from limpq_deploy.export.timing.engine_profile import engine_layer_times
from limpq_deploy.export.timing.measure import CPU_TIME, Progress, measure_models
from limpq_deploy.export.timing.model import (
    CONVERSION_GUESS,
    GUESS_DOUBT,
    Guess,
    Key,
    Skeleton,
    fit,
    left_out,
    to_table,
)
from limpq_deploy.export.timing.report import LatencySeries, Threads
from limpq_deploy.export.timing.table import LatencyTable, Observation, PartTime
from limpq_deploy.export.timing.timing_graph import timing_graph
from limpq_deploy.export.timing.timing_statistics import percentile_interval

MIXED = "mixed "
"""What the names of graphs that mix precisions begin with."""

NARROW = (7, 7)
"""Stands for all grids below 8 bits: they run as 8 bits with a Clip on the codes."""

HALF_BITS = 16
"""Bits of layers in FP16, which no engine has where floats may only be FP32; such layers then take what FP32 takes."""

QUICK_SHARE = 0.1
"""Of the calls, by CPU time: those that other processes hindered least."""

BLIND_DOUBT = 0.5
"""Relative standard deviation of a part's time where no profiler gave it: its share of the MACs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a graph takes, in ms, with its 95 % interval."""

    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSettings:
    """``seconds`` of recorded calls for each graph; ``mixed`` graphs beside the uniform ones; ``calls`` of the
    profiler; ``cpu_time``: figures are the calls' CPU time instead of the clock's, which a busy machine disturbs less
    (with one thread only)."""

    threads: Threads = "default"
    batch: int = 1
    seconds: float = 1.0
    mixed: int = 8
    calls: int = 30
    seed: int = 0
    cpu_time: bool = False

    def __post_init__(self) -> None:
        if self.cpu_time and self.threads != 1:
            raise ValueError("CPU time is that of one thread; profile with threads=1")


def profile(
    template: onnx.ModelProto,
    placement: Placement,
    edges: Sequence[tuple[str, str, int]],
    runtime: Runtime,
    settings: ProfileSettings,
    *,
    pairs: Sequence[BitPair] | None = None,
    report: Progress | None = None,
) -> LatencyTable:
    """Time a model's parts. ``edges``: (producer, consumer, elements) of every tensor that one layer hands to another.
    ``pairs``: precisions to time; None: `NARROW` and the target's native ones, without those of 16 bits where the
    runtime's floats are FP32 only.

    A mixed graph of which no engine is built is left out, and stands in the table with the reason. Raises what building
    the uniform ones and running the graphs raises.
    """
    timed = tuple(sorted(pairs or _pairs(placement, runtime), key=lambda pair: (pair[0] * pair[1], pair)))
    bones = skeleton_of(placement, edges, timed)
    policies = {uniform(pair): dict.fromkeys(bones.searched, pair) for pair in timed}
    wide = [pair for pair in timed if pair != NARROW]
    if len(wide) > 1:
        policies |= mixed_policies(placement, wide, settings.mixed, seed=settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        files = write_timing_graphs(template, placement, policies, Path(folder))
        refused = _refused({name: path for name, path in files.items() if name.startswith(MIXED)}, runtime)
        policies = {name: policy for name, policy in policies.items() if name not in refused}
        files = {name: files[name] for name in policies}
        series = time_graphs(files, runtime, settings, report)
        profiled = _by_node(runtime) or _profiled(runtime, files[uniform(timed[0])])
        nodes = {
            pair: _nodes(runtime, files[uniform(pair)], settings, placement, series[uniform(pair)]) for pair in timed
        }
    guesses = _guesses(bones, nodes, blind=not profiled)
    rows = [bones.row(policy) for policy in policies.values()]
    stats = [figure(series[name], settings) for name in policies]
    measured = [one.ms for one in stats]
    figures = fit(guesses, rows, measured)
    observations = tuple(
        Observation(
            name=name,
            pairs=policy,
            measured_ms=found.ms,
            low_ms=found.low_ms,
            high_ms=found.high_ms,
            predicted_ms=None if name.startswith("uniform") else left_out(guesses, rows, measured, number),
            doubts=series[name].doubts,
        )
        for number, ((name, policy), found) in enumerate(zip(policies.items(), stats, strict=True))
    )
    environment = read_environment()
    base = LatencyTable(
        model=placement.model,
        device=environment.device,
        times=tuple(
            PartTime(
                layers=(layer,),
                weight_bits=pair[0],
                act_bits=pair[1],
                ms=time.ms,
                low_ms=time.low_ms,
                high_ms=time.high_ms,
            )
            for pair, times in nodes.items()
            for layer, time in times.items()
            if pair == bones.pinned.get(layer, pair)
        ),
        environment=environment,
        threads=settings.threads,
        batch=settings.batch,
        refused=refused,
    )
    return to_table(bones, figures, observations, base)


def uniform(pair: BitPair) -> str:
    """Name of the graph in which all searched layers have one pair."""
    return f"uniform w{pair[0]}a{pair[1]}"


def _refused(files: Mapping[str, Path], runtime: Runtime) -> dict[str, str]:
    """Why no engine of a file is built, by its name; nothing where a runtime builds none."""
    found = {}
    for name, path in files.items() if isinstance(runtime, BuildsEngines) else ():
        try:
            runtime.engine(path)
        except ModelError as error:
            found[name] = str(error)
    return found


def _pairs(placement: Placement, runtime: Runtime) -> tuple[BitPair, ...]:
    native = placement.spec.native_pairs
    if isinstance(runtime, BuildsEngines) and runtime.options.float_type == "float32":
        native = tuple(pair for pair in native if max(pair) != HALF_BITS)
    return (NARROW, *native)


def skeleton_of(placement: Placement, edges: Sequence[tuple[str, str, int]], measured: Sequence[BitPair]) -> Skeleton:
    """What the sum of a placed model is made of; pinned layers run at the target's pair for their bits."""
    return Skeleton(
        searched=tuple(layer.name for layer in placement.searched),
        pinned={
            layer.name: placement.spec.realised_pair(layer.pinned_bits or 8, layer.pinned_bits or 8)
            for layer in placement.pinned
        },
        measured=tuple(measured),
        edges=tuple(edges),
    )


def mixed_policies(
    placement: Placement, pairs: Sequence[BitPair], count: int, *, seed: int
) -> dict[str, dict[str, BitPair]]:
    """Policies that mix precisions in runs of different lengths, by name; layers that read one tensor have one pair."""
    generator = random.Random(seed)
    found: dict[str, dict[str, BitPair]] = {}
    for number in range(count):
        length = 1 + number % 4
        current = pairs[number % len(pairs)]
        policy: dict[str, BitPair] = {}
        by_group: dict[str, BitPair] = {}
        for layer in placement.searched:
            if generator.random() < 1 / length:
                current = generator.choice([pair for pair in pairs if pair != current])
            group = placement.act_group(layer)
            policy[layer.name] = current if group is None else by_group.setdefault(group, current)
        found[f"{MIXED}{number + 1}"] = policy
    return found


def write_timing_graphs(
    template: onnx.ModelProto, placement: Placement, policies: Mapping[str, Mapping[str, BitPair]], folder: Path
) -> dict[str, Path]:
    """A graph to time for each policy, by its name."""
    files = {}
    for number, (name, policy) in enumerate(policies.items()):
        files[name] = folder / f"{number}.onnx"
        onnx.save(timing_graph(template, placement, policy, name=name), files[name])
    return files


def time_graphs(
    files: Mapping[str, Path], runtime: Runtime, settings: ProfileSettings, report: Progress | None = None
) -> dict[str, LatencySeries]:
    """Time graphs interleaved; their series by name."""
    found = measure_models(
        files,
        settings=(settings.threads,),
        seconds=settings.seconds,
        runtime=runtime,
        batches=(settings.batch,),
        trtexec=False,  # nobody deploys these graphs
        report=report,
    )
    return {one.name: one for one in found.series}


def figure(series: LatencySeries, settings: ProfileSettings) -> Figure:
    """The figure of which a profile is made: p50 of the clock's time, or the lower decile of CPU time."""
    if not settings.cpu_time:
        stats = series.stats
        return Figure(ms=stats.p50_ms, low_ms=stats.p50_low_ms, high_ms=stats.p50_high_ms)
    samples = np.asarray(series.parts_ms[CPU_TIME], np.float64)
    low, high = percentile_interval(samples, series.turns, seed=0, share=QUICK_SHARE)
    return Figure(ms=float(np.quantile(samples, QUICK_SHARE)), low_ms=low, high_ms=high)


def errors(table: LatencyTable) -> tuple[float, ...]:
    """Relative errors of graphs that were predicted before they were known."""
    return tuple(one.error for one in table.observations if one.error is not None)


def _nodes(
    runtime: Runtime, file: Path, settings: ProfileSettings, placement: Placement, series: LatencySeries
) -> dict[str, NodeTime]:
    """Times of layers in a uniform graph, so scaled that they add up to the graph's own time."""
    whole = figure(series, settings).ms
    if _by_node(runtime):
        count = None if settings.threads == "default" else settings.threads
        found = layer_times(runtime, file, threads=count, batch=settings.batch, calls=settings.calls)
    elif _profiled(runtime, file):
        found = engine_layer_times(runtime, file, batch=settings.batch, calls=settings.calls)
    else:
        found = {
            layer.name: NodeTime(name=layer.name, op="", ms=float(layer.macs), low_ms=0.0, high_ms=0.0, calls=0)
            for layer in placement.layers
        }
    total = sum(time.ms for time in found.values())
    return {
        name: replace(
            time, ms=time.ms * whole / total, low_ms=time.low_ms * whole / total, high_ms=time.high_ms * whole / total
        )
        for name, time in found.items()
    }


def _by_node(runtime: Runtime) -> bool:
    """Whether the nodes of its graph are profiled, as on a CPU."""
    return runtime_record(runtime.name).device == "cpu"


def _profiled(runtime: Runtime, file: Path) -> bool:
    """Whether a device profiles the layers of a runtime's engines."""
    return not _by_node(runtime) and isinstance(runtime.load(file), DeviceTimed)


def _guesses(bones: Skeleton, nodes: Mapping[BitPair, Mapping[str, NodeTime]], *, blind: bool) -> dict[Key, Guess]:
    doubt = BLIND_DOUBT if blind else GUESS_DOUBT
    found: dict[Key, Guess] = {}
    for key in bones.figures():
        if key[0] == "part":
            layer, pair = str(key[1]), key[2]
            time = nodes[pair].get(layer)  # type: ignore[index]
            ms = 0.0 if time is None else time.ms
            found[key] = Guess(ms, doubt * ms + 1e-4)
        elif key == ("other",):
            found[key] = Guess(0.0, 0.02 * sum(time.ms for time in next(iter(nodes.values())).values()))
        else:
            found[key] = Guess(*CONVERSION_GUESS[str(key[0])])
    return found
