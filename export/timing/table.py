"""Measured times of a model's parts at several precisions: what a latency budget of the search reads."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.records.placement import BitPair


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime:
    """Time of one layer, or of one fusion group of layers, run at one precision, for one image in ms. ``low_ms`` and
    ``high_ms``: quartiles of what its nodes took in repeated calls, where they were timed one by one."""

    layers: tuple[str, ...]
    weight_bits: int
    act_bits: int
    ms: float
    low_ms: float | None = None
    high_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Time of handing a tensor from a layer that runs at one precision to a layer that runs at another, for one image:
    ``ms + ns_per_element * elements / 10^6`` ms.

    ``before`` and ``after``: measured (weight_bits, act_bits) of the two. ``producer`` and ``consumer``: the one edge
    that was measured; both None: every edge that has no entry of its own for these precisions.
    """

    before: tuple[int, int]
    after: tuple[int, int]
    ms: float = 0.0
    ns_per_element: float = 0.0
    producer: str | None = None
    consumer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One whole graph that was timed: p50 of a call in ms with its 95 % interval.

    ``pairs``: (weight_bits, act_bits) of the searched layers. ``predicted_ms``: by a table that did not know this
    graph; None where there was none. ``speed``: what the time was divided by before it went into the table, because the
    machine ran as much slower than when the table was begun.
    """

    name: str
    pairs: dict[str, BitPair]
    measured_ms: float
    low_ms: float
    high_ms: float
    predicted_ms: float | None = None
    speed: float = 1.0
    doubts: tuple[str, ...] = ()

    @property
    def error(self) -> float | None:
        """``predicted_ms / (measured_ms / speed) - 1``."""
        return None if self.predicted_ms is None else self.predicted_ms * self.speed / self.measured_ms - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Times of all parts of a model on one device. ``other_ms``: what no layer accounts for. ``conversions``: between
    neighbours of different precision; what is not listed takes no time. ``environment``: device, driver, clocks and
    versions, as the measurement wrote them. ``threads`` and ``batch``: how it was measured; with a batch, times are
    those of a call. ``observations``: the whole graphs from which, beside the parts' own times, the figures come.
    ``refused``: graphs of which the device builds no engine, each with the reason.

    Raises ValueError where a time is negative or not finite, a part is measured twice at one precision, a layer stands
    in two different parts, or a conversion is listed twice, names one end of an edge only, or leads from or to a
    precision at which nothing is measured.
    """

    model: str
    device: str
    times: tuple[PartTime, ...]
    other_ms: float = 0.0
    conversions: tuple[Conversion, ...] = ()
    environment: Any = None
    threads: int | Literal["default"] | None = None
    batch: int = 1
    observations: tuple[Observation, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    format: Literal["limpq.latency-table/1"] = field(default="limpq.latency-table/1")

    def __post_init__(self) -> None:
        self._check_times()
        self._check_conversions()

    def _check_times(self) -> None:
        part_of: dict[str, tuple[str, ...]] = {}
        seen = set()
        if not (isfinite(self.other_ms) and self.other_ms >= 0):
            raise ValueError(f"other_ms is {self.other_ms}; expected a time of 0 or above")
        for time in self.times:
            part = ", ".join(time.layers)
            pair = f"w{time.weight_bits}a{time.act_bits}"
            if not time.layers or len(set(time.layers)) != len(time.layers):
                raise ValueError(f"a part lists the layers [{part}]; expected one or more different ones")
            if not (isfinite(time.ms) and time.ms >= 0):
                raise ValueError(f"{part} takes {time.ms} ms at {pair}; expected a time of 0 or above")
            if min(time.weight_bits, time.act_bits) < 1:
                raise ValueError(f"{part} is measured at {pair}; expected 1 bit or more")
            if (time.layers, pair) in seen:
                raise ValueError(f"{part} is measured twice at {pair}")
            seen.add((time.layers, pair))
            for layer in time.layers:
                if part_of.setdefault(layer, time.layers) != time.layers:
                    raise ValueError(f"layer {layer!r} stands in two parts: [{part}] and [{', '.join(part_of[layer])}]")

    def _check_conversions(self) -> None:
        measured = {(time.weight_bits, time.act_bits) for time in self.times}
        seen = set()
        for one in self.conversions:
            change = f"the conversion from w{one.before[0]}a{one.before[1]} to w{one.after[0]}a{one.after[1]}"
            edge = (one.producer, one.consumer)
            if None in edge and edge != (None, None):
                raise ValueError(
                    f"{change} names {one.producer or one.consumer!r} alone; expected both ends or neither"
                )
            if not all(isfinite(time) and time >= 0 for time in (one.ms, one.ns_per_element)):
                raise ValueError(
                    f"{change} takes {one.ms} ms and {one.ns_per_element} ns per element; expected 0 or above"
                )
            if one.before == one.after:
                raise ValueError(f"{change} converts nothing; leave it away")
            for pair in (one.before, one.after):
                if pair not in measured:
                    raise ValueError(f"{change}: nothing is measured at w{pair[0]}a{pair[1]}")
            if (*edge, one.before, one.after) in seen:
                raise ValueError(
                    f"{change} is listed twice for {' -> '.join(map(str, edge)) if edge[0] else 'all edges'}"
                )
            seen.add((*edge, one.before, one.after))


def narrowest(measured: Iterable[BitPair], pair: BitPair) -> BitPair | None:
    """The measured precision at which a layer of these bits runs: of those that hold them, that of least product of the
    widths, then of least weight bits. None where none does."""
    holding = [one for one in measured if holds(one, pair)]
    return min(holding, key=lambda one: (one[0] * one[1], one), default=None)


def holds(measured: BitPair, pair: BitPair) -> bool:
    """Whether a layer of these bits can run at a measured precision. Integers never run in FP8, which has a width of
    its own behind theirs."""
    return measured[0] >= pair[0] and measured[1] >= pair[1] and (FP8 not in measured or measured == pair)
