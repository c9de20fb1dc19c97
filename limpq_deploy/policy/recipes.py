"""How a policy is found: on which measure, with which alpha and treatment of outliers; and what to take by default.

Where nothing else is asked for, every search goes by what the build's tournament found best (`Indicators.found`), else
by the measure's own settings and the best measure that the indicators carry.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.budgets import BUDGETS
from limpq_deploy.policy.costs import BitOps, Budget, pinned_cost
from limpq_deploy.policy.importance_names import MEASURES, carried, default_measure, read_by
from limpq_deploy.policy.indicators import Found, Indicators
from limpq_deploy.policy.outliers import OutlierMode

MEASURED_COSTS = frozenset(row.counts for row in BUDGETS.values() if row.source is not None)
"""Costs that come from a file, of which a limit alone says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a policy is found: the program on one measure, with ``alpha`` and a treatment of outliers."""

    importance: str
    alpha: float
    outliers: OutlierMode

    @property
    def title(self) -> str:
        """``kl, alpha 1, repair``."""
        return f"{self.importance}, alpha {self.alpha:g}, {self.outliers}"


def one_recipe(
    indicators: Indicators,
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
) -> Recipe:
    """What a build found best, where nothing is asked for but what it found; else the measure's own settings, and the
    best measure that the indicators carry."""
    found = _told(indicators)
    name = importance or (default_measure(indicators) if found is None else found.importance)
    info = MEASURES.get(name, MEASURES["kl"])
    own_alpha, own_outliers = info.alpha, info.outliers
    if found is not None and name == found.importance:
        own_alpha, own_outliers = found.alpha, found.outliers
    return Recipe(
        importance=name,
        alpha=own_alpha if alpha is None else alpha,
        outliers=own_outliers if outliers is None else outliers,
    )


def read_as(
    indicators: Indicators,
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
) -> tuple[Indicators, Recipe]:
    """Indicators read by a recipe's measure, and the recipe. Raises what `read_by` raises."""
    recipe = one_recipe(indicators, importance=importance, alpha=alpha, outliers=outliers)
    return read_by(indicators, recipe.importance), recipe


def recipes(
    indicators: Indicators,
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
) -> tuple[Recipe, ...]:
    """Every setting worth a preview; what is asked for is not varied.

    For each measure: its own alpha, half and twice that; its own treatment of outliers, and repair.
    """
    found: dict[Recipe, None] = {}
    for name in carried(indicators) if importance is None else (importance,):
        own = one_recipe(replace(indicators, found=None), importance=name, alpha=alpha, outliers=outliers)
        modes: tuple[OutlierMode, ...] = (own.outliers, "repair") if outliers is None else (outliers,)
        for mode in modes:
            for factor in (1.0, 0.5, 2.0) if alpha is None else (1.0,):
                found[replace(own, alpha=own.alpha * factor, outliers=mode)] = None
    return tuple(found)


def usual_recipe(
    indicators: Indicators, *, alpha: float | None = None, outliers: OutlierMode | None = None
) -> Recipe | None:
    """That whose policy is taken where previews do not tell it from the best and training follows: ``kl`` with its own
    settings, which ended better than uniform bits in such cases (docs/importance.md). None for indicators without."""
    if "kl" not in carried(indicators):
        return None
    return one_recipe(replace(indicators, found=None), importance="kl", alpha=alpha, outliers=outliers)


def found_by(
    recipe: Recipe, restricted: Indicators, budgets: Sequence[Budget], uniform: BitPair | None = None
) -> Found:
    """The record of what a build chose within these budgets and restrictions; ``uniform``: where that won."""
    return Found(
        importance=recipe.importance,
        alpha=recipe.alpha,
        outliers=recipe.outliers,
        uniform=uniform,
        limits=_limits(restricted, budgets) if uniform is not None else None,
        space=_space(restricted) if uniform is not None else None,
    )


def own_uniform(restricted: Indicators, budgets: Sequence[Budget]) -> BitPair | None:
    """The uniform bits that the build itself chose within these very budgets and restrictions; None for all others."""
    found = restricted.found
    if found is None or found.uniform is None or found.limits is None:
        return None
    same = found.limits == _limits(restricted, budgets) and found.space == _space(restricted)
    return found.uniform if same else None


def _told(indicators: Indicators) -> Found | None:
    """What a build found, unless the indicators do not carry its measure: they were read by another."""
    found = indicators.found
    return None if found is None or found.importance not in carried(indicators) else found


def _limits(indicators: Indicators, budgets: Sequence[Budget]) -> dict[str, int] | None:
    """Limits by what they count, BitOps without pinned layers; None where a cost comes from a file."""
    limits: dict[str, int] = {}
    for budget in budgets:
        name, limit = budget.cost.name, budget.limit
        if name.partition(" at ")[0] in MEASURED_COSTS:
            return None
        if budget.cost == BitOps(pinned=True):
            name, limit = BitOps(pinned=False).name, limit - pinned_cost(budget.cost, indicators)
        limits[name] = min(limit, limits.get(name, limit))
    return limits


def _space(indicators: Indicators) -> str:
    """A digest of the pairs and ties that layers are restricted to."""
    spaces = [(layer.name, layer.pairs, layer.tie) for layer in indicators.layers]
    return hashlib.sha256(json.dumps(spaces).encode()).hexdigest()
