"""Time of every node that ONNX Runtime executes, from its own profiler."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.runtime_taps import layer_nodes
from limpq_deploy.export.runtimes.base import Runtime
from limpq_deploy.export.runtimes.onnxruntime.package import compute_on
from limpq_deploy.export.runtimes.onnxruntime.written import no_room, read_events, read_graph

KERNEL = "_kernel_time"
"""What ends the name of a node's event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """Milliseconds of one node of the optimised graph, medians over ``calls`` calls; ``low`` and ``high``: quartiles.

    A profiler costs time itself: these are shares of a call, not figures of their own.
    """

    name: str
    op: str
    ms: float
    low_ms: float
    high_ms: float
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProfile:
    """The graph that ONNX Runtime executes, and its nodes' times by name, in its order."""

    graph: onnx.ModelProto
    nodes: Mapping[str, NodeTime]


def profile_nodes(
    runtime: Runtime, path: Path, *, threads: int | None = None, batch: int = 1, calls: int = 30
) -> NodeProfile:
    """Run a file with the profiler on. Raises ModelError where the profile names none of the graph's nodes, OutputError
    where there is no room for it."""
    import onnxruntime as ort

    options = runtime.engine(path, threads=threads).options
    with tempfile.TemporaryDirectory() as folder:
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.log_severity_level = 3
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        settings.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        compute_on(settings, threads)
        for name, value in options.items():
            settings.add_session_config_entry(name, value)
        try:
            session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime opened the same file before; this time the graph is written
            raise no_room(Path(settings.optimized_model_filepath), "the graph") from error
        entry = session.get_inputs()[0]
        shape = (batch, *(size if isinstance(size, int) else 1 for size in entry.shape[1:]))
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        for _ in range(calls + 3):
            session.run(None, {entry.name: images})
        events = read_events(Path(session.end_profiling()))
        graph = read_graph(Path(folder) / "optimized.onnx")
    return NodeProfile(graph=graph, nodes=_node_times(events, graph, calls))


def _node_times(events: list[dict[str, Any]], graph: onnx.ModelProto, calls: int) -> dict[str, NodeTime]:
    """The last ``calls`` events of each node; the ones before are warm-up."""
    durations: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            durations.setdefault(event["name"].removesuffix(KERNEL), []).append(event["dur"] / 1000)
    found = {}
    for node in graph.graph.node:
        taken = durations.get(node.name, [])[-calls:]
        if taken:
            low, middle, high = np.percentile(taken, (25, 50, 75))
            found[node.name] = NodeTime(
                name=node.name,
                op=node.op_type,
                ms=float(middle),
                low_ms=float(low),
                high_ms=float(high),
                calls=len(taken),
            )
    if not found:
        raise ModelError("ONNX Runtime's profile names no node of the graph that it executes; profile another file")
    return found


def layer_times(
    runtime: Runtime, path: Path, *, threads: int | None = None, batch: int = 1, calls: int = 30
) -> dict[str, NodeTime]:
    """Time of every layer of a file with all that belongs to it, by layer name.

    A node that is no layer (a sum, a pool, a Clip, a conversion) belongs to the layer before it; to the last one, where
    it reads several. Nodes before the first layer belong to none and are left out.
    """
    return sum_by_layer(load_model(path), profile_nodes(runtime, path, threads=threads, batch=batch, calls=calls))


def sum_by_layer(model: onnx.ModelProto, profile: NodeProfile) -> dict[str, NodeTime]:
    """A profile's nodes, summed by the layer of the file that they belong to; see `layer_times`."""
    executed = layer_nodes(model, profile.graph)
    layer_of = {node.name: layer for layer, node in executed.items() if node is not None}
    order = {layer: place for place, layer in enumerate(executed)}
    owner: dict[str, str] = {}
    parts: dict[str, list[NodeTime]] = {}
    for node in profile.graph.graph.node:
        before = [owner[name] for name in node.input if name in owner]
        mine = layer_of.get(node.name) or max(before, key=order.__getitem__, default=None)
        if mine is not None:
            owner.update(dict.fromkeys(node.output, mine))
            if node.name in profile.nodes:
                parts.setdefault(mine, []).append(profile.nodes[node.name])
    return {
        layer: NodeTime(
            name=layer,
            op="+".join(dict.fromkeys(one.op for one in times)),
            ms=sum(one.ms for one in times),
            low_ms=sum(one.low_ms for one in times),
            high_ms=sum(one.high_ms for one in times),
            calls=min(one.calls for one in times),
        )
        for layer, times in parts.items()
    }
