"""What ONNX Runtime's CPU provider does with each layer, and how long it takes beside the float model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.runtimes.base import Runtime
from limpq_deploy.export.runtimes.onnxruntime.profile import NodeTime, profile_nodes, sum_by_layer
from limpq_deploy.export.runtimes.tensorrt.inspect import planned_precision
from limpq_deploy.export.timing.engine_audit import Audit, AuditLine, LayerTime, audit_notes

CONVERSIONS = ("Transpose", "ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear")
"""Operators of an optimised graph that only bring a tensor into another form."""


def audit_cpu(model: Path, float_model: Path, runtime: Runtime, *, threads: int | None = 1, calls: int = 30) -> Audit:
    """Set a Q/DQ file, as ONNX Runtime executes it, against the float file of the same model, layer by layer.

    A layer's time is that of all nodes that belong to it: `profile.layer_times`. Times are those of profiled runs,
    one image, in which every node costs a little more: they hold against each other, and are no latency. Whether the
    whole is faster than float is for `latency` to say, so ``float_total_ms`` stays None.
    """
    file, engine = load_model(model), runtime.engine(model, threads=threads)
    own = profile_nodes(runtime, model, threads=threads, calls=calls)
    plain = profile_nodes(runtime, float_model, threads=threads, calls=calls)
    times = sum_by_layer(file, own)
    floats = sum_by_layer(load_model(float_model), plain)
    planned = {name: "u8s8" if kind in ("s8s8", "u8s8") else kind for name, kind in planned_precision(file).items()}
    conversions = [node for node in own.graph.graph.node if node.op_type in CONVERSIONS]
    result = Audit(
        engine_sha256=sha256_of(model),
        lines=tuple(
            AuditLine(
                layers=(name,),
                planned=planned.get(name, actual),
                actual=actual,
                kernel=times[name].op if name in times else None,
                time=_time(times, name),
                float_time=_time(floats, name),
            )
            for name, actual in engine.layer_precision.items()
            if actual != "absent"
        ),
        absent=tuple(name for name, actual in engine.layer_precision.items() if actual == "absent"),
        reformats=len(conversions),
        reformat_ms=_total(own.nodes, conversions),
        other_ms=sum(node.ms for node in own.nodes.values()) - sum(time.ms for time in times.values()),
        total_ms=sum(node.ms for node in own.nodes.values()),
    )
    return replace(result, notes=tuple(audit_notes(result)))


def _time(times: Mapping[str, NodeTime], name: str) -> LayerTime | None:
    found = times.get(name)
    return None if found is None else LayerTime(ms=found.ms, low_ms=found.low_ms, high_ms=found.high_ms)


def _total(times: Mapping[str, NodeTime], nodes: list[onnx.NodeProto]) -> float:
    return sum(times[node.name].ms for node in nodes if node.name in times)
