"""Why a policy is as it is: what one bit more or less of a layer would change, and what each budget costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import product
from math import ceil, floor, fsum
from typing import Literal

from limpq_deploy.calibration.errors import InfeasiblePolicy, PolicyNotFound
from limpq_deploy.policy.admitted import components, tie_classes
from limpq_deploy.policy.costs import (
    Budget,
    Pairs,
    cost_change,
    handed_over,
    handover_range,
    handovers_of,
    pinned_cost,
    total_cost,
)
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import group_leaders, objective_of
from limpq_deploy.policy.outliers import Importance, OutlierMode, treat_outliers
from limpq_deploy.policy.policy import Policy, Solve
from limpq_deploy.policy.search import search_policy

NUDGE = Fraction(1, 100)
"""Share of a limit by which it is moved to see what it costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One width to the next candidate, up or down, everything else kept.

    ``layer``: the layer, or the first of the tied ``layers`` whose input changes with it. ``objective``: change, None
    where the entry is a forbidden outlier. ``costs``: change of every budget's cost, in the budgets' order. ``fits``:
    whether all budgets would still be kept. ``price``: objective per share of each budget's limit, ``objective /
    (costs / limit)``, None where the budget or the objective does not change.
    """

    layer: str
    layers: tuple[str, ...]
    tensor: Literal["weight", "act"]
    bits: int
    to_bits: int
    objective: float | None
    costs: tuple[int, ...]
    price: tuple[float | None, ...]
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPrice:
    """One budget: how much of it is left, and what the objective would gain from more.

    ``slack`` = limit - used, in ``unit``. ``relaxed`` and ``tightened``: the best objective with a limit 1 % larger or
    smaller, everything else kept (None: no policy meets the smaller one). ``without``: the best objective with this
    budget gone. ``binding``: the budget costs something, ``without`` is below the best objective within all budgets.
    ``shadow_price``: (best - relaxed) / (1 % of the limit), per unit: what one unit more buys.

    These are differences of solved programs, not multipliers of a relaxation: they hold for whole bits, and a limit
    that 1 % does not move to another policy has the price 0. Where a search stopped before its proof, ``proved`` is
    False and the figures are those of the policies found.
    """

    name: str
    option: str
    unit: str
    used: int
    limit: int
    slack: int
    binding: bool
    shadow_price: float
    relaxed: float
    tightened: float | None
    without: float
    proved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverUse:
    """What a budget's cost takes between ``layers`` of the policy, such as a conversion between the precisions of two.
    ``before`` and ``after``: the first and the last of them; a file of an older version has these two alone."""

    budget: str
    before: str
    after: str
    used: int
    unit: str
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Budgets and single steps around a policy. ``objective``: the policy's, recomputed; ``best``: what the search
    finds for these budgets, the same for an optimal policy. ``handovers``: what is paid between searched layers, the
    dearest first."""

    objective: float
    best: float
    alpha: float
    outliers: OutlierMode
    budgets: tuple[BudgetPrice, ...]
    steps: tuple[Step, ...]
    handovers: tuple[HandoverUse, ...] = ()
    format: Literal["limpq.explanation/1"] = field(default="limpq.explanation/1")

    @property
    def improvements(self) -> tuple[Step, ...]:
        """Steps that lower the objective and keep every budget, the best first: none around an optimum."""
        least = -_tolerance(self.objective)
        found = [(step.objective, step) for step in self.steps if step.fits and step.objective is not None]
        return tuple(step for change, step in sorted(found, key=lambda one: one[0]) if change < least)


def explain(
    policy: Policy,
    indicators: Indicators,
    budgets: Sequence[Budget],
    *,
    outliers: OutlierMode | None = None,
    solve: Solve = search_policy,
) -> Explanation:
    """Marginal prices and shadow prices of a policy; one search, and three more per budget.

    ``outliers``: None takes what the policy records, else forbid. Raises ModelError where the policy does not fit the
    indicators, InfeasiblePolicy where none meets the budgets.
    """
    mode = outliers or (policy.outliers.mode if policy.outliers is not None else "forbid")
    importance = treat_outliers(indicators, mode)
    pairs = policy.pairs()
    objective = objective_of(indicators, importance, pairs, policy.alpha, "the policy")
    try:
        best = solve(indicators, budgets, alpha=policy.alpha, outliers=mode)
    except PolicyNotFound:  # in time: the policy itself keeps them
        best = policy
    return Explanation(
        objective=objective,
        best=best.objective,
        alpha=policy.alpha,
        outliers=mode,
        budgets=tuple(_price(policy, indicators, budgets, row, best, mode, solve) for row in range(len(budgets))),
        steps=tuple(_steps(indicators, importance, pairs, budgets, policy.alpha)),
        handovers=_handovers(pairs, budgets),
    )


