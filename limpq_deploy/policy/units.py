"""Costs beyond 64-bit integers, counted in larger units, rounded down.

    sum floor(cost / unit)  <=  floor(sum cost / unit)

so that whatever keeps the true limit keeps the one in units too: a program in units loses no policy, but may admit some
that exceed the limit by less than a unit for each of its terms (`search` checks every answer in the true integers).
"""

from collections.abc import Hashable
from dataclasses import dataclass

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.costs import Budget, Cost, Handover, LayerShape, handover_range, handovers_of, pinned_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import Importance
from limpq_deploy.policy.solver.program import MAX_COST


@dataclass(frozen=True, slots=True, kw_only=True)
class CostInUnits:
    """A cost of searched layers in units."""

    cost: Cost
    size: int

    @property
    def name(self) -> str:
        return self.cost.name

    @property
    def unit(self) -> str:
        return f"{self.size} {self.cost.unit}"

    @property
    def pinned(self) -> bool:
        return False

    @property
    def handovers(self) -> tuple["HandoverInUnits", ...]:
        return tuple(HandoverInUnits(whole=one, size=self.size) for one in handovers_of(self.cost))

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return self.cost.of_layer(layer, weight_bits, act_bits) // self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverInUnits:
    """A handover's cost in units."""

    whole: Handover
    size: int

    @property
    def layers(self) -> tuple[str, ...]:
        return self.whole.layers

    def precision(self, layer: str, pair: BitPair) -> Hashable:
        return self.whole.precision(layer, pair)

    def between(self, *pairs: BitPair) -> int:
        return self.whole.between(*pairs) // self.size


def in_units(budget: Budget, indicators: Indicators, importance: Importance) -> tuple[Budget, int]:
    """A budget whose dearest policy fits a 64-bit integer, what searched layers may take of it as its limit, and the
    unit, a power of two; 1 where that is so already."""
    everything = [(weight, act) for weight in indicators.bits for act in indicators.bits]
    most = sum(
        max(budget.cost.of_layer(layer, *pair) for pair in importance.pairs.get(layer.name, everything))
        for layer in indicators.layers
    )
    most += sum(handover_range(one, everything)[1] for one in handovers_of(budget.cost))
    size = 1 << (most // MAX_COST).bit_length()
    limit = budget.limit - pinned_cost(budget.cost, indicators)
    return (
        Budget(
            cost=CostInUnits(cost=budget.cost, size=size),
            limit=limit // size,
            option=budget.option,
            figure_unit=budget.figure_unit,
            multiplier=budget.multiplier * size,
            inverse=budget.inverse,
        ),
        size,
    )
