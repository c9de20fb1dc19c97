"""A policy that the user gives instead of a search, checked against the model and the budgets. No torch here."""

from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.records import load_record
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.costs import Budget, total_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import check_ties
from limpq_deploy.policy.policy import BudgetUse, Policy


def load_given(
    path: Path, indicators: Indicators, budgets: Sequence[Budget], *, floats: Set[int] = frozenset()
) -> Policy:
    """The policy of a file, with what it uses of the budgets. ``indicators``: of the build's model, as restricted.
    ``floats``: widths at which the target leaves layers in float.

    Raises RecordError for a file of another kind, ModelError where the policy is not of this model, or gives layers
    that read one tensor different activation bits; SettingError for a width that the build does not take, for a pair
    that its restrictions exclude, and for a budget that the policy exceeds.
    """
    policy = load_record(Policy, path)
    _require_layers(policy, indicators, path)
    pairs = policy.pairs()
    taken = sorted({bits for pair in pairs.values() for bits in pair})
    for name, pair in pairs.items():
        for kind, bits in zip(("weight", "activation"), pair, strict=True):
            if bits not in indicators.bits and bits not in floats:
                remedy = _remedy(indicators.bits, [width for width in taken if width not in floats])
                raise SettingError(f"{path} gives layer {name!r} {bits} {kind} bits; {remedy}")
    check_ties(indicators, pairs, str(path))
    for layer in indicators.layers:
        if layer.pairs is not None and pairs[layer.name] not in layer.pairs:
            weight, act = pairs[layer.name]
            raise SettingError(
                f"{path} gives layer {layer.name!r} w{weight}a{act}, which --space, --min-bits, --pin or --act-bits "
                "excludes; leave that away, or change the policy"
            )
    return replace(
        policy,
        model=indicators.model,
        costs=tuple(_use(budget, indicators, policy, path) for budget in budgets),
    )


def own_budget(indicators: Indicators, policy: Policy) -> Budget:
    """The BitOps of the policy itself over the searched layers: what a uniform one may use where nothing else limits
    it."""
    budget = like_budget(indicators, 8, 8)
    return replace(
        budget, limit=total_cost(budget.cost, indicators, policy.pairs()), option="the BitOps of the given policy"
    )


def _require_layers(policy: Policy, indicators: Indicators, path: Path) -> None:
    model, searched = indicators.model, [layer.name for layer in indicators.layers]
    if policy.model is not None and policy.model != model:
        raise ModelError(
            f"{path} is a policy of {policy.model!r}, and this build is of {model!r}; give a policy of {model}, or "
            f"--model {policy.model}"
        )
    unknown = [name for name in policy.bits if name not in searched]
    missing = [name for name in searched if name not in policy.bits]
    for what, names in (("has an entry for", unknown), ("has no entry for", missing)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"{path} {what} {plain(names[0], 60)!r}{more}; expected exactly the {len(searched)} searched layers of "
                f"{model!r}, so search a policy for this model"
            )


def _remedy(bits: tuple[int, ...], taken: list[int]) -> str:
    known = ",".join(map(str, bits))
    outside = [width for width in taken if not 2 <= width <= 8]
    if outside:
        return f"a build takes 2 to 8 bits (now {known}), so change the policy"
    return f"this build takes {known} alone: give --bits {','.join(map(str, sorted({*bits, *taken})))}"


def _use(budget: Budget, indicators: Indicators, policy: Policy, path: Path) -> BudgetUse:
    used = total_cost(budget.cost, indicators, policy.pairs())
    if used > budget.limit:
        raise SettingError(
            f"{path} has {budget.figure(used)}, beyond {budget.option}; give a larger budget or leave it away"
        )
    return BudgetUse(name=budget.cost.name, used=used, limit=budget.limit, unit=budget.cost.unit)
