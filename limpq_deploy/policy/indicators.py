"""Indicators: learned scales read as the importance of every layer at every bit-width. No torch here."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from limpq_deploy.calibration.shown import Saved
from limpq_deploy.export.records.placement import BitPair


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
    can be told from what was there. ``act_elements``: elements of the tensor it reads, for one image. ``pairs``: the
    only (weight_bits, act_bits) that it may take; None: all. ``tie``: layers of one tie share both bit-widths.
    ``kind``: what it computes; None where it was not recorded. ``block``: as in `LayerPlacement`.
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
    act_elements: int | None = None
    pairs: tuple[BitPair, ...] | None = None
    tie: str | None = None
    kind: Literal["conv", "linear"] | None = None
    block: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedLayer:
    """A layer whose bit-widths are given, not searched. ``macs`` for one image."""

    name: str
    macs: int
    num_weights: int
    weight_bits: int
    act_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEdge:
    """A tensor that one layer hands to another, pinned ones included; ``elements`` of it, for one image.

    What stands between them (BatchNorm, ReLU, pools, moves) belongs to the ``producer``; a sum belongs to that of its
    layers which runs last, and is an edge from the other.
    """

    producer: str
    consumer: str
    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActMoment:
    """The activations in memory while one step of the model runs, for one image.

    ``fixed_bits``: bits of the tensors whose width no policy changes. ``tensors``: elements by the searched layer whose
    activation bits are the tensor's width (of an act_group, its first layer).
    """

    name: str
    fixed_bits: int
    tensors: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """By what a build found its policy on these indicators, which is the default of every search on them.

    ``importance``: the measure, with ``alpha`` and ``outliers``, of the program whose policy the build took, or, where
    uniform bits won, of the best program's beside them. ``uniform``: those bits, (weight, activation); they hold for
    the build's own budgets: ``limits`` by what they count, and ``space``, a digest of what layers could choose from.
    """

    importance: str
    alpha: float
    outliers: Literal["forbid", "repair", "keep"]
    uniform: BitPair | None = None
    limits: dict[str, int] | None = None
    space: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Indicators(Saved):
    """Importance indicators of a model. ``bits`` ascending, as `numbers.formats` has widths (9 is FP8); ``source`` says
    how they were made; ``moments``: what is in memory at every step; ``edges``: which layer's tensor each layer reads;
    None where these were not recorded. ``found``: what a build's tournament found best; None before it.

    Raises ValueError when a layer has another number of entries than there are bit-widths, when a number is negative or
    not finite, when names repeat, when layers of one ``act_group`` have different ``act`` or ``act_elements``, when
    ``pairs`` holds no candidates, when a moment or an edge names an unknown layer, or when an edge is listed twice.
    """

    model: str
    bits: tuple[int, ...]
    layers: tuple[LayerIndicators, ...]
    pinned: tuple[PinnedLayer, ...] = ()
    source: Any = None
    moments: tuple[ActMoment, ...] | None = None
    edges: tuple[LayerEdge, ...] | None = None
    found: Found | None = None
    format: Literal["limpq.indicators/1"] = field(default="limpq.indicators/1")

    def __post_init__(self) -> None:
        if not self.bits or list(self.bits) != sorted(set(self.bits)):
            raise ValueError(f"bits must ascend without repeats, found {list(self.bits)}")
        seen: set[str] = set()
        for name in [layer.name for layer in self.layers] + [layer.name for layer in self.pinned]:
            if name in seen:
                raise ValueError(f"layer {name!r} is listed twice")
            seen.add(name)
        groups: dict[str, LayerIndicators] = {}
        for layer in self.layers:
            self._check(layer)
            if layer.act_group is not None:
                first = groups.setdefault(layer.act_group, layer)
                if first.act != layer.act:
                    raise ValueError(f"layers of act_group {layer.act_group!r} have different act indicators")
                if first.act_elements != layer.act_elements:
                    raise ValueError(f"layers of act_group {layer.act_group!r} have different act_elements")
        searched = {layer.name for layer in self.layers}
        for moment in self.moments or ():
            if min(moment.fixed_bits, *moment.tensors.values(), 0) < 0:
                raise ValueError(f"moment {moment.name!r} has a negative size")
            for name in moment.tensors:
                if name not in searched:
                    raise ValueError(f"moment {moment.name!r} names {name!r}, which is no searched layer")

        self._check_edges(seen)

    def rows(self) -> list[dict[str, Any]]:
        """One for each searched layer: its MACs for one image, weights, and the learned scale at every width."""
        return [
            {
                "layer": layer.name,
                "macs": layer.macs,
                "num_weights": layer.num_weights,
                **{f"weight@{bits}": value for bits, value in zip(self.bits, layer.weight, strict=True)},
                **{f"act@{bits}": value for bits, value in zip(self.bits, layer.act, strict=True)},
            }
            for layer in self.layers
        ]

    def _title(self) -> str:
        return f"Indicators of {self.model}: {len(self.layers)} layers, bits {', '.join(map(str, self.bits))}"

    def _check_edges(self, names: set[str]) -> None:
        seen = set()
        for edge in self.edges or ():
            ends = (edge.producer, edge.consumer)
            for name in ends:
                if name not in names:
                    raise ValueError(f"the edge {' -> '.join(ends)} names {name!r}, which is no layer of the model")
            if ends in seen or edge.producer == edge.consumer or edge.elements < 0:
                raise ValueError(
                    f"the edge {' -> '.join(ends)} with {edge.elements} elements makes no sense; expected two layers, "
                    "once, and 0 elements or more"
                )
            seen.add(ends)

    def _check(self, layer: LayerIndicators) -> None:
        if layer.macs < 0 or layer.num_weights < 0:
            raise ValueError(f"layer {layer.name!r} has negative macs or num_weights")
        if layer.act_elements is not None and layer.act_elements < 0:
            raise ValueError(f"layer {layer.name!r} has negative act_elements")
        if layer.pairs is not None and not layer.pairs:
            raise ValueError(f"layer {layer.name!r} has no pairs; leave the field away to admit all")
        for pair in layer.pairs or ():
            if pair[0] not in self.bits or pair[1] not in self.bits:
                raise ValueError(f"layer {layer.name!r} admits w{pair[0]}a{pair[1]}; the bits are {list(self.bits)}")
        rivals = [
            (f"{name} {kind}", values)
            for name, measure in (layer.measures or {}).items()
            for kind, values in (("weight", measure.weight), ("act", measure.act))
        ]
        first = (("first weight", layer.weight_init), ("first act", layer.act_init))
        rivals += [(kind, values) for kind, values in first if values is not None]
        for kind, values in (("weight", layer.weight), ("act", layer.act), *rivals):
            if len(values) != len(self.bits):
                raise ValueError(
                    f"layer {layer.name!r} has {len(values)} {kind} indicators; expected one for each of the bits "
                    f"{list(self.bits)}"
                )
            for bits, value in zip(self.bits, values, strict=True):
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(f"layer {layer.name!r} has a {kind} indicator of {value} at {bits} bits")


def weights_only(indicators: Indicators, act_bits: int) -> Indicators:
    """Indicators whose layers choose weight bits alone: all read activations of ``act_bits`` (one of the bits)."""
    pairs = tuple((bits, act_bits) for bits in indicators.bits)
    return replace(indicators, layers=tuple(replace(layer, pairs=pairs) for layer in indicators.layers))
