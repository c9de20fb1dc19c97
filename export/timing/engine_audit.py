"""What an engine really does with each layer: planned against actual precision, kernels, reformats and their time.

The questions that users of TensorRT ask again and again: which layers really run in INT8, why INT8 is slower than FP16,
what the reformat layers cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx

from limpq_deploy.export.records.engine_record import EngineLayer
from limpq_deploy.export.runtimes.base import INTEGER, Engine
from limpq_deploy.export.runtimes.tensorrt.inspect import computing_layers, planned_precision
from limpq_deploy.export.runtimes.tensorrt.precision import UNKNOWN

Samples = Mapping[str, Sequence[float]]
"""Milliseconds of an engine's layers in several profiled runs, by the engine's own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """Median and quartiles over profiled runs, in ms."""

    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """Layers of the file that one layer of the engine computes.

    ``planned``: what the file asks for, ``actual``: what the engine runs, of the first of them. ``kernel``: None where
    the engine does not name it. ``time``: in this engine, ``float_time``: of the same layers in the float engine; None
    where it was not profiled.
    """

    layers: tuple[str, ...]
    planned: str
    actual: str
    kernel: str | None = None
    time: LayerTime | None = None
    float_time: LayerTime | None = None

    @property
    def as_planned(self) -> bool:
        return self.planned == self.actual

    @property
    def precision_known(self) -> bool:
        return self.actual != UNKNOWN

    @property
    def slower(self) -> bool:
        """An integer layer that is slower than in float, beyond the quartiles of both."""
        if self.actual not in INTEGER or self.time is None or self.float_time is None:
            return False
        return self.time.low_ms > self.float_time.high_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """An engine, layer by layer. ``absent``: layers of the file of which the engine shows nothing. ``reformats``: their
    number; times in ms of one profiled run: ``reformat_ms``, ``other_ms`` (what is neither layer nor reformat) and
    ``total_ms``, None where nothing was profiled. ``notes``: what follows, in sentences."""

    engine_sha256: str
    lines: tuple[AuditLine, ...]
    absent: tuple[str, ...]
    reformats: int
    reformat_ms: float | None = None
    other_ms: float | None = None
    total_ms: float | None = None
    float_total_ms: float | None = None
    notes: tuple[str, ...] = ()
    format: Literal["limpq.audit/1"] = field(default="limpq.audit/1")

    @property
    def slower(self) -> tuple[str, ...]:
        """Integer layers that are slower than in float."""
        return tuple(name for line in self.lines if line.slower for name in line.layers)

    @property
    def unplanned(self) -> tuple[str, ...]:
        """Layers that run in another precision than planned."""
        return tuple(
            name for line in self.lines if line.precision_known and not line.as_planned for name in line.layers
        )

    @property
    def precision_unknown(self) -> tuple[str, ...]:
        """Layers whose precision the engine does not report."""
        return tuple(name for line in self.lines if not line.precision_known for name in line.layers)


def audit(
    model: onnx.ModelProto,
    engine: Engine,
    samples: Samples | None = None,
    *,
    float_model: onnx.ModelProto | None = None,
    float_engine: Engine | None = None,
    float_samples: Samples | None = None,
) -> Audit:
    """Set an engine against its file, and against the float engine of the same model where that was profiled too.

    ``float_model``: the float engine's own file, whose operators have names of their own.
    """
    assert engine.plan is not None, "an engine without a plan has nothing to audit"
    assert float_engine is None or float_model is not None, "layers of the float engine are known by its own file"
    planned = planned_precision(model)
    groups = layer_groups(model, engine.plan.layers)
    floats = _timed_groups(float_model, float_engine, float_samples)
    lines = tuple(
        AuditLine(
            layers=layers,
            planned=_allowed(engine, planned[layers[0]], engine.layer_precision[layers[0]]),
            actual=engine.layer_precision[layers[0]],
            kernel=layer.tactic,
            time=_time([samples[layer.name]]) if samples and layer.name in samples else None,
            float_time=_time_of(layers, floats),
        )
        for layer, layers in groups
    )
    found = {name for line in lines for name in line.layers}
    reformat_ms, other_ms, total_ms = _totals(engine.plan.layers, {layer.name for layer, _ in groups}, samples)
    result = Audit(
        engine_sha256=engine.plan.sha256,
        lines=lines,
        absent=tuple(name for name in planned if name not in found),
        reformats=len(engine.plan.reformats),
        reformat_ms=reformat_ms,
        other_ms=other_ms,
        total_ms=total_ms,
        float_total_ms=_total(float_samples),
    )
    return replace(result, notes=tuple(audit_notes(result)))


