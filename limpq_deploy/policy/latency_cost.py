"""Latency as a cost: measured times of layers or fusion groups, looked up by precision, and of conversions between
neighbours of different precision."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.table import Conversion, LatencyTable, holds
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.costs import LayerShape
from limpq_deploy.policy.indicators import Indicators, LayerEdge

NS = 10**6
"""Nanoseconds in one ms."""

UNMEASURED = 10**15
"""Time in ns, eleven days, of a layer at bits that no measured precision holds: no budget admits them. Layers that are
searched may not take such bits (`latency_cost`), but a policy that is compared with theirs may."""

Key = TypeVar("Key")

Times = tuple[tuple[BitPair, int], ...]
"""Measured (weight_bits, act_bits) and their time in ns, narrow ones first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Conversions on the edge between two searched parts, named by the layers at which their ``Times`` stand.

    ``ns``: by the measured precisions at which the two run; what is not there takes no time.
    """

    before: str
    after: str
    before_times: Times
    after_times: Times
    ns: Mapping[tuple[BitPair, BitPair], int]

    @property
    def layers(self) -> tuple[str, str]:
        return self.before, self.after

    def precision(self, layer: str, pair: BitPair) -> BitPair | None:
        """The measured precision at which one of the two runs."""
        return runs_at(self.before_times if layer == self.before else self.after_times, pair)[0]

    def between(self, *pairs: BitPair) -> int:
        first, last = (self.precision(layer, pair) for layer, pair in zip(self.layers, pairs, strict=True))
        return 0 if first is None or last is None else self.ns.get((first, last), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Sum of the parts' measured times for one image and of conversions, each rounded to whole ns, and ``constant`` for
    the rest.

    A layer runs at the narrowest measured precision that holds its bits: of least product of the two widths, then of
    least weight bits. ``times``: by layer; a fusion group's stand at its first searched layer. ``beside``: conversions
    from and to pinned layers, by layer and its precision. ``handovers``: those between two searched parts.
    """

    times: Mapping[str, Times]
    constant: int
    beside: Mapping[str, Mapping[BitPair, int]]
    handovers: tuple[Converted, ...]

    @property
    def name(self) -> str:
        return "latency"

    @property
    def unit(self) -> str:
        return "ns"

    @property
    def pinned(self) -> bool:
        return True

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        if layer.name not in self.times:
            return 0
        precision, ns = runs_at(self.times[layer.name], (weight_bits, act_bits))
        if precision is None or layer.name not in self.beside:
            return ns
        return ns + self.beside[layer.name].get(precision, 0)


def latency_cost(indicators: Indicators, table: LatencyTable) -> Latency:
    """The times of ``table``, pinned layers, conversions and ``other_ms`` included.

    Raises ModelError where the table does not cover the indicators' layers, or lacks a precision that they may take, or
    has conversions and the indicators no edges; SettingError where a fusion group holds several searched layers that
    are not tied.
    """
    return _latency(indicators, table, *_times(indicators, table))


def _times(indicators: Indicators, table: LatencyTable) -> tuple[dict[str, str], dict[str, Times]]:
    """The layer at which each layer's part stands, and the times of the parts by that layer."""
    searched = {layer.name: layer for layer in indicators.layers}
    pinned = {layer.name: layer for layer in indicators.pinned}
    parts: dict[tuple[str, ...], list[tuple[BitPair, int]]] = {}
    for time in table.times:
        parts.setdefault(time.layers, []).append(((time.weight_bits, time.act_bits), round(time.ms * NS)))
    _check_cover(indicators, table, {layer for layers in parts for layer in layers})
    everything = frozenset(product(indicators.bits, indicators.bits))
    admitted = admitted_pairs(indicators)
    stands_at: dict[str, str] = {}
    times: dict[str, Times] = {}
    for layers, measured in parts.items():
        free = [searched[name] for name in layers if name in searched]
        if len(free) > 1 and (free[0].tie is None or len({layer.tie for layer in free}) > 1):
            names = ",".join(layer.name for layer in free)
            raise SettingError(f"the latency table times {names} together, at one precision; give --tie {names} too")
        if free:
            first, pairs = free[0].name, admitted.get(free[0].name, everything)
        else:
            one = pinned[layers[0]]
            first, pairs = one.name, frozenset([(one.weight_bits, one.act_bits)])
        stands_at.update(dict.fromkeys(layers, first))
        times[first] = tuple(sorted(measured, key=lambda time: (time[0][0] * time[0][1], time[0])))
        for pair in sorted(pairs):
            if runs_at(times[first], pair)[0] is None:
                raise ModelError(
                    f"the latency table of {table.model!r} has no time for layer {first!r} at w{pair[0]}a{pair[1]} or "
                    "wider; measure it, or restrict the bits"
                )
    return stands_at, times


