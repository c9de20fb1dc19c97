"""Has joint training settled? Judged by the policy that comes of it, not by the order of the scales. No torch here.

Snapshots of the indicators are taken every twentieth of the training. Those of its last part answer three questions:
how far each scale moved from its first value, how far it still swings, and whether an earlier snapshot would have given
another policy. A policy's regret is its objective under the final indicators over the least one there, minus 1: many
layers may change bits among policies of nearly equal worth, so regret decides and the changed share is given beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.search import search_policy

CHECKS = 20
"""Snapshots in a whole training."""

LAST_PART = 0.3
"""Share of the training whose snapshots are compared with its end."""

EARLIEST = 0.5
"""Share of the planned steps before which a training is not stopped early."""

REGRET = 0.01
"""A policy whose objective is this share above the best one is as good, for what indicators are worth."""

LEAST_MOVEMENT = 0.02
"""Scales that moved less than this share of themselves say more about their first values than about importance."""

ALPHA = 2.0
KEY = "snapshots"

Pairs = Mapping[str, BitPair]
Find = Callable[[Indicators], Pairs]
"""Indicators -> the policy that they give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Scales after ``step`` steps: {layer: one number per bit-width}."""

    step: int
    weight: dict[str, tuple[float, ...]]
    act: dict[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """The policies of earlier snapshots beside the final one, oldest first: ``changed``, share of layers with other
    bits, and ``regret``."""

    steps: tuple[int, ...]
    changed: tuple[float, ...]
    regret: tuple[float, ...]

    @property
    def stands(self) -> bool:
        """Whether every earlier policy is as good as the final one."""
        return all(regret <= REGRET for regret in self.regret)

    def as_json(self) -> dict[str, list[float]]:
        return {"steps": list(self.steps), "changed": list(self.changed), "regret": list(self.regret)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Stability":
        return cls(steps=tuple(found["steps"]), changed=tuple(found["changed"]), regret=tuple(found["regret"]))

    def sentence(self) -> str:
        """``policy since step 700: 4 % of layers changed, regret 0.2 %``."""
        if not self.steps:
            return "no earlier policy to compare with"
        return (
            f"policy since step {self.steps[0]}: {100 * max(self.changed):.0f} % of layers changed, "
            f"regret {100 * max(self.regret):.1f} %"
        )


class Snapshots:
    """Indicators along a training; part of its checkpoints."""

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []

    def take(self, step: int, indicators: Indicators) -> None:
        """Remember the scales after ``step`` steps."""
        self.taken.append(
            Snapshot(
                step=step,
                weight={layer.name: layer.weight for layer in indicators.layers},
                act={layer.name: layer.act for layer in indicators.layers},
            )
        )

    def last_part(self, step: int) -> list[Snapshot]:
        """Those of the last part of a training of ``step`` steps, its end left out."""
        return [one for one in self.taken if (1 - LAST_PART) * step <= one.step < step]

    def state(self) -> tuple[dict[str, Any], Any]:
        return {}, as_json(self.taken)

    def restore(self, tensors: Mapping[str, Any], facts: Any) -> None:
        self.taken = from_json(facts)


def due(step: int, steps: int) -> bool:
    """Whether a snapshot is taken after this step of so many."""
    return step == steps or step % max(1, steps // CHECKS) == 0


def snapshots_of(indicators: Indicators) -> list[Snapshot]:
    """Those of the last part of the training that made these indicators; none where it recorded none."""
    found = indicators.source.get(KEY) if isinstance(indicators.source, dict) else None
    return from_json(found or [])


def convergence_sentence(source: Any) -> str:
    """What a joint training says of its policies in one line; empty where it recorded nothing."""
    policies = source.get("convergence", {}).get("policies", {}) if isinstance(source, dict) else {}
    if not policies:
        return ""
    like, worst = max(policies.items(), key=lambda item: max(item[1]["regret"]))
    return f"{Stability.from_json(worst).sentence()} at the BitOps of {like}"


def at_snapshot(indicators: Indicators, snapshot: Snapshot) -> Indicators:
    """Indicators with the scales of an earlier step."""
    return replace(
        indicators,
        layers=tuple(
            replace(layer, weight=snapshot.weight[layer.name], act=snapshot.act[layer.name])
            for layer in indicators.layers
        ),
    )


def stability(
    indicators: Indicators, earlier: Sequence[tuple[int, Indicators]], find: Find, *, alpha: float
) -> Stability:
    """What ``find`` makes of the final indicators and of earlier ones (with their steps); objectives with ``repair``ed
    scales, under which every policy has one."""
    final = find(indicators)
    importance = treat_outliers(indicators, "repair")
    least = objective_of(indicators, importance, final, alpha, "the final policy")
    changed, regret = [], []
    for _, before in earlier:
        policy = find(before)
        changed.append(sum(policy[name] != pair for name, pair in final.items()) / len(final))
        value = objective_of(indicators, importance, policy, alpha, "an earlier policy")
        regret.append(max(0.0, value / least - 1) if least > 0 else 0.0)
    return Stability(steps=tuple(step for step, _ in earlier), changed=tuple(changed), regret=tuple(regret))


def stability_at_uniform(indicators: Indicators, earlier: Sequence[Snapshot]) -> dict[str, Stability]:
    """At the BitOps of the uniform policies between the narrowest and the widest: what can be said before anybody has
    set a budget. Budgets that nothing meets are left out."""
    before = [(one.step, at_snapshot(indicators, one)) for one in earlier]
    found = {}
    for weight_bits, act_bits in _middle_pairs(indicators):
        budget = like_budget(indicators, weight_bits, act_bits)

        def find(scales: Indicators, budget: Any = budget) -> Pairs:
            return search_policy(scales, [budget], alpha=ALPHA, outliers="repair", solver="own").pairs()

        try:
            found[f"w{weight_bits}a{act_bits}"] = stability(indicators, before, find, alpha=ALPHA)
        except LimpqError:
            continue
    return found


def spread(indicators: Indicators, earlier: Sequence[Snapshot]) -> dict[str, dict[str, list[float]]]:
    """Of every layer and width: how far the scale moved (``s / s_first - 1``), and how far it swung in the last part
    (largest over smallest, minus 1), as {layer: {weight_moved, act_moved, weight_swing, act_swing}}."""
    found = {}
    for layer in indicators.layers:
        entry: dict[str, list[float]] = {}
        for kind, now, first in (("weight", layer.weight, layer.weight_init), ("act", layer.act, layer.act_init)):
            if first is not None:
                entry[f"{kind}_moved"] = [_change(s, s0) for s, s0 in zip(now, first, strict=True)]
            over_time = [getattr(one, kind)[layer.name] for one in earlier] + [now]
            entry[f"{kind}_swing"] = [_change(max(s), min(s)) for s in zip(*over_time, strict=True)]
        found[layer.name] = entry
    return found


def _change(now: float, before: float) -> float:
    """``now / before - 1``; 0 for the scale 0 of an activation that is kept in float."""
    return round(now / before - 1, 4) if before else 0.0


def as_json(snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """Plain lists and numbers."""
    return [
        {
            "step": one.step,
            "weight": {name: list(values) for name, values in one.weight.items()},
            "act": {name: list(values) for name, values in one.act.items()},
        }
        for one in snapshots
    ]


def from_json(found: Any) -> list[Snapshot]:
    """What `as_json` gave, before or after a file."""
    return [
        Snapshot(
            step=one["step"],
            weight={name: tuple(values) for name, values in one["weight"].items()},
            act={name: tuple(values) for name, values in one["act"].items()},
        )
        for one in found
    ]


def _middle_pairs(indicators: Indicators) -> list[BitPair]:
    """Uniform (weight, activation) bits between the extremes, or all where there is nothing between."""
    pairs = [layer.pairs for layer in indicators.layers]
    acts = {act for some in pairs if some is not None for _, act in some} if all(pairs) else set()
    widths = sorted({w for some in pairs if some is not None for w, _ in some}) if acts else list(indicators.bits)
    inner = widths[1:-1] or widths
    return [(width, next(iter(acts)) if len(acts) == 1 else width) for width in inner]
