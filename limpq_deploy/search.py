"""The policy search: indicators and budgets in, one certified policy out. No torch, no runtime."""

import time
from collections.abc import Sequence
from dataclasses import replace
from math import fsum, isfinite

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, SettingError
from limpq_deploy.cbc import solve_cbc, solver_name
from limpq_deploy.costs import Budget, check_budgets, pinned_cost, total_cost
from limpq_deploy.indicators import Indicators
from limpq_deploy.outliers import Importance, OutlierMode, OutlierReport, treat_outliers
from limpq_deploy.policy import BudgetUse, LayerBits, Policy, SolverResult
from limpq_deploy.program import Block, Option, Program, build_program
from limpq_deploy.relaxation import Proof, Relaxation, prove, relax

TIME_LIMIT_S = 60.0
"""For CBC. What it found by then is used, and proved as far as can be."""


def search_policy(
    indicators: Indicators,
    budgets: Sequence[Budget],
    *,
    alpha: float = 2.0,
    outliers: OutlierMode = "forbid",
    time_limit_s: float | None = TIME_LIMIT_S,
) -> Policy:
    """The policy of least total importance within the budgets.

    ``alpha`` weighs weights against activations; 2 is the paper's value for ResNet-50 (``alpha * I_w + I_a``).
    The budgets are checked again in exact integers. The optimum is not CBC's word: an independent enumeration proves
    that nothing better exists (`relaxation.prove`), and replaces the answer where it finds something better. One
    thread, no random numbers: the same input gives the same policy.

    Raises InfeasiblePolicy with the smallest reachable figures, SettingError for a useless ``alpha`` or no budget,
    ModelError where nothing is searched.
    """
    check_budgets(budgets)
    if not (isfinite(alpha) and alpha >= 0):
        raise SettingError(f"--alpha is {alpha}; expected a finite number, 0 or above")
    if not indicators.layers:
        raise ModelError(f"the indicators of {indicators.model!r} list no searched layer; there is nothing to search")
    started = time.perf_counter()
    importance = treat_outliers(indicators, outliers)
    program = build_program(indicators, importance, budgets, alpha=alpha)
    _check_each_alone(program, indicators, budgets, importance.outliers)
    relaxation = relax(program)
    choice, proof = _solve(program, relaxation, time_limit_s)
    if choice is None:
        found = "no policy meets" if proof.complete else "no policy was found that meets"
        raise InfeasiblePolicy(f"{found} {_conflict(program, indicators, budgets, importance.outliers, time_limit_s)}")
    pairs = _pairs(indicators, program, choice)
    objective = _objective(indicators, importance, pairs, alpha)
    bound = min(proof.bound, objective)
    return Policy(
        bits={name: LayerBits(weight=weight, act=act) for name, (weight, act) in pairs.items()},
        objective=objective,
        alpha=alpha,
        costs=tuple(_use(budget, indicators, pairs) for budget in budgets),
        solver=SolverResult(
            name=solver_name(),
            status="optimal" if proof.complete else "feasible",
            bound=bound,
            gap=(objective - bound) / (abs(bound) or 1.0),
            seconds=time.perf_counter() - started,
        ),
        outliers=importance.outliers,
        model=indicators.model,
        source=indicators.source,
    )


def _solve(
    program: Program, relaxation: Relaxation, time_limit_s: float | None
) -> tuple[tuple[int, ...] | None, Proof]:
    """The best choice known, None where there is none, and what is proved about it."""
    answer = solve_cbc(program, relaxation, time_limit_s=time_limit_s)
    if answer.choice is None or not program.feasible(answer.choice):
        return _enumerate(program, relaxation)
    proof = prove(program, relaxation, _value(program, answer.choice))
    return proof.better or answer.choice, proof


def _enumerate(program: Program, relaxation: Relaxation) -> tuple[tuple[int, ...] | None, Proof]:
    """Where CBC has no answer, or one that breaks a limit by less than its tolerance: look just above the bound, then
    ever further, at last everywhere."""
    most = fsum(max(option.value for option in block.options) for block in program.blocks)
    room = max(abs(relaxation.bound), most) * 1e-4
    while relaxation.bound + room < most:
        proof = prove(program, relaxation, relaxation.bound + room)
        if proof.better is not None:
            return proof.better, proof
        room *= 8
    proof = prove(program, relaxation, None)
    return proof.better, proof


def _value(program: Program, choice: Sequence[int]) -> float:
    return fsum(block.options[number].value for block, number in zip(program.blocks, choice, strict=True))