def _check_cover(indicators: Indicators, table: LatencyTable, covered: set[str]) -> None:
    names = [layer.name for layer in indicators.layers] + [layer.name for layer in indicators.pinned]
    for name in names:
        if name not in covered:
            raise ModelError(
                f"the latency table of {table.model!r} has no time for layer {name!r} of {indicators.model!r}; measure "
                "this model's layers"
            )
    for name in sorted(covered - set(names)):
        raise ModelError(
            f"the latency table of {table.model!r} times layer {name!r}, which {indicators.model!r} does not have; "
            "measure this model's layers"
        )


def _latency(
    indicators: Indicators, table: LatencyTable, stands_at: Mapping[str, str], times: Mapping[str, Times]
) -> Latency:
    fixed = {
        layer.name: runs_at(times[layer.name], (layer.weight_bits, layer.act_bits))[0]
        for layer in indicators.pinned
        if stands_at[layer.name] == layer.name
    }
    constant = round(table.other_ms * NS)
    beside: dict[str, dict[BitPair, int]] = {}
    handovers: dict[tuple[str, str], dict[tuple[BitPair, BitPair], int]] = {}
    for edge in _edges(indicators, table):
        first, last = stands_at[edge.producer], stands_at[edge.consumer]
        if first == last:
            continue
        for (before, after), ns in _conversions(edge, table.conversions).items():
            if first in fixed and last in fixed:
                constant += ns if (fixed[first], fixed[last]) == (before, after) else 0
            elif first in fixed and fixed[first] == before:
                _add(beside.setdefault(last, {}), after, ns)
            elif last in fixed and fixed[last] == after:
                _add(beside.setdefault(first, {}), before, ns)
            elif first not in fixed and last not in fixed:
                _add(handovers.setdefault((first, last), {}), (before, after), ns)
    return Latency(
        times=times,
        constant=constant,
        beside=beside,
        handovers=tuple(
            Converted(before=first, after=last, before_times=times[first], after_times=times[last], ns=ns)
            for (first, last), ns in handovers.items()
        ),
    )


def _edges(indicators: Indicators, table: LatencyTable) -> tuple[LayerEdge, ...]:
    if not table.conversions:
        return ()
    if indicators.edges is None:
        raise ModelError(
            f"the latency table of {table.model!r} has conversions, which need 'edges' in the indicators of "
            f"{indicators.model!r}; an older version or another program wrote these without, renew them with "
            "`limpq-deploy indicators --fresh`"
        )
    known = {(edge.producer, edge.consumer) for edge in indicators.edges}
    for one in table.conversions:
        if one.producer is not None and (one.producer, one.consumer) not in known:
            raise ModelError(
                f"the latency table of {table.model!r} has a conversion from {one.producer!r} to {one.consumer!r}, "
                f"which is no edge of {indicators.model!r}; measure this model's layers"
            )
    return indicators.edges


def _conversions(edge: LayerEdge, conversions: Iterable[Conversion]) -> dict[tuple[BitPair, BitPair], int]:
    """What an edge takes by the precisions of its ends, in ns; an entry of its own goes before the one for all."""
    found: dict[tuple[BitPair, BitPair], Conversion] = {}
    for one in conversions:
        if one.producer is None:
            found.setdefault((one.before, one.after), one)
        elif (one.producer, one.consumer) == (edge.producer, edge.consumer):
            found[one.before, one.after] = one
    return {change: round(one.ms * NS + one.ns_per_element * edge.elements) for change, one in found.items()}


def _add(sums: dict[Key, int], key: Key, ns: int) -> None:
    if ns:
        sums[key] = sums.get(key, 0) + ns


def runs_at(times: Times, pair: BitPair) -> tuple[BitPair | None, int]:
    """The first measured precision that holds these bits, with its time; (None, UNMEASURED) where none does."""
    for precision, ns in times:
        if holds(precision, pair):
            return precision, ns
    return None, UNMEASURED
