"""The objective of a given policy, recomputed from the importance itself and not from any solver's program.

sum_l alpha * I_w[l][w_l] + I_a[l][a_l],  an act_group's I_a counted once
"""

from collections.abc import Iterable
from math import fsum

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.policy.costs import Pairs
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import Importance


def objective_of(indicators: Indicators, importance: Importance, pairs: Pairs, alpha: float, origin: str) -> float:
    """Objective of ``pairs``; see `terms_of`, whose errors it raises."""
    terms = terms_of(indicators, importance, pairs, alpha, origin)
    return fsum(value for both in terms.values() for value in both)


def terms_of(
    indicators: Indicators, importance: Importance, pairs: Pairs, alpha: float, origin: str
) -> dict[str, tuple[float, float]]:
    """Share of the objective by layer: (weight, already times alpha; activation). A tied activation is charged to the
    first layer of its group, the others get 0. ``origin`` names the policy in errors.

    Raises ModelError where the policy does not fit the indicators (`check_covers`), takes an entry that the treatment
    of outliers forbids, or gives layers of one ``act_group`` different activation bits.
    """
    check_covers(indicators, pairs, origin)
    check_ties(indicators, pairs, origin)
    leaders = group_leaders(indicators)
    terms = {}
    for layer in indicators.layers:
        weight_bits, act_bits = pairs[layer.name]
        weight = alpha * _entry(indicators, importance, "weight", layer.name, weight_bits, origin)
        act = _entry(indicators, importance, "activation", layer.name, act_bits, origin)
        terms[layer.name] = (weight, act if leaders[layer.name] == layer.name else 0.0)
    return terms


def group_leaders(indicators: Indicators) -> dict[str, str]:
    """The first layer of each layer's act_group, by layer; an untied layer leads itself."""
    first: dict[str, str] = {}
    return {
        layer.name: layer.name if layer.act_group is None else first.setdefault(layer.act_group, layer.name)
        for layer in indicators.layers
    }


def check_covers(indicators: Indicators, pairs: Pairs, origin: str) -> None:
    """Every searched layer once, no other, and only candidate bits. Raises ModelError with the names."""
    searched = [layer.name for layer in indicators.layers]
    missing = [name for name in searched if name not in pairs]
    unknown = sorted(set(pairs) - set(searched))
    if missing or unknown:
        found = "; ".join(
            f"{what} {_listed(names)}" for what, names in (("no entry for", missing), ("unknown", unknown)) if names
        )
        raise ModelError(
            f"{origin} does not fit the indicators of {indicators.model!r} with its {len(searched)} searched layers: "
            f"{found}; take the indicators that the policy was searched with"
        )
    for name, pair in pairs.items():
        for kind, bits in zip(("weight", "activation"), pair, strict=True):
            if bits not in indicators.bits:
                raise ModelError(
                    f"{origin} gives layer {name!r} {bits} {kind} bits; the indicators of {indicators.model!r} know "
                    f"{', '.join(map(str, indicators.bits))}"
                )


def check_ties(indicators: Indicators, pairs: Pairs, origin: str) -> None:
    """Raises ModelError where layers that read one tensor have different activation bits."""
    leaders = group_leaders(indicators)
    for layer in indicators.layers:
        other = leaders[layer.name]
        if pairs[other][1] != pairs[layer.name][1]:
            raise ModelError(
                f"{origin} gives {other!r} {pairs[other][1]} and {layer.name!r} {pairs[layer.name][1]} activation "
                f"bits, but both read the tensor {layer.act_group!r}; give them the same"
            )


def _entry(indicators: Indicators, importance: Importance, kind: str, layer: str, bits: int, origin: str) -> float:
    values = (importance.weight if kind == "weight" else importance.act)[layer]
    value = values[indicators.bits.index(bits)]
    if value is None:
        raise ModelError(
            f"{origin} gives layer {layer!r} {bits} {kind} bits, an outlier entry that the indicators forbid; "
            "admit it with --outliers repair or --outliers keep"
        )
    return value


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(repr(plain(name, 60)) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
