"""What a compiler's kernels move, or how many they are, as a cost: prices of layers, and of several together."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.cost_table import CostTable, Moved, network_digest
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.costs import LayerShape
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.latency_cost import Times, runs_at

SCALE = 1000
"""Kernels are counted in thousandths, as what neighbours add is fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What ``layers``, at which units stand, take together. ``times``: of each, whose pairs are priced; ``amounts``: by
    the priced pairs at which they run; what is not there takes nothing."""

    layers: tuple[str, ...]
    times: tuple[Times, ...]
    amounts: Mapping[tuple[BitPair, ...], int]

    def precision(self, layer: str, pair: BitPair) -> BitPair | None:
        """The priced pair at which a layer runs."""
        return runs_at(self.times[self.layers.index(layer)], pair)[0]

    def between(self, *pairs: BitPair) -> int:
        at = tuple(runs_at(times, pair)[0] for times, pair in zip(self.times, pairs, strict=True))
        return 0 if None in at else self.amounts.get(at, 0)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """``prices`` by unit, at its first layer, in ``unit``; ``handovers`` between units, ``constant`` for the rest."""

    name: str
    unit: str
    prices: Mapping[str, Times]
    constant: int
    handovers: tuple[Together, ...]

    @property
    def pinned(self) -> bool:
        return False

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return runs_at(self.prices[layer.name], (weight_bits, act_bits))[1] if layer.name in self.prices else 0


def moved_cost(indicators: Indicators, table: CostTable) -> Planned:
    """Bytes of activations and weights for one call. Raises ModelError as `_require`."""
    return _planned(indicators, table, "moved", "bytes", lambda moved: round(moved.bytes))


def kernel_cost(indicators: Indicators, table: CostTable) -> Planned:
    """Kernels of the engine, in thousandths. Raises ModelError as `_require`."""
    return _planned(indicators, table, "kernels", "kernels / 1000", lambda moved: round(moved.kernels * SCALE))


def _planned(indicators: Indicators, table: CostTable, name: str, unit: str, figure: Callable[[Moved], int]) -> Planned:
    searched = {layer.name for layer in indicators.layers}
    own: dict[str, dict[BitPair, int]] = {}
    for part in table.parts:
        prices = own.setdefault(table.units[part.layer], {})
        pair = part.weight_bits, part.act_bits
        prices[pair] = prices.get(pair, 0) + figure(part.moved)
    _require(indicators, table, own)
    constant = sum(next(iter(prices.values())) for one, prices in own.items() if one not in searched)
    amounts: dict[tuple[str, ...], dict[tuple[BitPair, ...], int]] = {}
    for units, pairs, moved in _besides(table):
        free = [at for at, unit in enumerate(units) if unit in searched]
        possible = (own[unit] if unit in searched else list(own[unit])[:1] for unit in units)
        if not all(pair in some for pair, some in zip(pairs, possible, strict=True)):
            continue
        value, ends, chosen = figure(moved), tuple(units[at] for at in free), tuple(pairs[at] for at in free)
        if not free:
            constant += value
        elif len(free) == 1:
            own[ends[0]][chosen[0]] += value
        else:
            some = amounts.setdefault(ends, {})
            some[chosen] = some.get(chosen, 0) + value
    times: dict[str, Times] = {}
    for one, prices in own.items():
        if one in searched:  # costs of the program are 0 or above
            least = min(prices.values())
            constant += least
            ordered = sorted(prices.items(), key=lambda item: (item[0][0] * item[0][1], item[0]))
            times[one] = tuple((pair, value - least) for pair, value in ordered)
    handovers = []
    for ends, some in amounts.items():
        every = {chosen: some.get(chosen, 0) for chosen in product(*(own[unit] for unit in ends))}
        least = min(every.values())
        constant += least
        handovers.append(
            Together(
                layers=ends,
                times=tuple(times[unit] for unit in ends),
                amounts={chosen: value - least for chosen, value in every.items()},
            )
        )
    return Planned(name=name, unit=unit, prices=times, constant=constant, handovers=tuple(handovers))


def _besides(table: CostTable) -> Iterator[tuple[tuple[str, ...], tuple[BitPair, ...], Moved]]:
    """What is moved besides the parts: units, their pairs, and what."""
    for one in table.neighbours:
        yield (one.first, one.second), (one.before, one.after), one.moved
    for group in table.groups:
        for price in group.prices:
            yield group.units, price.pairs, price.moved


def _require(indicators: Indicators, table: CostTable, own: Mapping[str, Mapping[BitPair, int]]) -> None:
    """Raises ModelError for a table of another network, and for one that prices nothing that a layer may take. What is
    not priced is beyond every budget."""
    layers: list[LayerShape] = [*indicators.layers, *indicators.pinned]
    if network_digest((one.name, one.macs, one.num_weights) for one in layers) != table.network:
        names = {one.name for one in layers}
        other = sorted(names.symmetric_difference(table.units))
        difference = f"layer {other[0]!r} is in one of them only" if other else "their layers differ in size"
        raise ModelError(
            f"the cost table is of another network ({table.model!r}) than the indicators ({indicators.model!r}): "
            f"{difference}; price this one with `limpq-deploy profile --runtime tensorrt_rtx`"
        )
    everything = frozenset(product(indicators.bits, indicators.bits))
    admitted = admitted_pairs(indicators)
    for layer in indicators.layers:
        unit = table.units[layer.name]
        if unit not in {one.name for one in indicators.layers}:
            raise ModelError(f"the cost table decides {layer.name!r} with {unit!r}, which is pinned; price it again")
        prices = tuple((pair, 0) for pair in sorted(own[unit], key=lambda pair: (pair[0] * pair[1], pair)))
        pairs = sorted(admitted.get(layer.name, everything))
        if all(runs_at(prices, pair)[0] is None for pair in pairs):
            raise ModelError(
                f"the cost table of {table.model!r} prices nothing for layer {layer.name!r} at the bits that it may "
                f"take, {pair_name(pairs[0])} and above; restrict the bits, or profile a build of those"
            )
