"""What if the budget were another one: certified policies over its whole range, each with the option that asks for it.

The limits are numbers that a user can type, so that the same search on the same indicators finds the same policy again.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any, Literal

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.budgets import BITOPS, BUDGETS, budgets_of, of_kind
from limpq_deploy.policy.candidates import Admit, find
from limpq_deploy.policy.costs import (
    BitOps,
    Budget,
    Cost,
    Pairs,
    WeightSize,
    handover_range,
    handovers_of,
    pinned_cost,
    total_cost,
)
from limpq_deploy.policy.explain import Explanation
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import OutlierMode
from limpq_deploy.policy.policy import LayerBits, SolverResult
from limpq_deploy.policy.recipes import Recipe
from limpq_deploy.policy.search import PolicySearch

PLAIN = {BITOPS: "max_gbitops", "the size": "max_mib"}
"""Of each kind of budget that can be asked for in several ways, the one that is swept."""

DIGITS = 4
"""Significant digits of a limit."""

_LIMIT = re.compile(r"\d{1,30}(\.\d{1,30})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """The budget whose limit is moved: ``name`` of its setting (`BUDGETS`), of which ``replaced`` are other names for
    the same kind. ``low`` and ``high``: figures in the user's ``unit`` below which nothing fits, and from which it
    limits nothing. ``source``: the file that its costs come from."""

    name: str
    replaced: tuple[str, ...]
    low: Fraction
    high: Fraction
    unit: str
    source: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewFigure:
    """Accuracy before fine-tuning: ``value`` of the task's figure with its 95 % interval, and the mean ``loss``."""

    value: float
    low: float
    high: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfPoint:
    """A policy and what it costs: ``bitops`` of all layers, ``size_bits`` of all weights, ``latency_ns`` as predicted
    from a table (None without one). ``settings``: what asks for it, by the names of settings. ``objective`` and
    ``solver`` are None for bits that nothing was minimised for, such as uniform ones."""

    name: str
    bits: dict[str, LayerBits]
    bitops: int
    size_bits: int
    latency_ns: int | None = None
    objective: float | None = None
    solver: SolverResult | None = None
    settings: dict[str, str] = field(default_factory=dict)
    preview: PreviewFigure | None = None

    def pairs(self) -> dict[str, tuple[int, int]]:
        """(weight_bits, act_bits) by layer name."""
        return {name: bits.pair for name, bits in self.bits.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """A front over the range of one budget (``swept``), the others kept, by the measure that won; uniform bits and
    ``candidates`` of the tournament beside it; and why the policy is as it is. ``figure`` with its ``unit``: what
    ``images`` held-out training images say of each, None where nothing was previewed."""

    swept: str
    importance: str
    alpha: float
    outliers: OutlierMode
    points: tuple[WhatIfPoint, ...]
    uniform: tuple[WhatIfPoint, ...] = ()
    candidates: tuple[WhatIfPoint, ...] = ()
    explanation: Explanation | None = None
    figure: str = "top-1"
    unit: str = "%"
    images: int | None = None
    seconds: float = 0.0
    format: Literal["limpq.what-if/1"] = field(default="limpq.what-if/1")

    def __post_init__(self) -> None:
        """Raises ValueError for a budget that there is not, and for a point without its limit."""
        if self.swept not in BUDGETS:
            raise ValueError(f"{self.swept!r} is no budget; expected one of {', '.join(BUDGETS)}")
        for point in self.points:
            limit = point.settings.get(self.swept, "")
            if not _LIMIT.fullmatch(limit):
                raise ValueError(f"the point {point.name!r} has the limit {limit!r} of {self.swept}; expected a number")


def swept_budget(asked: Mapping[str, Any], restricted: Indicators, sources: Mapping[str, Any]) -> Swept:
    """The first budget that was asked for, over all that layers admit; BitOps where none was.

    ``asked``: values by the names of settings, None where not given; ``sources``: contents of files of costs, by the
    setting that names the file.
    """
    given = next((name for name in BUDGETS if asked.get(name) is not None), of_kind(BITOPS)[0])
    row = BUDGETS[given]
    name = PLAIN.get(row.kind or "", given)
    same = of_kind(row.kind) if row.kind is not None else (given,)
    source = sources.get(row.source) if row.source is not None else None
    found = budgets_of(name, restricted, 1.0, source)
    ends = [_ends(one, restricted) for one in found]
    return Swept(
        name=name,
        replaced=tuple(one for one in same if one != name),
        low=max(low for low, _ in ends),
        high=max(high for _, high in ends),
        unit=found[0].figure_unit,
        source=source,
    )


def limits_of(swept: Swept, marks: Sequence[Fraction], number: int) -> tuple[str, ...]:
    """At most ``number`` limits in the user's unit, ascending: both ends, ``marks`` between them, then the middles of
    the widest gaps, on a logarithmic scale. They are rounded up, so that what they stand for fits."""
    low, high = swept.low, swept.high
    chosen = sorted({low, high, *(mark for mark in marks if low < mark < high)})
    while len(chosen) < number and low > 0:
        place = max(range(1, len(chosen)), key=lambda at: chosen[at] / chosen[at - 1], default=0)
        if place == 0:
            break
        below, above = chosen[place - 1], chosen[place]
        chosen.insert(place, Fraction(math.sqrt(below * above)))
    return tuple(dict.fromkeys(map(_rounded_up, chosen)))


def front_points(
    indicators: Indicators,
    recipe: Recipe,
    swept: Swept,
    limits: Sequence[str],
    others: Sequence[Budget],
    *,
    solve: PolicySearch,
    admit: Admit,
    latency: Cost | None = None,
) -> tuple[WhatIfPoint, ...]:
    """The certified policy of each limit, equal ones once, by ascending cost; limits that nothing meets are left out.
    ``others``: budgets that hold everywhere."""
    read = admit(read_by(indicators, recipe.importance))
    found: dict[tuple[tuple[str, tuple[int, int]], ...], WhatIfPoint] = {}
    for limit in limits:
        budgets = (*budgets_of(swept.name, read, limit, swept.source), *others)
        try:
            policy = find(indicators, budgets, recipe, solve=solve, admit=admit)
        except InfeasiblePolicy:
            continue
        point = point_of(f"{limit} {swept.unit}", policy.pairs(), read, latency)
        point = replace(point, objective=policy.objective, solver=policy.solver, settings={swept.name: limit})
        found.setdefault(tuple(policy.pairs().items()), point)
    return tuple(found.values())


def uniform_points(restricted: Indicators, latency: Cost | None) -> tuple[WhatIfPoint, ...]:
    """Uniform bits, one width for weights and activations, that every layer may take, whatever they cost."""
    admitted = admitted_pairs(restricted).values()
    return tuple(
        point_of(
            pair_name((bits, bits)), {layer.name: (bits, bits) for layer in restricted.layers}, restricted, latency
        )
        for bits in restricted.bits
        if all((bits, bits) in some for some in admitted)
    )


def point_of(name: str, pairs: Pairs, restricted: Indicators, latency: Cost | None) -> WhatIfPoint:
    """A policy with what it costs; ``latency``: in ns, where a table predicts it."""
    return WhatIfPoint(
        name=name,
        bits={layer: LayerBits.of(pair) for layer, pair in pairs.items()},
        bitops=total_cost(BitOps(pinned=True), restricted, pairs),
        size_bits=total_cost(WeightSize(), restricted, pairs),
        latency_ns=None if latency is None else total_cost(latency, restricted, pairs),
    )


def figure_of(swept: Swept, restricted: Indicators, pairs: Pairs) -> Fraction:
    """What a policy takes of the swept budget, in the user's unit."""
    found = budgets_of(swept.name, restricted, 1.0, swept.source)
    return max(total_cost(one.cost, restricted, pairs) * one.multiplier for one in found)


def _ends(budget: Budget, restricted: Indicators) -> tuple[Fraction, Fraction]:
    """The least and the largest figure of any choice of bits."""
    admitted = admitted_pairs(restricted)
    both = [(w, a) for w in restricted.bits for a in restricted.bits]
    least = most = pinned_cost(budget.cost, restricted)
    for layer in restricted.layers:
        costs = [budget.cost.of_layer(layer, *pair) for pair in admitted.get(layer.name, both)]
        least, most = least + min(costs), most + max(costs)
    for one in handovers_of(budget.cost):
        low, high = handover_range(one, both)
        least, most = least + low, most + high
    return least * budget.multiplier, most * budget.multiplier


def _rounded_up(value: Fraction) -> str:
    context = Context(prec=DIGITS, rounding=ROUND_CEILING)
    return f"{context.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize():f}"
