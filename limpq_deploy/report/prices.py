"""Why the policy is as it is: what one bit more or fewer of a layer costs and buys, and what a budget is worth."""

from dataclasses import dataclass

from limpq_deploy.calibration.numbers.formats import width_name
from limpq_deploy.policy.explain import BudgetPrice, Explanation, Step
from limpq_deploy.report.costs import amount, budget_name
from limpq_deploy.report.figures import digits, percent, signed
from limpq_deploy.report.inputs import ReportInputs

TOLD = 5
"""Bits that are named as the most wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """One budget as text; ``state``: binding or not; ``worth``: its shadow price in words."""

    name: str
    used: str
    left: str
    state: str
    less: str
    without: str
    worth: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCell:
    """One bit fewer or more: change of the objective, and of each budget in shares of its limit. ``fits``: within all
    budgets."""

    to_bits: int
    objective: str
    costs: tuple[str, ...]
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A tensor of a layer, with both neighbours of its width (None at an end)."""

    layer: str
    shared: int
    tensor: str
    bits: int
    fewer: StepCell | None
    more: StepCell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PricesSection:
    """``objective``: what is minimised, in words; ``wanted``: sentences on the bits that would buy most."""

    objective: str
    budgets: tuple[BudgetRow, ...]
    options: tuple[str, ...]
    rows: tuple[StepRow, ...]
    wanted: tuple[str, ...]
    proved: bool


def prices_section(inputs: ReportInputs) -> PricesSection | None:
    found = inputs.what_if.explanation if inputs.what_if is not None else None
    if found is None:
        return None
    return PricesSection(
        objective=f"{digits(found.objective)}, best within these budgets {digits(found.best)}",
        budgets=tuple(_budget(one, found) for one in found.budgets),
        options=tuple(one.option for one in found.budgets),
        rows=tuple(_rows(found)),
        wanted=tuple(_wanted(found)),
        proved=all(one.proved for one in found.budgets),
    )


def _budget(one: BudgetPrice, found: Explanation) -> BudgetRow:
    worth = "0: 1 % more changes nothing"
    if one.shadow_price > 0:
        worth = f"{digits(one.shadow_price * one.limit / 100)} per 1 % of the limit"
    return BudgetRow(
        name=f"{budget_name(one.name)} ({one.option})",
        used=percent(one.used / one.limit) if one.limit else "",
        left=amount(one.slack, one.unit),
        state="binding" if one.binding else "not binding",
        less="nothing fits" if one.tightened is None else _change(one.tightened - found.best),
        without=_change(one.without - found.best),
        worth=worth,
    )


def _rows(found: Explanation) -> list[StepRow]:
    steps: dict[tuple[str, str], dict[bool, Step]] = {}
    for step in found.steps:
        steps.setdefault((step.layer, step.tensor), {})[step.to_bits > step.bits] = step
    rows = []
    for (layer, tensor), both in steps.items():
        one = next(iter(both.values()))
        rows.append(
            StepRow(
                layer=layer,
                shared=len(one.layers) - 1,
                tensor="weight" if tensor == "weight" else "activation",
                bits=one.bits,
                fewer=_cell(both.get(False), found),
                more=_cell(both.get(True), found),
            )
        )
    return rows


def _cell(step: Step | None, found: Explanation) -> StepCell | None:
    if step is None:
        return None
    return StepCell(
        to_bits=step.to_bits,
        objective="forbidden" if step.objective is None else _change(step.objective),
        costs=tuple(
            f"{signed(100 * cost / budget.limit)} %" if budget.limit else ""
            for cost, budget in zip(step.costs, found.budgets, strict=True)
        ),
        fits=step.fits,
    )


def _wanted(found: Explanation) -> list[str]:
    """The bits that buy most of the objective for each share of the first budget."""
    ups = [
        (step.objective * found.budgets[0].limit / step.costs[0], step)
        for step in found.steps
        if step.objective is not None and step.objective < 0 and found.budgets and step.costs[0] > 0
    ]
    told = []
    for _, step in sorted(ups, key=lambda one: one[0])[:TOLD]:
        tensor = "weights" if step.tensor == "weight" else "activations"
        share = signed(100 * step.costs[0] / found.budgets[0].limit)
        told.append(
            f"{step.layer}, {tensor} from {width_name(step.bits)} to {width_name(step.to_bits)} bits: objective "
            f"{_change(step.objective or 0.0)} for {share} % of {found.budgets[0].option}"
        )
    return told


def _change(value: float) -> str:
    """A change of the objective with its sign and three digits."""
    if not value:
        return "0"
    text = digits(abs(value))
    return f"+{text}" if value > 0 else f"\N{MINUS SIGN}{text}"
