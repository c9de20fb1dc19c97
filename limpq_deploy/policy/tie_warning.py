"""Searches in which importance decides nothing: every policy that layers may take has the same."""

from itertools import product

from limpq_deploy.policy.importance_names import SCALE
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import group_leaders
from limpq_deploy.policy.outliers import Importance, treat_outliers
from limpq_deploy.policy.policy import Policy


def tie_warning(policy: Policy, indicators: Indicators) -> str | None:
    """A sentence where all policies have this one's objective, so that a tie chose it; None where they differ, or no
    search found it.

    ``indicators``: the measure and restrictions that the policy was searched with. That is so where a measure knows one
    width alone, relative to which it counts, and the others are of 16 bits and more: a space of native pairs.
    """
    if policy.solver is None or policy.solver.name == "none" or not policy.costs:
        return None
    mode = policy.outliers.mode if policy.outliers is not None else "forbid"
    if not _all_alike(indicators, treat_outliers(indicators, mode), policy.alpha):
        return None
    measure = policy.importance or SCALE
    other = f"; --importance {SCALE} tells them apart" if measure != SCALE and policy.tournament is None else ""
    return (
        f"the measure {measure} decides nothing here: all policies have one importance, and the one of least "
        f"{policy.costs[0].name} was taken{other}"
    )


def _all_alike(indicators: Indicators, importance: Importance, alpha: float) -> bool:
    """Whether every layer has several pairs to choose from, or one, all of one importance; with several in all."""
    leaders, choices = group_leaders(indicators), 0
    everything = tuple(product(indicators.bits, indicators.bits))
    place = {bits: index for index, bits in enumerate(indicators.bits)}
    for layer in indicators.layers:
        values = []
        for weight_bits, act_bits in importance.pairs.get(layer.name, everything):
            weight = importance.weight[layer.name][place[weight_bits]]
            act = importance.act[layer.name][place[act_bits]]
            if weight is not None and act is not None:
                values.append(alpha * weight + (act if leaders[layer.name] == layer.name else 0.0))
        if max(values) - min(values) > 1e-12 * max(values):  # sums of doubles in another order
            return False
        choices += len(values) - 1
    return choices > 0
