"""Prices of layers and of what stands around them, fitted to what engines of whole policies moved, layer by layer.

    moved(policy) = sum over layers of price[layer, pair] + sum over groups of price[group, pairs of its units]

A layer's own price is what its kernels move where all layers have its pair. What they move besides is decided by the
pairs of the units around it (`price_groups`). Where these have too many tuples of pairs, it is a sum over two units at
a time, the least squares over all engines; layers that stand alike in the network are then first fitted together, in
shares of their own price, and then each by itself, drawn towards that (`RIDGE`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.cost_table import QUANTITIES, Moved
from limpq_deploy.export.timing.price_deciding import deciding
from limpq_deploy.export.timing.price_groups import MOST_TUPLES, Figures, Units, group_prices

MOST_SEEN = 16
"""Units around a layer of which some may count all at once; where there are more, no two engines are alike there."""

RIDGE = 0.1
"""Weight of the common fit against one engine, for each layer."""

SURE = 100.0
"""Weight of an engine wholly at one pair, and of any other that prices have to give again."""

Pairs = Mapping[str, BitPair]
"""The priced pair of every unit: of layers that are decided together, named by the first."""

Change = tuple[str, str, BitPair, BitPair]
"""Two units, the earlier one first, and their pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One engine: the priced pair of every unit, and what each layer's kernels move."""

    pairs: Pairs
    moved: Mapping[str, Moved]

    @property
    def total(self) -> Moved:
        return sum(self.moved.values(), Moved())


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """``units``: the unit of every layer, in execution order; ``edges``: (producer, consumer), layers' names;
    ``further``: by layer, others that its kernels see (`price_wiring`)."""

    units: Mapping[str, str]
    edges: tuple[tuple[str, str], ...]
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, layer: str) -> tuple[str, ...]:
        """Units whose pairs a layer's kernels see, in order: its own, those that it reads and is read by, those that
        read the same tensor or hand to the same layer, and those further on."""
        readers, makers = defaultdict(set), defaultdict(set)
        for producer, consumer in self.edges:
            readers[producer].add(self.units[consumer])
            makers[consumer].add(self.units[producer])
        own = self.units[layer]
        seen = {own, *(self.units[one] for one in self.further.get(layer, ()))}
        for producer, consumer in self.edges:
            ends = {self.units[producer], self.units[consumer]}
            if own in ends or layer in (producer, consumer):
                seen |= ends
        for together in (*readers.values(), *makers.values()):
            if own in together:
                seen |= together
        place = {unit: at for at, unit in enumerate(dict.fromkeys(self.units.values()))}
        return tuple(sorted(seen, key=place.__getitem__))

    def like(self, layer: str) -> tuple[object, ...]:
        """What layers that stand alike have in common."""
        seen = self.of(layer)
        number = {unit: at for at, unit in enumerate(seen)}
        ends = ((self.units[one], self.units[other]) for one, other in self.edges)
        inside = {(number[one], number[other]) for one, other in ends if one in number and other in number}
        return len(seen), number[self.units[layer]], tuple(sorted(inside))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """``own`` by layer and pair; ``groups`` by units and their pairs; ``together`` by what changes."""

    own: Mapping[tuple[str, BitPair], Moved]
    groups: Mapping[Units, Mapping[tuple[BitPair, ...], Moved]]
    together: Mapping[Change, Moved]
    units: Mapping[str, str]

    def of(self, pairs: Pairs) -> Moved:
        """What an engine of these pairs is expected to move."""
        alone = [self.own[layer, pairs[unit]] for layer, unit in self.units.items()]
        around = [some.get(tuple(pairs[unit] for unit in units), Moved()) for units, some in self.groups.items()]
        beside = [one for change, one in self.together.items() if _holds(change, pairs)]
        return sum([*alone, *around, *beside], Moved())


def fit(
    around: Surroundings, uniform: Mapping[BitPair, Built], mixed: Sequence[Built], certain: Sequence[Built] = ()
) -> Prices:
    """Prices from one engine for each pair in which all searched layers have it, and from some that mix pairs.
    ``certain``: mixed ones too, which prices have to give again as nearly as they can."""
    engines = [*uniform.values(), *certain, *mixed]
    first = engines[0]
    own: dict[tuple[str, BitPair], Moved] = {}
    for layer, unit in around.units.items():
        if all(one.pairs[unit] == first.pairs[unit] for one in engines):  # its pair is given
            own[layer, first.pairs[unit]] = uniform.get(first.pairs[unit], first).moved.get(layer, Moved())
        else:
            own |= {(layer, pair): one.moved.get(layer, Moved()) for pair, one in uniform.items()}
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for layer in around.units:
        alike[around.like(layer)].append(layer)
    sure = [SURE] * (len(uniform) + len(certain)) + [1.0] * len(mixed)
    taken = {unit: tuple(sorted({one.pairs[unit] for one in engines})) for unit in around.units.values()}
    figures: dict[str, Figures] = {}
    for layers in alike.values():
        seen = {layer: around.of(layer) for layer in layers}
        if len(seen[layers[0]]) > MOST_SEEN:
            continue
        counting = deciding(
            [
                [
                    (tuple(one.pairs[unit] for unit in seen[layer]), _beyond(layer, one, own, around.units[layer]))
                    for one in engines
                ]
                for layer in layers
            ]
        )
        for layer in layers:
            units = tuple(seen[layer][place] for place in counting)
            if prod(len(taken[unit]) for unit in units) <= MOST_TUPLES:
                figures[layer] = _figures(layer, units, engines, sure, own, around.units[layer])
    groups = group_prices(figures, {layer: around.like(layer) for layer in figures}, taken)
    together: dict[Change, dict[str, float]] = defaultdict(lambda: dict.fromkeys(QUANTITIES, 0.0))
    for layers in alike.values():
        wide = [layer for layer in layers if layer not in figures]
        for quantity in QUANTITIES if wide else ():
            for change, value in _beside(around, wide, engines, own, quantity, len(uniform) + len(certain)):
                together[change][quantity] += value
    found = {change: Moved(**values) for change, values in together.items() if any(map(abs, values.values()))}
    return Prices(own=own, groups=groups, together=found, units=around.units)


