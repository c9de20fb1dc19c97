"""Two policies side by side: the layers whose bits differ, and what that does to the totals."""

from dataclasses import dataclass, field, replace
from math import fsum
from typing import Literal

from limpq_deploy.policy.costs import BitOps, Cost, Pairs, WeightSize, total_cost
from limpq_deploy.policy.importance_names import SCALE, carried, read_by
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.objective import check_covers, terms_of
from limpq_deploy.policy.outliers import OutlierMode, treat_outliers
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.widths import guessed_note, knowing

COSTS: tuple[Cost, Cost] = (BitOps(pinned=True), WeightSize())

Terms = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """A layer whose bits differ. The changes (second minus first) are None without indicators: ``bitops``; ``size`` in
    bits; ``objective``, where a tied activation is charged to the first layer of its group."""

    name: str
    before: LayerBits
    after: LayerBits
    bitops: int | None = None
    size: int | None = None
    objective: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalChange:
    """One total of both policies, pinned layers included; ``unit`` is empty for the objective."""

    name: str
    unit: str
    before: int | float
    after: int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDiff:
    """What differs between two policies.

    ``first`` and ``second`` name them. ``layers`` in the first one's order; ``same``: layers with equal bits;
    ``only_first`` and ``only_second``: layers that the other one does not have. ``totals``: BitOps and size where
    indicators were given; the objective on one yardstick, or as the files record it where their alpha is the same.
    ``importance``, ``alpha`` and ``outliers``: of that yardstick. ``notes``: what could not be compared, and why.
    """

    first: str
    second: str
    layers: tuple[LayerChange, ...]
    same: int
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    totals: tuple[TotalChange, ...] = ()
    alpha: float | None = None
    outliers: OutlierMode | None = None
    notes: tuple[str, ...] = ()
    importance: str | None = None
    format: Literal["limpq.policy-diff/1"] = field(default="limpq.policy-diff/1")

    @property
    def equal(self) -> bool:
        """Whether both have the same layers with the same bits."""
        return not (self.layers or self.only_first or self.only_second)


def diff_policies(
    first: Policy,
    second: Policy,
    *,
    indicators: Indicators | None = None,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
    names: tuple[str, str] = ("first", "second"),
) -> PolicyDiff:
    """Compare two policies.

    With ``indicators``, both must cover its searched layers (ModelError); totals are exact. Bits need not be
    candidates: costs are known at any, and where no importance was learned a note says that objectives are estimates.
    The objective is computed for both by one measure of ``importance`` with one ``alpha`` (defaults: the policies',
    where they are the same, else those of a search on these indicators, `recipes.one_recipe`) and one treatment of
    ``outliers`` (default: repair where both were searched so, else the values as they are, which equal the forbidding
    search's on every entry that it admits).
    """
    before, after = first.pairs(), second.pairs()
    both = [name for name in before if name in after]
    changed = [name for name in both if before[name] != after[name]]
    notes = []
    if indicators is not None:
        measures = {policy.importance or SCALE for policy in (first, second)}
        own = measures.pop() if len(measures) == 1 else None
        own = own if own in carried(indicators) else None
        recipe = one_recipe(indicators, importance=importance or own, alpha=alpha)
        importance = recipe.importance
        if alpha is None and first.alpha != second.alpha:
            notes.append(
                f"{names[0]} has alpha {first.alpha:g}, {names[1]} {second.alpha:g}: both are priced with the alpha "
                f"{recipe.alpha:g} of a search"
            )
            alpha = recipe.alpha
        elif alpha is None and own is None:
            alpha = recipe.alpha
        indicators = read_by(indicators, importance)
    if alpha is None:
        alpha = first.alpha if first.alpha == second.alpha else None
        if alpha is None:
            notes.append(
                f"objectives not compared: {names[0]} has alpha {first.alpha:g}, {names[1]} {second.alpha:g}; "
                "give --alpha and the indicators"
            )
    totals: list[TotalChange] = []
    changes = {name: LayerChange(name=name, before=first.bits[name], after=second.bits[name]) for name in changed}
    if indicators is None:
        if alpha is not None:
            totals.append(TotalChange(name="objective", unit="", before=first.objective, after=second.objective))
            notes.append("objectives as the files record them; give the indicators for BitOps and size")
    else:
        outliers = outliers or _mode(first, second)
        indicators = knowing(indicators, before, after)
        for pairs, name in ((before, names[0]), (after, names[1])):
            check_covers(indicators, pairs, name)
        totals += [_total(cost, indicators, before, after) for cost in COSTS]
        terms = None
        if alpha is not None:
            treated = treat_outliers(indicators, outliers)
            terms = (
                terms_of(indicators, treated, before, alpha, names[0]),
                terms_of(indicators, treated, after, alpha, names[1]),
            )
            values = [fsum(value for both in side.values() for value in both) for side in terms]
            totals.append(TotalChange(name="objective", unit="", before=values[0], after=values[1]))
            guessed = guessed_note(indicators, before, after)
            notes += [guessed] if guessed is not None else []
        sizes = {layer.name: layer for layer in indicators.layers}
        changes = {name: _priced(change, sizes[name], terms) for name, change in changes.items()}
    return PolicyDiff(
        first=names[0],
        second=names[1],
        layers=tuple(changes.values()),
        same=len(both) - len(changed),
        only_first=tuple(name for name in before if name not in after),
        only_second=tuple(name for name in after if name not in before),
        totals=tuple(totals),
        importance=importance if totals else None,
        alpha=alpha if totals else None,
        outliers=outliers if indicators is not None else None,
        notes=tuple(notes),
    )


def _mode(first: Policy, second: Policy) -> OutlierMode:
    modes = {policy.outliers.mode if policy.outliers is not None else None for policy in (first, second)}
    return "repair" if modes == {"repair"} else "keep"


def _total(cost: Cost, indicators: Indicators, before: Pairs, after: Pairs) -> TotalChange:
    return TotalChange(
        name=cost.name,
        unit=cost.unit,
        before=total_cost(cost, indicators, before),
        after=total_cost(cost, indicators, after),
    )


def _priced(change: LayerChange, layer: LayerIndicators, terms: tuple[Terms, Terms] | None) -> LayerChange:
    bitops, size = (
        cost.of_layer(layer, *change.after.pair) - cost.of_layer(layer, *change.before.pair) for cost in COSTS
    )
    objective = None if terms is None else sum(terms[1][layer.name]) - sum(terms[0][layer.name])
    return replace(change, bitops=bitops, size=size, objective=objective)