def _steps(
    indicators: Indicators, importance: Importance, pairs: Pairs, budgets: Sequence[Budget], alpha: float
) -> Iterator[Step]:
    leaders = group_leaders(indicators)
    units = {layer.name: unit for unit in tie_classes(indicators.layers) for layer in unit}
    groups = {layer.name: group for group in components(indicators.layers) for layer in group}
    room = [budget.limit - total_cost(budget.cost, indicators, pairs) for budget in budgets]
    for layer in indicators.layers:
        weight_bits, act_bits = pairs[layer.name]
        unit, group = [one.name for one in units[layer.name]], [one.name for one in groups[layer.name]]
        if unit[0] == layer.name:
            values = _together([importance.weight[name] for name in unit])
            for to in _neighbours(indicators.bits, weight_bits):
                changed = {name: (to, pairs[name][1]) for name in unit}
                admitted = _admitted(values, changed, importance)
                yield _step(indicators, "weight", (weight_bits, to), admitted, alpha, changed, pairs, budgets, room)
        if group[0] == layer.name:
            values = _together([importance.act[name] for name in group if leaders[name] == name])
            for to in _neighbours(indicators.bits, act_bits):
                changed = {name: (pairs[name][0], to) for name in group}
                admitted = _admitted(values, changed, importance)
                yield _step(indicators, "act", (act_bits, to), admitted, 1.0, changed, pairs, budgets, room)


def _handovers(pairs: Pairs, budgets: Sequence[Budget]) -> tuple[HandoverUse, ...]:
    uses = [
        HandoverUse(
            budget=budget.cost.name,
            before=one.layers[0],
            after=one.layers[-1],
            used=used,
            unit=budget.cost.unit,
            layers=one.layers,
        )
        for budget in budgets
        for one in handovers_of(budget.cost)
        if (used := handed_over(one, pairs))
    ]
    return tuple(sorted(uses, key=lambda use: -use.used))


def _together(entries: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Importance of several layers by width; None where one of them forbids it."""
    return [None if None in values else fsum(value or 0.0 for value in values) for values in zip(*entries, strict=True)]


def _admitted(values: Sequence[float | None], changed: Pairs, importance: Importance) -> Sequence[float | None]:
    """The values, all forbidden where a changed layer may not take its pair."""
    fits = all(name not in importance.pairs or pair in importance.pairs[name] for name, pair in changed.items())
    return values if fits else [None] * len(values)


def _step(
    indicators: Indicators,
    tensor: Literal["weight", "act"],
    widths: tuple[int, int],
    values: Sequence[float | None],
    factor: float,
    changed: Pairs,
    pairs: Pairs,
    budgets: Sequence[Budget],
    room: Sequence[int],
) -> Step:
    before, after = (values[indicators.bits.index(bits)] for bits in widths)
    objective = None if before is None or after is None else factor * (after - before)
    costs = tuple(cost_change(budget.cost, indicators, pairs, changed) for budget in budgets)
    return Step(
        layer=next(iter(changed)),
        layers=tuple(changed),
        tensor=tensor,
        bits=widths[0],
        to_bits=widths[1],
        objective=objective,
        costs=costs,
        price=tuple(
            objective * budget.limit / cost if objective and cost else None
            for cost, budget in zip(costs, budgets, strict=True)
        ),
        fits=all(cost <= left for cost, left in zip(costs, room, strict=True)),
    )


def _neighbours(bits: Sequence[int], width: int) -> Iterator[int]:
    """The next candidate below and the next above."""
    at = bits.index(width)
    yield from bits[max(at - 1, 0) : at]
    yield from bits[at + 1 : at + 2]


def _price(
    policy: Policy,
    indicators: Indicators,
    budgets: Sequence[Budget],
    row: int,
    best: Policy,
    outliers: OutlierMode,
    solve: Solve,
) -> BudgetPrice:
    budget = budgets[row]
    used = total_cost(budget.cost, indicators, policy.pairs())

    unknown = False

    def search(limit: int) -> Policy | None:
        nonlocal unknown
        moved = [replace(one, limit=limit) if at == row else one for at, one in enumerate(budgets)]
        try:
            return solve(indicators, moved, alpha=policy.alpha, outliers=outliers)
        except PolicyNotFound:
            unknown = True
            return None
        except InfeasiblePolicy:
            return None

    larger = budget.limit + max(1, ceil(budget.limit * NUDGE))
    relaxed, tightened = search(larger), search(budget.limit - max(1, floor(budget.limit * NUDGE)))
    without = search(_beyond(budget, indicators))
    relaxed, without = relaxed or best, without or best  # not found in time: what keeps less keeps these too
    tolerance = _tolerance(best.objective)
    least = min(best.objective, relaxed.objective)  # a search that was stopped may miss what is already known
    return BudgetPrice(
        name=budget.cost.name,
        option=budget.option,
        unit=budget.cost.unit,
        used=used,
        limit=budget.limit,
        slack=budget.limit - used,
        binding=without.objective < best.objective - tolerance,
        shadow_price=(best.objective - least) / (larger - budget.limit),
        relaxed=least,
        tightened=None if tightened is None else tightened.objective,
        without=min(best.objective, without.objective),
        proved=not unknown
        and all(
            one.solver is not None and one.solver.status == "optimal"
            for one in (best, relaxed, without, tightened)
            if one is not None
        ),
    )


def _tolerance(objective: float) -> float:
    """By how much sums of doubles differ in another order."""
    return 1e-12 * max(1.0, abs(objective))


def _beyond(budget: Budget, indicators: Indicators) -> int:
    """A limit that every policy keeps."""
    both = tuple(product(indicators.bits, indicators.bits))
    dearest = sum(max(budget.cost.of_layer(layer, *pair) for pair in both) for layer in indicators.layers)
    dearest += sum(handover_range(one, both)[1] for one in handovers_of(budget.cost))
    return max(budget.limit, dearest + pinned_cost(budget.cost, indicators))