def _figures(
    layer: str,
    units: Units,
    engines: Sequence[Built],
    sure: Sequence[float],
    own: Mapping[tuple[str, BitPair], Moved],
    unit: str,
) -> Figures:
    """What engines say of a layer by the pairs of some units; of engines that have the same ones, the mean."""
    sums: dict[tuple[BitPair, ...], NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(QUANTITIES)))
    weights: dict[tuple[BitPair, ...], float] = defaultdict(float)
    for engine, weight in zip(engines, sure, strict=True):
        chosen = tuple(engine.pairs[one] for one in units)
        sums[chosen] += weight * _beyond(layer, engine, own, unit)
        weights[chosen] += weight
    means = {chosen: total / weights[chosen] for chosen, total in sums.items()}
    return Figures(units=units, beyond=means, weights=weights, size=_sizes(layer, own))


def _beyond(layer: str, engine: Built, own: Mapping[tuple[str, BitPair], Moved], unit: str) -> NDArray[np.float64]:
    """What an engine moves in a layer beyond its own price, in shares of that."""
    moved, alone = engine.moved.get(layer, Moved()), own[layer, engine.pairs[unit]]
    beyond = np.array([getattr(moved, quantity) - getattr(alone, quantity) for quantity in QUANTITIES])
    return beyond / _sizes(layer, own)


def _sizes(layer: str, own: Mapping[tuple[str, BitPair], Moved]) -> NDArray[np.float64]:
    return np.array([_size(layer, own, quantity) for quantity in QUANTITIES])


def _size(layer: str, own: Mapping[tuple[str, BitPair], Moved], quantity: str) -> float:
    return max(getattr(one, quantity) for (name, _), one in own.items() if name == layer) or 1.0


def _beside(
    around: Surroundings,
    layers: Sequence[str],
    engines: Sequence[Built],
    own: Mapping[tuple[str, BitPair], Moved],
    quantity: str,
    certain: int,
) -> list[tuple[Change, float]]:
    """What layers that stand alike move of one quantity besides their own price. The first engines are ``certain``."""
    keys: dict[tuple[object, ...], int] = {}
    changes: dict[str, dict[Change, int]] = {}
    rows: dict[str, list[list[int]]] = {}
    rest: dict[str, NDArray[np.float64]] = {}
    size: dict[str, float] = {}
    for layer in layers:
        seen, unit = around.of(layer), around.units[layer]
        size[layer] = _size(layer, own, quantity)
        changes[layer], rows[layer] = {}, []
        for engine in engines:
            now = [
                ((at, to, engine.pairs[one], engine.pairs[other]), (one, other, engine.pairs[one], engine.pairs[other]))
                for (at, one), (to, other) in combinations(enumerate(seen), 2)
                if engine.pairs[one] != engine.pairs[other]
            ]
            for key, change in now:
                changes[layer][change] = keys.setdefault(key, len(keys))
            rows[layer].append([keys[key] for key, _ in now])
        rest[layer] = np.array(
            [
                getattr(engine.moved.get(layer, Moved()), quantity) - getattr(own[layer, engine.pairs[unit]], quantity)
                for engine in engines
            ]
        )
    if not keys or not any(values.any() for values in rest.values()):
        return []
    scaled = np.concatenate([rest[layer] / size[layer] for layer in layers])
    sure = np.array([SURE] * certain + [1.0] * (len(engines) - certain))
    every = [row for layer in layers for row in rows[layer]]
    common = _ridge(every, scaled, np.tile(sure, len(layers)), len(keys), 0.01, np.zeros(len(keys)))
    found: list[tuple[Change, float]] = []
    for layer in layers:
        alone = _ridge(rows[layer], rest[layer] / size[layer], sure, len(keys), RIDGE, common)
        found += [(change, size[layer] * float(alone[at])) for change, at in changes[layer].items()]
    return found


def _ridge(
    rows: Sequence[Sequence[int]],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    count: int,
    ridge: float,
    towards: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weighted least squares of sums of figures, each of which is drawn towards one."""
    matrix = np.zeros((len(rows) + count, count))
    for number, row in enumerate(rows):
        matrix[number, list(row)] = 1
    right = np.concatenate([(values - matrix[: len(rows)] @ towards) * weights, np.zeros(count)])
    matrix[: len(rows)] *= weights[:, None]
    matrix[len(rows) :] = np.eye(count) * ridge
    solved: NDArray[np.float64] = towards + np.linalg.lstsq(matrix, right, rcond=None)[0]
    return solved


def _holds(change: Change, pairs: Pairs) -> bool:
    one, other, before, after = change
    return pairs[one] == before and pairs[other] == after
