"""What a search is asked: indicators, how they are read, restrictions and budgets, from options by name. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from limpq_deploy.api.finished import Report
from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.policy.budgets import COST_FILES, BudgetSettings, budgets_from_options, require_within_reach
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.recipes import Recipe, one_recipe
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.workspace.file_names import INDICATORS

Readable = Indicators | Report | str | Path
"""Indicators, their file, or a build that has some."""

RECIPE = ("importance", "alpha", "outliers")
RESTRICTIONS = ("space", "min_bits", "pin", "tie")
BUDGET_NAMES = tuple(one.name for one in fields(BudgetSettings))


@dataclass(frozen=True)
class Question:
    """What a search is asked: ``carried`` as given, ``read`` by one measure and restricted, ``asked`` of the recipe."""

    carried: Indicators
    recipe: Recipe
    asked: dict[str, Any]
    restrictions: dict[str, Any]
    budgets: dict[str, Any]

    def admit(self, indicators: Indicators) -> Indicators:
        return restrict(indicators, **self.restrictions)

    @property
    def read(self) -> Indicators:
        return self.admit(read_by(self.carried, self.recipe.importance))

    @property
    def limited(self) -> bool:
        """Whether any budget is given."""
        return any(value is not None for value in self.budgets.values())

    @property
    def limits(self) -> tuple[Budget, ...]:
        if (like := self.budgets.get("like")) is not None:
            require_within_reach(self.read, like)
        return budgets_from_options(self.read, **self.budgets)


def question(indicators: Readable, options: Mapping[str, Any]) -> Question:
    """Indicators and options of a search, by what each is for. Raises SettingError for an unknown one."""
    if unknown := sorted(set(options) - {*RECIPE, *RESTRICTIONS, *BUDGET_NAMES}):
        known = ", ".join((*BUDGET_NAMES, *RESTRICTIONS, *RECIPE))
        raise SettingError(f"{unknown[0]!r} is no setting of a search; expected {known}")
    carried = _indicators(indicators)
    given = {name: options.get(name) for name in RECIPE}
    restrictions = {name: options[name] for name in RESTRICTIONS if options.get(name) is not None}
    budgets = {name: options.get(name) for name in BUDGET_NAMES}
    for name in COST_FILES:
        if (file := budgets[name]) is not None:
            budgets[name] = Path(file)
    return Question(carried, one_recipe(carried, **given), given, restrictions, budgets)


def _indicators(given: Readable) -> Indicators:
    if isinstance(given, Indicators):
        return given
    if isinstance(given, Report):
        if given.indicators is None:
            raise RecordError(f"{given.folder} has no {INDICATORS}; finish that stage, `limpq-deploy indicators`")
        return given.indicators
    path = Path(given)
    return load_record(Indicators, path / INDICATORS if path.is_dir() else path)
