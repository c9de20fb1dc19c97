"""Prices of a model's parts as a compiler plans them: what a budget of bytes or kernels reads."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What kernels do for one call: bytes of ``activations`` and of ``weights`` that they read and write; how many
    ``kernels`` there are, and how many of them are ``reformats``, which compute no layer."""

    activations: float = 0.0
    weights: float = 0.0
    kernels: float = 0.0
    reformats: float = 0.0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(**{name: getattr(self, name) + getattr(other, name) for name in QUANTITIES})

    @property
    def bytes(self) -> float:
        """Of activations and weights together."""
        return self.activations + self.weights


QUANTITIES = tuple(one.name for one in fields(Moved))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost:
    """A layer at one precision, in a network wholly at that precision."""

    layer: str
    weight_bits: int
    act_bits: int
    moved: Moved


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourCost:
    """What is moved besides, or less, where two neighbours have these precisions: conversions, and fusions lost."""

    first: str
    second: str
    before: tuple[int, int]
    after: tuple[int, int]
    moved: Moved


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPrice:
    """What is moved besides, or less, where the units of a group have these pairs, in the group's order."""

    pairs: tuple[tuple[int, int], ...]
    moved: Moved


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCost:
    """Units whose precisions count all at once. Pairs that are not listed move nothing besides."""

    units: tuple[str, ...]
    prices: tuple[GroupPrice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An engine that mixes precisions, as built, and as a table predicts that was made without it."""

    name: str
    pairs: dict[str, tuple[int, int]]
    built: Moved
    predicted: Moved

    @property
    def error(self) -> float:
        """``predicted / built - 1``, of all bytes."""
        return self.predicted.bytes / max(self.built.bytes, 1) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """Of one model, for one call of ``batch`` images. ``compiler``: product and version; ``capabilities``: GPUs that
    its engines are for; ``target``: whose files it built; ``network``: `network_digest`; ``model_sha256``: of the float
    model's file. ``units``: by layer, the first of the layers whose precision is decided with its own;
    ``macs``: of each, for one image. ``bounds``: layers at pairs that no policy of these indicators takes, in networks
    wholly at those pairs: for the bounds of `roofline` alone, no budget reads them. ``neighbours`` and ``groups``: what
    is moved besides the parts. ``near``: engines of policies that
    somebody named and of some around them, as ``checks`` beside what a table predicts that was made without all of
    them; this one gives them again as nearly as it can.

    Raises ValueError where a price is no number, a layer is priced twice at one precision, or a name is unknown.
    """

    model: str
    target: str
    compiler: str
    capabilities: tuple[str, ...]
    batch: int
    network: str
    model_sha256: str
    units: dict[str, str]
    macs: dict[str, int]
    parts: tuple[PartCost, ...]
    neighbours: tuple[NeighbourCost, ...] = ()
    groups: tuple[GroupCost, ...] = ()
    checks: tuple[Check, ...] = ()
    bounds: tuple[PartCost, ...] = ()
    near: tuple[Check, ...] = ()
    format: Literal["limpq.cost-table/1"] = field(default="limpq.cost-table/1")

    def __post_init__(self) -> None:
        if self.macs.keys() != self.units.keys():
            raise ValueError("units and macs name different layers; expected all layers in both")
        seen = set()
        for part in (*self.parts, *self.bounds):
            key = part.layer, part.weight_bits, part.act_bits
            if part.layer not in self.units:
                raise ValueError(f"layer {part.layer!r} is priced, and has no unit")
            if key in seen:
                raise ValueError(f"layer {part.layer!r} is priced twice at w{part.weight_bits}a{part.act_bits}")
            if not all(isfinite(value) and value >= 0 for value in (part.moved.bytes, part.moved.kernels)):
                raise ValueError(f"layer {part.layer!r} moves {part.moved.bytes} bytes; expected 0 or more")
            seen.add(key)
        for one in self.neighbours:
            if not {one.first, one.second} <= set(self.units.values()) or one.first == one.second:
                raise ValueError(f"neighbours {one.first!r} and {one.second!r} are no two units of the table")
            if not (isfinite(one.moved.bytes) and isfinite(one.moved.kernels)):
                raise ValueError(f"neighbours {one.first!r} and {one.second!r} move no finite number of bytes")
        for group in self.groups:
            _check_group(group, set(self.units.values()))


def _check_group(group: GroupCost, units: set[str]) -> None:
    named = ", ".join(map(repr, group.units))
    if not group.units or not units.issuperset(group.units) or len(set(group.units)) < len(group.units):
        raise ValueError(f"the group of {named} is none of different units of the table")
    if any(len(one.pairs) != len(group.units) for one in group.prices):
        raise ValueError(f"the group of {named} has a price for another number of units")
    if len({one.pairs for one in group.prices}) < len(group.prices):
        raise ValueError(f"the group of {named} is priced twice at the same pairs")
    if not all(isfinite(one.moved.bytes) and isfinite(one.moved.kernels) for one in group.prices):
        raise ValueError(f"the group of {named} moves no finite number of bytes")


def network_digest(layers: Iterable[tuple[str, int, int]]) -> str:
    """Of a network: (name, multiply-accumulates, weights) of all its layers, in any order."""
    return hashlib.sha256(json.dumps(sorted(layers)).encode()).hexdigest()