def _allowed(engine: Engine, planned: str, actual: str) -> str:
    """What the file asks for; under weak typing with the flag FP16 a float layer may be either."""
    assert engine.plan is not None
    free = engine.plan.typing == "weak" and "FP16" in engine.plan.flags
    return actual if free and planned == "float32" and actual == "float16" else planned


def layer_groups(model: onnx.ModelProto, layers: Sequence[EngineLayer]) -> list[tuple[EngineLayer, tuple[str, ...]]]:
    """Engine layers that compute, in their order, each with the layers of the file that it was made of."""
    groups: dict[int, list[str]] = {}
    for name, place in computing_layers(model, layers).items():
        groups.setdefault(place, []).append(name)
    return [(layers[place], tuple(groups[place])) for place in sorted(groups)]


Timed = list[tuple[frozenset[str], Sequence[float]]]
"""Layers of the file that one layer of an engine computes, and its times in ms."""


def _timed_groups(model: onnx.ModelProto | None, engine: Engine | None, samples: Samples | None) -> Timed:
    if model is None or engine is None or engine.plan is None or samples is None:
        return []
    groups = layer_groups(model, engine.plan.layers)
    return [(frozenset(names), samples[layer.name]) for layer, names in groups if layer.name in samples]


def _time_of(layers: Sequence[str], groups: Timed) -> LayerTime | None:
    """Time of exactly these layers; None where some are not timed, or only together with others."""
    own = [(names, samples) for names, samples in groups if not names.isdisjoint(layers)]
    if frozenset().union(*(names for names, _ in own)) != frozenset(layers):
        return None
    return _time([samples for _, samples in own])


def _time(parts: Sequence[Sequence[float]]) -> LayerTime | None:
    """Of the runs' sums over the parts."""
    if not parts:
        return None
    runs = np.sum([np.asarray(part[: min(map(len, parts))], np.float64) for part in parts], axis=0)
    low, middle, high = np.percentile(runs, (25, 50, 75))
    return LayerTime(ms=float(middle), low_ms=float(low), high_ms=float(high))


def _totals(
    layers: Sequence[EngineLayer], computing: set[str], samples: Samples | None
) -> tuple[float | None, float | None, float | None]:
    """Milliseconds of reformats, of what is neither reformat nor layer, and of all."""
    if not samples:
        return None, None, None
    reformats = {layer.name for layer in layers if layer.reformat}
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    return (
        sum(ms for name, ms in medians.items() if name in reformats),
        sum(ms for name, ms in medians.items() if name not in reformats and name not in computing),
        sum(medians.values()),
    )


def _total(samples: Samples | None) -> float | None:
    return sum(float(np.median(values)) for values in samples.values()) if samples else None


def audit_notes(found: Audit) -> list[str]:
    """What follows from an audit, in sentences."""
    notes = []
    if found.unplanned:
        pairs = [
            f"{line.layers[0]} ({line.planned} planned, {line.actual})"
            for line in found.lines
            if line.precision_known and not line.as_planned
        ]
        notes.append(f"{len(found.unplanned)} layers run in another precision than planned: {_some(pairs)}.")
    if unknown := found.precision_unknown:
        notes.append(f"The engine does not report the precision of {len(unknown)} layers: {_some(unknown)}.")
    if found.absent:
        notes.append(f"The engine shows nothing of {len(found.absent)} layers: {_some(found.absent)}.")
    if found.slower:
        notes.append(f"{len(found.slower)} integer layers are slower than in float: {_some(found.slower)}.")
    if found.reformats and found.total_ms:
        share = (found.reformat_ms or 0.0) / found.total_ms
        layers = "1 reformat layer takes" if found.reformats == 1 else f"{found.reformats} reformat layers take"
        notes.append(f"{layers} {100 * share:.1f} % of the profiled time.")
    if found.total_ms is not None and found.float_total_ms is not None and found.total_ms >= found.float_total_ms:
        notes.append(
            f"By its layers' times this engine is no faster than the float one ({found.total_ms:.3f} against "
            f"{found.float_total_ms:.3f} ms): quantization is not worth it here."
        )
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
