"""An independent judge of a search's answer: SciPy's `milp` on a matrix of its own, and exact integers and fractions.

Nothing of the search's program is used: costs are counted here from their definitions, options are one binary for each
layer and pair of widths, layers that share widths are tied by equations, conversions are variables for two precisions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
from random_instances import Instance

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.foreign_output import stdout_to_stderr
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.indicators import ActMoment, LayerIndicators

Pairs = Mapping[str, BitPair]

Key = tuple[str, int, int]
"""Layer, weight bits, activation bits."""

TOLERANCE = Fraction(1, 10**9)
"""Relative, by which two objectives may differ as sums of doubles and ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What SciPy found. ``pairs``: its policy, None without one that keeps every limit exactly; ``finished``: it calls
    that optimal, or says that there is none."""

    pairs: dict[str, BitPair] | None
    finished: bool


def judge(instance: Instance, limit_s: float, below: Fraction | None = None) -> Judged:
    """SciPy's answer (HiGHS at gap 0); its policy is checked in exact integers. ``below``: the exact objective of a
    policy that keeps the limits: options that are worth more are left out, so that values have one size."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    indicators = instance.indicators
    value = prices(instance)
    keys = [key for key, price in value.items() if below is None or price <= below]
    column = {key: at for at, key in enumerate(keys)}
    changes = _changes(instance)
    both = list(changes)
    total = len(keys) + len(both)
    rows: list[dict[int, float]] = []
    low: list[float] = []
    high: list[float] = []

    def add(row: dict[int, float], least: float, most: float) -> None:
        rows.append(row)
        low.append(least)
        high.append(most)

    by_layer: dict[str, list[Key]] = {layer.name: [] for layer in indicators.layers}
    for key in keys:
        by_layer[key[0]].append(key)
    if not all(by_layer.values()):
        return Judged(pairs=None, finished=True)
    for some in by_layer.values():
        add({column[key]: 1.0 for key in some}, 1.0, 1.0)
    for first, second, which in _shared(indicators.layers):
        for width in product(indicators.bits, repeat=len(which)):
            row: dict[int, float] = {}
            for name, sign in ((first, 1.0), (second, -1.0)):
                for key in by_layer[name]:
                    if tuple(key[1:][at] for at in which) == width:
                        row[column[key]] = sign
            add(row, 0.0, 0.0)
    for at, (first, before, second, after) in enumerate(both):
        row = {len(keys) + at: -1.0}
        for name, precision in ((first, before), (second, after)):
            for key in by_layer[name]:
                if _runs_at(instance, name, key[1:]) == precision:
                    row[column[key]] = row.get(column[key], 0.0) + 1.0
        add(row, -np.inf, 1.0)  # both taken: the conversion is paid
    for budget in instance.budgets:
        limit = budget.limit - constant(instance, budget)
        unit = max(limit, 1)
        row = {column[key]: _alone(instance, budget, key) / unit for key in keys}
        if budget.cost.name == "latency":
            row.update({len(keys) + at: changes[change] / unit for at, change in enumerate(both)})
        add(row, -np.inf, limit / unit)
    largest = max((float(value[key]) for key in keys), default=0.0) or 5e-324
    objective = np.array([float(value[key] / Fraction(largest)) * 1e4 for key in keys] + [0.0] * len(both))
    entries = [(at, place, entry) for at, row in enumerate(rows) for place, entry in row.items() if entry]
    matrix = csr_array(
        ([e for _, _, e in entries], ([a for a, _, _ in entries], [p for _, p, _ in entries])), (len(rows), total)
    )
    with stdout_to_stderr():  # HiGHS prints some lines whatever it is told
        done = milp(
            objective,
            integrality=np.array([1] * len(keys) + [0] * len(both)),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, low, high),
            options={"mip_rel_gap": 0.0, "time_limit": limit_s},
        )
    if done.x is None:
        return Judged(pairs=None, finished=done.status == 2)
    pairs = {name: max(some, key=lambda key: done.x[column[key]])[1:] for name, some in by_layer.items()}
    return Judged(pairs=pairs if not faults(instance, pairs) else None, finished=done.status == 0)


