"""Random instances of the policy search: nets of any magnitude, and budgets from impossible to idle.

An instance is drawn from its seed alone. Drawn are: 5 to 80 layers; 2 to 6 widths; importance and macs over many powers
of ten, from net to net, from layer to layer or from bit to bit; zeros, equal layers, outliers (entries that grow with
the width); layers that read one tensor, ties, lower bounds and pins; one to three limits of BitOps, size, average bits,
activation memory and a latency table with or without conversions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise, permutations, product

import numpy as np

from limpq_deploy.export.timing.table import Conversion, LatencyTable, PartTime
from limpq_deploy.policy.budgets import budgets_of, latency_budget, like_budget
from limpq_deploy.policy.costs import Budget, pinned_cost
from limpq_deploy.policy.indicators import ActMoment, Indicators, LayerEdge, LayerIndicators, PinnedLayer
from limpq_deploy.policy.outliers import OutlierMode

KINDS = (
    *("like", "max_gbitops", "compression_ratio", "max_mib", "max_avg_weight_bits", "max_avg_act_bits", "max_act_mib"),
    *("latency", "conversions"),
)

EITHER = (("like", "max_gbitops"), ("compression_ratio", "max_mib"), ("conversions", "latency"))
"""Kinds that limit one thing."""

PLACES = {-0.02: 0.05, 0.0: 0.05, 0.05: 0.2, 0.15: 0.2, 0.3: 0.2, 0.5: 0.2, 0.7: 0.05, 1.0: 0.05}
"""Where limits stand between the least (0) and the most (1) that any policy takes, and how often."""

MODES: tuple[OutlierMode, ...] = ("forbid", "repair", "keep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One search. ``table``: that of a latency budget. ``kinds``: which budgets were drawn."""

    seed: int
    indicators: Indicators
    budgets: tuple[Budget, ...]
    alpha: float
    outliers: OutlierMode
    kinds: tuple[str, ...]
    table: LatencyTable | None

    @property
    def title(self) -> str:
        """``seed 7: 31 layers, 4 widths, like + latency, forbid``."""
        sizes = f"{len(self.indicators.layers)} layers, {len(self.indicators.bits)} widths"
        return f"seed {self.seed}: {sizes}, {' + '.join(self.kinds)}, {self.outliers}"


def instance(seed: int, *, most_layers: int = 80) -> Instance:
    """The instance of a seed; the same on every machine."""
    rng = np.random.default_rng(seed)
    bits = tuple(sorted(rng.choice([2, 3, 4, 5, 6, 7, 8, 16], int(rng.integers(2, 7)), replace=False).tolist()))
    indicators = _net(rng, bits, int(rng.integers(5, most_layers + 1)))
    indicators = _tied(rng, indicators)
    indicators = _restricted(rng, indicators)
    kinds = tuple(rng.choice(KINDS, int(rng.integers(1, 4)), replace=False).tolist())
    for one, other in EITHER:
        if one in kinds and other in kinds:
            kinds = tuple(kind for kind in kinds if kind != other)
    table = _table(rng, indicators, conversions="conversions" in kinds)
    place = float(
        rng.choice([-0.02, 0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 1.0], p=[0.05, 0.05, 0.2, 0.2, 0.2, 0.2, 0.05, 0.05])
    )
    budgets: list[Budget] = []
    for kind in kinds:
        budgets += _budgets(kind, indicators, table, place + float(rng.uniform(0, 0.1)) * (place > 0))
    return Instance(
        seed=seed,
        indicators=indicators,
        budgets=tuple(budgets),
        alpha=float(rng.choice([0.0, 0.5, 1.0, 2.0, 1e-6, 1e6], p=[0.05, 0.15, 0.35, 0.35, 0.05, 0.05])),
        outliers=MODES[int(rng.integers(3))],
        kinds=kinds,
        table=table if {"latency", "conversions"} & set(kinds) else None,
    )


