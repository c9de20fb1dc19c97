"""Indicators that grow with the bit-width: outliers of the joint training, and three ways to treat them."""

import itertools
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Literal

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.indicators import Indicators

OutlierMode = Literal["forbid", "repair", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """One entry that was treated, or found and kept: ``learned`` as in the indicators file, ``used`` by the program;
    None where the entry was forbidden."""

    layer: str
    tensor: Literal["weight", "act"]
    bits: int
    learned: float
    used: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierReport:
    """What ``mode`` did to the indicators."""

    mode: OutlierMode
    entries: tuple[Outlier, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Indicators as the program uses them: {layer: one number per bit-width}; None forbids the entry. ``pairs``: the
    only (weight_bits, act_bits) of the layers that may not take all."""

    weight: dict[str, tuple[float | None, ...]]
    act: dict[str, tuple[float | None, ...]]
    outliers: OutlierReport
    pairs: Mapping[str, frozenset[BitPair]] = field(default_factory=dict)


def treat_outliers(indicators: Indicators, mode: OutlierMode) -> Importance:
    """Importance of every entry under one treatment of outliers.

    ``forbid`` (LIMPQ's authors, who price such an entry at 1e8): entry b is forbidden where s[b] < s[b+1], b+1 being
    the next candidate that the layer may take. The widest has no successor, so every layer keeps at least that one.
    ``repair``: the closest non-increasing sequence (least squares) takes the place of s.
    ``keep``: s as it is.
    FP8 is no wider than int8, and never an outlier beside it.
    Entries that a layer may not take are forbidden, and nothing else is said of them.

    Raises SettingError where layers that share bit-widths admit none together.
    """
    entries: list[Outlier] = []
    weight, act = {}, {}
    admitted = admitted_pairs(indicators)
    for layer in indicators.layers:
        pairs = admitted.get(layer.name)
        weights, acts = (indicators.bits, indicators.bits) if pairs is None else map(set, zip(*pairs, strict=True))
        weight[layer.name] = _treat(layer.name, "weight", indicators.bits, weights, layer.weight, mode, entries)
        act[layer.name] = _treat(layer.name, "act", indicators.bits, acts, layer.act, mode, entries)
    report = OutlierReport(mode=mode, entries=tuple(entries))
    return Importance(weight=weight, act=act, outliers=report, pairs=admitted)


def non_increasing(values: tuple[float, ...]) -> tuple[float, ...]:
    """The non-increasing sequence with the least squared distance to ``values``.

    Pool adjacent violators (Ayer et al., 1955): neighbours that ascend are replaced by their mean, until none do.
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while pools and pools[-1][0] < mean:
            last, count = pools.pop()
            mean, size = (mean * size + last * count) / (size + count), size + count
        pools.append((mean, size))
    return tuple(mean for mean, size in pools for _ in range(size))


def _treat(
    layer: str,
    tensor: Literal["weight", "act"],
    bits: tuple[int, ...],
    admitted: Container[int],
    learned: tuple[float, ...],
    mode: OutlierMode,
    entries: list[Outlier],
) -> tuple[float | None, ...]:
    places = [place for place, width in enumerate(bits) if width in admitted and width != FP8]
    found = tuple(learned[place] for place in places)
    ascends = [here < after for here, after in itertools.pairwise((*found, *found[-1:]))]
    treated: tuple[float | None, ...] = found
    if mode == "forbid":
        treated = tuple(None if up else value for up, value in zip(ascends, found, strict=True))
    elif mode == "repair":
        treated = non_increasing(found)
    used: list[float | None] = [
        value if width == FP8 and width in admitted else None for width, value in zip(bits, learned, strict=True)
    ]
    for place, up, before, after in zip(places, ascends, found, treated, strict=True):
        used[place] = after
        if up or before != after:
            entries.append(Outlier(layer=layer, tensor=tensor, bits=bits[place], learned=before, used=after))
    return tuple(used)
