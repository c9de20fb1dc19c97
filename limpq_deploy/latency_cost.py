"""Latency as an additive cost: measured times of layers or fusion groups, looked up by precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import floor

from limpq_deploy.admitted import admitted_pairs
from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.costs import Budget, LayerShape, Number, positive
from limpq_deploy.export.latency_table import LatencyTable
from limpq_deploy.indicators import BitPair, Indicators

NS = 10**6
"""Nanoseconds in one ms."""

UNMEASURED = 10**15
"""Time in ns, eleven days, of a layer at bits that no measured precision holds: no budget admits them. Layers that are
searched may not take such bits (`latency_budget`), but a policy that is compared with theirs may."""

Times = tuple[tuple[BitPair, int], ...]
"""Measured (weight_bits, act_bits) and their time in ns, narrow ones first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Sum of the parts' measured times for one image, each rounded to whole ns, and ``constant`` for the rest.

    A layer runs at the narrowest measured precision that holds its bits: of least product of the two widths, then of
    least weight bits. ``times``: by layer; a fusion group's stand at its first searched layer.
    """

    times: Mapping[str, Times]
    constant: int

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
        found = run_at(self.times[layer.name], (weight_bits, act_bits))
        return UNMEASURED if found is None else found


def latency_budget(indicators: Indicators, table: LatencyTable, max_ms: Number) -> Budget:
    """The times of ``table``, pinned layers and ``other_ms`` included, add up to at most ``max_ms``.

    Raises ModelError where the table does not cover the indicators' layers, or lacks a precision that they may take;
    SettingError where a fusion group holds several searched layers that are not tied.
    """
    searched = {layer.name: layer for layer in indicators.layers}
    pinned = {layer.name: layer for layer in indicators.pinned}
    parts: dict[tuple[str, ...], list[tuple[BitPair, int]]] = {}
    for time in table.times:
        parts.setdefault(time.layers, []).append(((time.weight_bits, time.act_bits), round(time.ms * NS)))
    covered = {layer for layers in parts for layer in layers}
    for name in (*searched, *pinned):
        if name not in covered:
            raise ModelError(
                f"the latency table of {table.model!r} has no time for layer {name!r} of {indicators.model!r}; measure "
                "this model's layers"
            )
    for name in sorted(covered):
        if name not in searched and name not in pinned:
            raise ModelError(
                f"the latency table of {table.model!r} times layer {name!r}, which {indicators.model!r} does not have; "
                "measure this model's layers"
            )
    everything = frozenset(product(indicators.bits, indicators.bits))
    admitted = admitted_pairs(indicators)
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
        times[first] = tuple(sorted(measured, key=lambda time: (time[0][0] * time[0][1], time[0])))
        for pair in sorted(pairs):
            if run_at(times[first], pair) is None:
                raise ModelError(
                    f"the latency table of {table.model!r} has no time for layer {first!r} at w{pair[0]}a{pair[1]} or "
                    "wider; measure it, or restrict the bits"
                )
    return Budget(
        cost=Latency(times=times, constant=round(table.other_ms * NS)),
        limit=floor(positive("--max-latency-ms", max_ms) * NS),
        option=f"--max-latency-ms {max_ms}",
        figure_unit="ms",
        multiplier=Fraction(1, NS),
    )


def run_at(times: Times, pair: BitPair) -> int | None:
    """Time at the first measured precision that holds these bits; None where none does."""
    return next((ns for (weight_bits, act_bits), ns in times if weight_bits >= pair[0] and act_bits >= pair[1]), None)