def _net(rng: np.random.Generator, bits: tuple[int, ...], count: int) -> Indicators:
    size = 10.0 ** rng.uniform(-12, 15)
    spread = rng.choice([0.0, 0.3, 1.0, 3.0])
    wild = rng.uniform() < 0.15  # every layer its own power of ten
    alike = rng.uniform() < 0.15
    fall = 10.0 ** rng.uniform(1, 6) if rng.uniform() < 0.1 else 2.0  # from one bit to the next
    largest_macs = 10.0 ** rng.uniform(1, 15)
    layers: list[LayerIndicators] = []
    for index in range(count):
        own = 10.0 ** rng.uniform(-12, 15) if wild else size * rng.lognormal(0, spread)
        halving = fall ** -np.array(bits, float) if rng.uniform() < 0.9 else np.ones(len(bits))
        weight, act = (own * rng.lognormal(0, 1) * halving * rng.uniform(0.6, 1.6, len(bits)) for _ in range(2))
        if rng.uniform() < 0.8:
            weight, act = np.sort(weight)[::-1], np.sort(act)[::-1]
        if rng.uniform() < 0.05:
            weight[rng.integers(len(bits)) :] = 0.0
        macs = int(largest_macs * 10.0 ** rng.uniform(-3, 0)) if not rng.uniform() < 0.03 else 0
        num_weights = int(max(1, macs // int(rng.choice([1, 49, 196, 784, 3136]))))
        made = LayerIndicators(
            name=f"layer{index}",
            macs=macs,
            num_weights=num_weights,
            weight=tuple(weight.tolist()),
            act=tuple(act.tolist()),
            act_elements=int(10.0 ** rng.uniform(2, 7)),
        )
        if alike and layers and rng.uniform() < 0.7:
            made = replace(layers[-1], name=made.name)
        layers.append(made)
    pinned = (
        PinnedLayer(name="stem", macs=int(largest_macs / 9), num_weights=9408, weight_bits=8, act_bits=8),
        PinnedLayer(name="head", macs=512_000, num_weights=512_000, weight_bits=8, act_bits=8),
    )
    names = ["stem", *(layer.name for layer in layers), "head"]
    edges = [LayerEdge(producer=a, consumer=b, elements=int(rng.integers(10**3, 10**6))) for a, b in pairwise(names)]
    for start in range(1, len(names) - 3, 3):  # residual connections
        edges.append(LayerEdge(producer=names[start], consumer=names[start + 2], elements=int(rng.integers(10**6))))
    return Indicators(model="random", bits=bits, layers=tuple(layers), pinned=pinned, edges=tuple(edges))


def _tied(rng: np.random.Generator, indicators: Indicators) -> Indicators:
    """Some neighbours read one tensor, some share both widths; and what is in memory at every layer."""
    layers = list(indicators.layers)
    grouped, tied = rng.uniform() < 0.4, rng.uniform() < 0.2
    for index in range(1, len(layers)):
        before = layers[index - 1]
        if grouped and rng.uniform() < 0.15:
            group = before.act_group or f"tensor{index}"
            layers[index - 1] = replace(before, act_group=group)
            layers[index] = replace(layers[index], act=before.act, act_elements=before.act_elements, act_group=group)
        elif tied and rng.uniform() < 0.1:
            tie = before.tie or f"tie{index}"
            layers[index - 1], layers[index] = replace(before, tie=tie), replace(layers[index], tie=tie)
    leader: dict[str, str] = {}
    lead = [leader.setdefault(layer.act_group or layer.name, layer.name) for layer in layers]
    moments = []
    for index in range(len(layers)):
        near = {lead[at]: layers[at].act_elements or 0 for at in range(max(0, index - 2), index + 1)}
        moments.append(ActMoment(name=layers[index].name, fixed_bits=int(rng.integers(10**4)), tensors=near))
    return replace(indicators, layers=tuple(layers), moments=tuple(moments))


def _restricted(rng: np.random.Generator, indicators: Indicators) -> Indicators:
    """Lower bounds and pins on some layers, the same for layers that share widths."""
    if rng.uniform() < 0.6:
        return indicators
    everything = tuple(product(indicators.bits, indicators.bits))
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    layers = []
    for layer in indicators.layers:
        pairs = None
        if layer.act_group is None and layer.tie is None and rng.uniform() < 0.3:
            least = int(rng.choice(indicators.bits))
            pairs = tuple(pair for pair in everything if min(pair) >= least)
            if rng.uniform() < 0.2:
                pairs = (everything[int(rng.integers(len(everything)))],)
            found[layer.name] = pairs
        layers.append(replace(layer, pairs=pairs))
    return replace(indicators, layers=tuple(layers))


def _table(rng: np.random.Generator, indicators: Indicators, *, conversions: bool) -> LatencyTable:
    """Times of two or three precisions, the widest of which holds all candidates."""
    widest = indicators.bits[-1]
    precisions = sorted({(4, 4), (4, 8), (8, 8), (widest, widest)} & {(a, b) for a in (4, 8, 16) for b in (4, 8, 16)})
    precisions = [one for one in precisions if max(one) <= widest] or [(widest, widest)]
    if (widest, widest) not in precisions:
        precisions.append((widest, widest))
    speed = 10.0 ** rng.uniform(-6, 2)
    times = [
        PartTime(layers=(name,), weight_bits=w, act_bits=a, ms=speed * (0.3 + w * a / 64) * rng.uniform(0.5, 1.5))
        for name in [layer.name for layer in indicators.layers] + [layer.name for layer in indicators.pinned]
        for w, a in (*precisions, *([(8, 8)] if name in ("stem", "head") and (8, 8) not in precisions else []))
    ]
    changes = [
        Conversion(before=before, after=after, ms=speed * rng.uniform(0, 0.2), ns_per_element=rng.uniform(0, 0.05))
        for before, after in permutations(precisions, 2)
        if conversions
    ]
    return LatencyTable(
        model="random", device="made up", times=tuple(times), conversions=tuple(changes), other_ms=speed / 10
    )


def _budgets(kind: str, indicators: Indicators, table: LatencyTable, place: float) -> Sequence[Budget]:
    """The budget of one kind at a place between the least (0) and the most (1) that any policy takes, or beyond."""
    if kind == "like":
        low, high = indicators.bits[0], indicators.bits[-1]
        return [like_budget(indicators, *(max(1, round(low + place**0.5 * (high - low))) if place > 0 else low,) * 2)]
    if kind in ("latency", "conversions"):
        return [_at(place, latency_budget(indicators, table, 1), indicators)]
    if kind == "max_act_mib":
        largest = max(m.fixed_bits + indicators.bits[-1] * sum(m.tensors.values()) for m in indicators.moments or ())
        share = indicators.bits[0] / indicators.bits[-1]
        mib = Fraction(largest, 2**23) * Fraction(share + (1 - share) * place)
        return budgets_of("max_act_mib", indicators, mib)
    [made] = budgets_of(kind, indicators, 4)
    return [_at(place, made, indicators)]


def _at(place: float, budget: Budget, indicators: Indicators) -> Budget:
    """The budget with its limit at this place between the cheapest and the dearest pair of every layer."""
    both = tuple(product(indicators.bits, indicators.bits))
    costs = [[budget.cost.of_layer(layer, *pair) for pair in (layer.pairs or both)] for layer in indicators.layers]
    low, high = (sum(map(pick, costs)) for pick in (min, max))
    limit = pinned_cost(budget.cost, indicators) + low + int(Fraction(place) * (high - low))
    return replace(budget, limit=max(0, limit))