def objective_of(instance: Instance, pairs: Pairs) -> Fraction:
    """Exact sum of the importance that a policy takes."""
    value = prices(instance)
    return sum((value[name, *pair] for name, pair in pairs.items()), Fraction(0))


def faults(instance: Instance, pairs: Pairs) -> list[str]:
    """What is wrong with a policy: limits it breaks, widths it may not take, layers that must share widths."""
    found = []
    value = prices(instance)
    for layer in instance.indicators.layers:
        if (layer.name, *pairs[layer.name]) not in value:
            found.append(f"{layer.name} may not take {pairs[layer.name]}")
    for first, second, which in _shared(instance.indicators.layers):
        if any(pairs[first][at] != pairs[second][at] for at in which):
            found.append(f"{first} and {second} share widths")
    for budget in instance.budgets:
        used = constant(instance, budget)
        used += sum(_alone(instance, budget, (name, *pair)) for name, pair in pairs.items())
        if budget.cost.name == "latency":
            for (first, before, second, after), ns in _changes(instance).items():
                taken = (_runs_at(instance, first, pairs[first]), _runs_at(instance, second, pairs[second]))
                used += ns if taken == (before, after) else 0
        if used > budget.limit:
            found.append(f"{budget.option} takes {used} of {budget.limit}")
    return found


def prices(instance: Instance) -> dict[Key, Fraction]:
    """Exact importance of every admitted option; the input of an act_group counts at its first layer."""
    indicators, mode = instance.indicators, instance.outliers
    bits = indicators.bits
    first: dict[str, str] = {}
    admitted = {
        layer.name: list(layer.pairs) if layer.pairs is not None else list(product(bits, bits))
        for layer in indicators.layers
    }
    found: dict[Key, Fraction] = {}
    for layer in indicators.layers:
        leads = layer.act_group is None or first.setdefault(layer.act_group, layer.name) == layer.name
        weights = _treated(bits, layer.weight, {pair[0] for pair in admitted[layer.name]}, mode)
        acts = _treated(bits, layer.act, {pair[1] for pair in admitted[layer.name]}, mode)
        for w, a in admitted[layer.name]:
            if w in weights and a in acts:
                found[layer.name, w, a] = Fraction(instance.alpha) * weights[w] + (acts[a] if leads else 0)
    return found


def constant(instance: Instance, budget: Budget) -> int:
    """What a budget's cost takes whatever the policy is: pinned layers, and other parts."""
    name, pinned = budget.cost.name, instance.indicators.pinned
    if name == "bitops":
        return sum(layer.macs * layer.weight_bits * layer.act_bits for layer in pinned)
    if name == "size":
        return sum(layer.num_weights * layer.weight_bits for layer in pinned)
    if name.startswith("act_memory"):
        return _moment(instance, name).fixed_bits
    if name != "latency":
        return 0
    assert instance.table is not None
    return round(instance.table.other_ms * 10**6) + sum(
        _time(instance, layer.name, (layer.weight_bits, layer.act_bits)) for layer in pinned
    )


def _alone(instance: Instance, budget: Budget, key: Key) -> int:
    """What one layer takes by itself, conversions from and to pinned layers included."""
    layer = next(one for one in instance.indicators.layers if one.name == key[0])
    name, (w, a) = budget.cost.name, key[1:]
    if name in ("bitops", "bitops_searched"):
        return layer.macs * w * a
    if name in ("size", "weight_bits_searched"):
        return layer.num_weights * w
    if name == "act_bits_searched":
        group = [one.name for one in instance.indicators.layers if one.act_group == layer.act_group]
        leads = layer.act_group is None or group[0] == layer.name
        return (layer.act_elements or 0) * a if leads else 0
    if name.startswith("act_memory"):
        return _moment(instance, name).tensors.get(layer.name, 0) * a
    taken = _time(instance, layer.name, (w, a))
    here = _runs_at(instance, layer.name, (w, a))
    for edge in instance.indicators.edges or ():
        if edge.producer in ("stem", "head") and edge.consumer == layer.name:
            taken += _conversion(instance, _runs_at(instance, edge.producer, (8, 8)), here, edge.elements)
        if edge.consumer in ("stem", "head") and edge.producer == layer.name:
            taken += _conversion(instance, here, _runs_at(instance, edge.consumer, (8, 8)), edge.elements)
    return taken


