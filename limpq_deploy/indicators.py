"""Indicators: learned scales read as the importance of every layer at every bit-width. No torch here."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A rival importance measure of one layer: one number per bit-width, for its weight and for its input."""

    weight: tuple[float, ...]
    act: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerIndicators:
    """One searched layer.

    ``macs`` for one image; ``num_weights`` without bias; ``weight`` and ``act``: the learned scale for each entry of
    ``Indicators.bits``. ``act_group``: layers with one group read one tensor, take one activation bit-width, and their
    (equal) ``act`` counts once. ``weight_init`` and ``act_init``: the scales before training, so that what was learned
    can be told from what was there.
    """

    name: str
    macs: int
    num_weights: int
    weight: tuple[float, ...]
    act: tuple[float, ...]
    act_group: str | None = None
    weight_init: tuple[float, ...] | None = None
    act_init: tuple[float, ...] | None = None
    measures: dict[str, Measure] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedLayer:
    """A layer whose bit-widths are given, not searched. ``macs`` for one image."""

    name: str
    macs: int
    num_weights: int
    weight_bits: int
    act_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Indicators:
    """Importance indicators of a model. ``bits`` ascending; ``source`` says how they were made.

    Raises ValueError when a layer has another number of entries than there are bit-widths, when a number is negative or
    not finite, when names repeat, or when layers of one ``act_group`` have different ``act``.
    """

    model: str
    bits: tuple[int, ...]
    layers: tuple[LayerIndicators, ...]
    pinned: tuple[PinnedLayer, ...] = ()
    source: Any = None
    format: Literal["limpq.indicators/1"] = field(default="limpq.indicators/1")

    def __post_init__(self) -> None:
        if not self.bits or list(self.bits) != sorted(set(self.bits)):
            raise ValueError(f"bits must ascend without repeats, found {list(self.bits)}")
        seen: set[str] = set()
        for name in [layer.name for layer in self.layers] + [layer.name for layer in self.pinned]:
            if name in seen:
                raise ValueError(f"layer {name!r} is listed twice")
            seen.add(name)
        groups: dict[str, tuple[float, ...]] = {}
        for layer in self.layers:
            self._check(layer)
            if layer.act_group is not None and groups.setdefault(layer.act_group, layer.act) != layer.act:
                raise ValueError(f"layers of act_group {layer.act_group!r} have different act indicators")

    def _check(self, layer: LayerIndicators) -> None:
        if layer.macs < 0 or layer.num_weights < 0:
            raise ValueError(f"layer {layer.name!r} has negative macs or num_weights")
        for kind, values in (("weight", layer.weight), ("act", layer.act)):
            if len(values) != len(self.bits):
                raise ValueError(
                    f"layer {layer.name!r} has {len(values)} {kind} indicators; expected one for each of the bits "
                    f"{list(self.bits)}"
                )
            for bits, value in zip(self.bits, values, strict=True):
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(f"layer {layer.name!r} has a {kind} indicator of {value} at {bits} bits")
