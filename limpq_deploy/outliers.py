"""Indicators that grow with the bit-width: outliers of the joint training, and three ways to treat them."""

import itertools
from dataclasses import dataclass
from typing import Literal

from limpq_deploy.indicators import Indicators

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
    """Indicators as the program uses them: {layer: one number per bit-width}; None forbids the entry."""

    weight: dict[str, tuple[float | None, ...]]
    act: dict[str, tuple[float | None, ...]]
    outliers: OutlierReport


def treat_outliers(indicators: Indicators, mode: OutlierMode) -> Importance:
    """Importance of every entry under one treatment of outliers.

    ``forbid`` (LIMPQ's authors, who price such an entry at 1e8): entry b is forbidden where s[b] < s[b+1], b+1 being
    the next candidate. The widest entry has no successor, so every layer keeps at least that one.
    ``repair``: the closest non-increasing sequence (least squares) takes the place of s.
    ``keep``: s as it is.
    """
    entries: list[Outlier] = []
    weight, act = {}, {}
    for layer in indicators.layers:
        weight[layer.name] = _treat(layer.name, "weight", indicators.bits, layer.weight, mode, entries)
        act[layer.name] = _treat(layer.name, "act", indicators.bits, layer.act, mode, entries)
    return Importance(weight=weight, act=act, outliers=OutlierReport(mode=mode, entries=tuple(entries)))


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
    learned: tuple[float, ...],
    mode: OutlierMode,
    entries: list[Outlier],
) -> tuple[float | None, ...]:
    ascends = [here < after for here, after in itertools.pairwise(learned)] + [False]
    used: tuple[float | None, ...] = learned
    if mode == "forbid":
        used = tuple(None if up else value for up, value in zip(ascends, learned, strict=True))
    elif mode == "repair":
        used = non_increasing(learned)
    for width, up, before, after in zip(bits, ascends, learned, used, strict=True):
        if up or before != after:
            entries.append(Outlier(layer=layer, tensor=tensor, bits=width, learned=before, used=after))
    return used