def _moment(instance: Instance, name: str) -> ActMoment:
    return next(one for one in instance.indicators.moments or () if name == f"act_memory at {one.name}")


def _runs_at(instance: Instance, name: str, pair: BitPair) -> BitPair:
    """The measured precision of a layer: the narrowest that holds both widths."""
    assert instance.table is not None
    measured = [(t.weight_bits, t.act_bits) for t in instance.table.times if t.layers == (name,)]
    holding = [one for one in measured if one[0] >= pair[0] and one[1] >= pair[1]]
    return min(holding, key=lambda one: (one[0] * one[1], one))


def _time(instance: Instance, name: str, pair: BitPair) -> int:
    assert instance.table is not None
    at = _runs_at(instance, name, pair)
    ms = next(t.ms for t in instance.table.times if t.layers == (name,) and (t.weight_bits, t.act_bits) == at)
    return round(ms * 10**6)


def _conversion(instance: Instance, before: BitPair, after: BitPair, elements: int) -> int:
    assert instance.table is not None
    for one in instance.table.conversions:
        if (one.before, one.after) == (before, after):
            return round(one.ms * 10**6 + one.ns_per_element * elements)
    return 0


def _changes(instance: Instance) -> dict[tuple[str, BitPair, str, BitPair], int]:
    """Conversions between searched layers, in ns, by both ends and their precisions."""
    if instance.table is None or not instance.table.conversions:
        return {}
    found: dict[tuple[str, BitPair, str, BitPair], int] = {}
    searched = {layer.name for layer in instance.indicators.layers}
    for edge in instance.indicators.edges or ():
        if {edge.producer, edge.consumer} <= searched:
            for one in instance.table.conversions:
                ns = _conversion(instance, one.before, one.after, edge.elements)
                if ns:
                    key = (edge.producer, one.before, edge.consumer, one.after)
                    found[key] = found.get(key, 0) + ns
    return found


def _treated(bits: Sequence[int], learned: Sequence[float], admitted: set[int], mode: str) -> dict[int, Fraction]:
    """Importance by width: an entry below that of the next width is left out, mended or kept."""
    widths = [width for width in bits if width in admitted]
    values = [learned[list(bits).index(width)] for width in widths]
    if mode == "keep":
        return {width: Fraction(value) for width, value in zip(widths, values, strict=True)}
    if mode == "repair":
        from limpq_deploy.policy.outliers import non_increasing  # tested against its definition elsewhere

        return {width: Fraction(value) for width, value in zip(widths, non_increasing(tuple(values)), strict=True)}
    kept = [here >= after for here, after in pairwise(values)] + [True]
    return {width: Fraction(value) for width, value, good in zip(widths, values, kept, strict=True) if good}


def _shared(layers: Sequence[LayerIndicators]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Two layers and what they share: 0 the weight bits, 1 the activation bits."""
    found: list[tuple[str, str, tuple[int, ...]]] = []
    first: dict[tuple[str, str], str] = {}
    for layer in layers:
        for kind, label, which in (("group", layer.act_group, (1,)), ("tie", layer.tie, (0, 1))):
            if label is not None and (other := first.setdefault((kind, label), layer.name)) != layer.name:
                found.append((other, layer.name, which))
    return found


def gap(ours: Fraction, theirs: Fraction) -> float:
    """By how much an objective is above another one, in shares of it."""
    return float((ours - theirs) / max(abs(theirs), Fraction(5e-324)))


def same_as_stated(stated: float, exact: Fraction) -> bool:
    return abs(Fraction(stated) - exact) <= TOLERANCE * abs(exact) + Fraction(5e-324)