def _pairs(indicators: Indicators, program: Program, choice: Sequence[int]) -> dict[str, tuple[int, int]]:
    """(weight_bits, act_bits) by layer, in the model's order."""
    chosen: dict[str, tuple[int, int]] = {}
    for block, number in zip(program.blocks, choice, strict=True):
        chosen |= zip(block.layers, block.options[number].pairs, strict=True)
    return {layer.name: chosen[layer.name] for layer in indicators.layers}


def _objective(
    indicators: Indicators, importance: Importance, pairs: dict[str, tuple[int, int]], alpha: float
) -> float:
    """The objective recomputed from the importance itself, an act_group's indicator once."""
    at = {width: index for index, width in enumerate(indicators.bits)}
    terms: list[float] = []
    groups: set[str] = set()
    for layer in indicators.layers:
        weight, act = importance.weight[layer.name], importance.act[layer.name]
        weight_value, act_value = weight[at[pairs[layer.name][0]]], act[at[pairs[layer.name][1]]]
        assert weight_value is not None, "a forbidden entry was chosen"
        assert act_value is not None, "a forbidden entry was chosen"
        terms.append(alpha * weight_value)
        if layer.act_group is None or layer.act_group not in groups:
            terms.append(act_value)
        if layer.act_group is not None:
            groups.add(layer.act_group)
    return fsum(terms)


def _use(budget: Budget, indicators: Indicators, pairs: dict[str, tuple[int, int]]) -> BudgetUse:
    used = total_cost(budget.cost, indicators, pairs)
    assert used <= budget.limit, f"{budget.cost.name} of {used} exceeds the limit of {budget.limit}"
    return BudgetUse(name=budget.cost.name, used=used, limit=budget.limit, unit=budget.cost.unit)


def _check_each_alone(
    program: Program, indicators: Indicators, budgets: Sequence[Budget], report: OutlierReport
) -> None:
    """Raises InfeasiblePolicy naming every budget that no policy meets, with the smallest reachable figure of each."""
    problems = []
    for row, budget in enumerate(budgets):
        if program.smallest(row) > program.limits[row]:
            smallest = program.smallest(row) * program.steps[row] + pinned_cost(budget.cost, indicators)
            problems.append(
                f"{budget.option} allows {budget.figure(budget.limit)}, and {_reachable(budget)} reachable is "
                f"{budget.figure(smallest)}"
            )
    if problems:
        raise InfeasiblePolicy(f"no policy meets the budget: {'; '.join(problems)}; {_remedy(report)}")


def _conflict(
    program: Program,
    indicators: Indicators,
    budgets: Sequence[Budget],
    report: OutlierReport,
    time_limit_s: float | None,
) -> str:
    """Budgets that can be met one by one but not together: how far each would have to go beside the others."""
    options = " and ".join(budget.option for budget in budgets)
    figures = []
    for row, budget in enumerate(budgets):
        smallest = _smallest_beside(program, row, time_limit_s)
        if smallest is not None:
            smallest = smallest * program.steps[row] + pinned_cost(budget.cost, indicators)
            figures.append(f"with the rest kept, {_reachable(budget)} for {budget.option} is {budget.figure(smallest)}")
    return f"{options} together: {'; '.join(figures) or 'nor all but one of them'}; {_remedy(report)}"


def _smallest_beside(program: Program, row: int, time_limit_s: float | None) -> int | None:
    """The least cost in one row among the policies that keep the other rows."""

    def beside(block: Block) -> Block:
        unit = max(program.limits[row], 1)
        options = [
            Option(value=option.costs[row] / unit, costs=_without(option.costs, row), pairs=option.pairs)
            for option in block.options
        ]
        return replace(block, options=tuple(sorted(options, key=lambda option: (option.value, option.costs))))

    other = Program(
        blocks=tuple(beside(block) for block in program.blocks),
        limits=_without(program.limits, row),
        steps=_without(program.steps, row),
    )
    choice, _ = _solve(other, relax(other), time_limit_s)
    if choice is None:
        return None
    total = 0
    for block, around, number in zip(program.blocks, other.blocks, choice, strict=True):
        costs = {option.pairs: option.costs[row] for option in block.options}
        total += costs[around.options[number].pairs]
    return total


def _without(values: tuple[int, ...], index: int) -> tuple[int, ...]:
    return values[:index] + values[index + 1 :]


def _reachable(budget: Budget) -> str:
    return "the largest" if budget.inverse else "the smallest"


def _remedy(report: OutlierReport) -> str:
    forbidden = sum(entry.used is None for entry in report.entries)
    if not forbidden:
        return "relax the budget or search smaller bits"
    entries = "1 outlier entry is" if forbidden == 1 else f"{forbidden} outlier entries are"
    return f"relax the budget or search smaller bits ({entries} forbidden; --outliers repair admits them)"
