"""Measured times of a model's parts at several precisions: what a latency budget of the search reads."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime:
    """Time of one layer, or of one fusion group of layers, run at one precision, for one image in ms."""

    layers: tuple[str, ...]
    weight_bits: int
    act_bits: int
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Times of all parts of a model on one device. ``other_ms``: what no layer accounts for. ``environment``: device,
    driver, clocks and versions, as the measurement wrote them.

    Raises ValueError where a time is negative or not finite, a part is measured twice at one precision, or a layer
    stands in two different parts.
    """

    model: str
    device: str
    times: tuple[PartTime, ...]
    other_ms: float = 0.0
    environment: Any = None
    format: Literal["limpq.latency-table/1"] = field(default="limpq.latency-table/1")

    def __post_init__(self) -> None:
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
