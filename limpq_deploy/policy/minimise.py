"""A cost as the objective: the least that any policy reaches, and of the policies that reach it the most accurate.

    minimise  cost(policy)     then     minimise  importance(policy)     subject to     cost(policy) <= that least

within the budgets, and, where it is asked, with no more importance than uniform bits have.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any

from limpq_deploy.calibration.errors import PolicyNotFound, SettingError
from limpq_deploy.calibration.numbers.formats import FORMATS, width_name
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.blocks import build_program
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, MINIMISED, of_kind, option_of, parse_like
from limpq_deploy.policy.costs import Budget, LayerShape, uniform_pairs
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.infeasible import smallest_beside, total_of
from limpq_deploy.policy.objective import group_leaders, objective_of
from limpq_deploy.policy.outliers import Importance, treat_outliers
from limpq_deploy.policy.policy import Minimised, Policy, Solve
from limpq_deploy.policy.recipes import Recipe
from limpq_deploy.policy.solver.deadline import NEVER, Deadline

NO_LIMIT = 10**15
"""A value of such a budget that limits nothing."""

STEPS = 2**36
"""Importance is counted in so many parts of the uniform policy's."""

BEYOND = 2**48
"""Steps of a layer's importance at which counting ends: far beyond any bound, and thousands of them fit 64 bits."""


@dataclass(frozen=True, slots=True)
class _ImportanceCost:
    """Importance in whole ``step``s, `BEYOND` at most; an act_group's counts at its first layer. An entry that is
    forbidden has no option, so that its price does not matter."""

    importance: Importance
    bits: tuple[int, ...]
    leaders: Mapping[str, str]
    alpha: float
    step: float

    @property
    def name(self) -> str:
        return "importance"

    @property
    def unit(self) -> str:
        return "steps of importance"

    @property
    def pinned(self) -> bool:
        return False

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        weight = self.importance.weight[layer.name][self.bits.index(weight_bits)] or 0.0
        act = self.importance.act[layer.name][self.bits.index(act_bits)] or 0.0
        own = self.alpha * weight + (act if self.leaders[layer.name] == layer.name else 0.0)
        return round(min(own / self.step, BEYOND))


def asked_to_minimise(budgets: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Settings of budgets with one for the minimised cost that limits nothing.

    Raises SettingError for a cost that is none of `MINIMISED`, one that is limited too, and one that lacks its file.
    """
    if what not in MINIMISED:
        raise SettingError(f"--minimise is {what!r}; expected one of {', '.join(MINIMISED)}")
    name = MINIMISED[what]
    row = BUDGETS[name]
    alike = (name,) if row.kind is None else of_kind(row.kind)
    if limited := [option_of(one) for one in alike if budgets.get(one) is not None]:
        raise SettingError(f"--minimise {what} and {' and '.join(limited)} are about one thing; give one of them")
    if row.source is not None and budgets.get(row.source) is None:
        file = COST_FILES[row.source]
        raise SettingError(f"--minimise {what} needs {file.holds}; give {option_of(row.source)} {file.metavar}")
    return {**budgets, name: NO_LIMIT}


def minimise(
    indicators: Indicators,
    budgets: Sequence[Budget],
    what: str,
    recipe: Recipe,
    *,
    no_worse_than: str | None = None,
    solve: Solve,
    deadline: Deadline = NEVER,
) -> Policy:
    """The policy of least cost, and among those of that cost the one of least importance.

    ``indicators`` read by the recipe's measure and restricted; ``budgets`` with that of `asked_to_minimise`.
    ``no_worse_than``: bits such as "w8a8", or a format, whose uniform policy's importance is not exceeded (by more than
    rounding to `STEPS`). Raises SettingError for bits that the indicators do not know, InfeasiblePolicy where no policy
    meets budgets and bound, PolicyNotFound where time ended before one was found.
    """
    counts = BUDGETS[MINIMISED[what]].counts
    target = next(one for one in budgets if one.cost.name == counts)
    bounds = [one for one in budgets if one is not target]
    importance = treat_outliers(indicators, recipe.outliers)
    if no_worse_than is not None:
        bounds.append(_importance_budget(indicators, importance, recipe, no_worse_than))
    program = build_program(indicators, importance, (target, *bounds), alpha=recipe.alpha)
    least = smallest_beside(program, 0, deadline)
    if least.cost is None:
        if bounds:
            solve(indicators, bounds, alpha=recipe.alpha, outliers=recipe.outliers)  # which says what excludes what
        raise PolicyNotFound(f"--minimise {what}: no policy was found in time; relax the budgets")
    total = total_of(target, indicators, program, 0, least.cost)
    if program.rounded:  # each layer's cost was rounded down, by less than a step
        total += program.steps[0] * len(indicators.layers)
    limit = replace(target, limit=total, option=f"--minimise {what}")
    policy = solve(indicators, (limit, *bounds), alpha=recipe.alpha, outliers=recipe.outliers)
    found = Minimised(
        name=target.cost.name,
        least=next(use.used for use in policy.costs if use.name == target.cost.name),
        unit=target.cost.unit,
        proved=least.proved and not program.rounded,
        no_worse_than=no_worse_than,
    )
    own = tuple(use for use in policy.costs if use.name != "importance")
    return replace(policy, importance=recipe.importance, minimised=found, costs=own)


def _importance_budget(indicators: Indicators, importance: Importance, recipe: Recipe, than: str) -> Budget:
    """At most the importance of uniform bits, where an outlier that is forbidden has its repaired price."""
    pair = _pair(than)
    if unknown := [width for width in pair if width not in indicators.bits]:
        known = ", ".join(map(width_name, indicators.bits))
        raise SettingError(
            f"--no-worse-than is {than}; the indicators of {indicators.model!r} know no importance at "
            f"{width_name(unknown[0])} bits, but at {known}; name one of these, or learn more (--bits of indicators)"
        )
    admitted = admitted_pairs(indicators)
    if refused := [one.name for one in indicators.layers if pair not in admitted.get(one.name, (pair,))]:
        raise SettingError(f"--no-worse-than is {than}, which layer {refused[0]!r} may not take here; name other bits")
    layers = indicators.layers
    priced = treat_outliers(indicators, "repair" if recipe.outliers == "forbid" else recipe.outliers)
    most = objective_of(indicators, priced, uniform_pairs(indicators, *pair), recipe.alpha, f"uniform {than}")
    step = max(most / STEPS, sys.float_info.min)
    return Budget(
        cost=_ImportanceCost(importance, indicators.bits, group_leaders(indicators), recipe.alpha, step),
        limit=ceil(most / step) + len(layers),  # a half for what each layer's is rounded by, and to spare
        option=f"--no-worse-than {than}",
        figure_unit="of importance",
        multiplier=Fraction(step),
    )


def _pair(text: str) -> BitPair:
    """Of "w8a8", or of a format's name."""
    if (width := FORMATS.get(text)) is not None:
        return width, width
    try:
        return parse_like(text)
    except SettingError as error:
        raise SettingError(
            f"--no-worse-than {text!r} is not understood; expected wNaM, such as w8a8, or one of {', '.join(FORMATS)}"
        ) from error
