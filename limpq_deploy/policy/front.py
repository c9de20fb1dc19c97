"""The front of policies: the best objective for each of many BitOps budgets, each with its proven bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

from limpq_deploy.calibration.errors import InfeasiblePolicy, SettingError
from limpq_deploy.calibration.shown import Saved
from limpq_deploy.policy.budgets import gbitops_budget
from limpq_deploy.policy.candidates import Admit, uniform_candidate
from limpq_deploy.policy.costs import BitOps, Budget, Pairs, total_cost, uniform_pairs
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import check_ties, objective_of
from limpq_deploy.policy.outliers import OutlierMode, treat_outliers
from limpq_deploy.policy.policy import BudgetUse, Policy, Solve, SolverResult
from limpq_deploy.policy.recipes import one_recipe, own_uniform
from limpq_deploy.policy.search import PolicySearch

MAX_BUDGETS = 10_000

Progress = Callable[[int, int], None]
"""Called with (budgets done, budgets in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointPreview:
    """Accuracy without fine-tuning: ``top1`` in percent (or the front's ``figure``) with the ends of its 95 % interval
    (None in older files), and mean cross-entropy ``loss`` on held-out training images."""

    top1: float
    loss: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """The best policy known within ``gbitops_limit`` (1 G = 1e9, pinned layers included). ``solver``: as in the policy;
    its bound holds for every policy within the limit. ``preview``: where it was asked for, on a build's joint network.
    """

    gbitops_limit: float
    policy: Policy
    solver: SolverResult
    preview: PointPreview | None = None

    @property
    def bitops(self) -> int:
        """BitOps that the policy takes, pinned layers included."""
        return next(use.used for use in self.policy.costs if use.name == COST.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class InfeasibleBudget:
    """A budget that no policy meets; ``reason`` names the smallest figure that one can reach."""

    gbitops_limit: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DominatedBudget:
    """A budget that buys nothing: the point at ``dominated_by`` (a limit) takes no more BitOps and has no larger
    objective. ``bound`` and ``gap`` of its own search."""

    gbitops_limit: float
    dominated_by: float
    bound: float
    gap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Front(Saved):
    """Policies by ascending BitOps and descending objective; none dominates another, but that a build's own uniform
    bits stand at its own budget, whatever their objective. ``importance``: the measure, None in older files.

    Every budget asked for is among ``points``, ``dominated`` or ``infeasible``. ``others``: budgets that held besides,
    in the user's words; ``solver`` seconds are those of each point's own search. ``figure`` with its ``unit``: what
    previews give.
    """

    model: str
    alpha: float
    outliers: OutlierMode
    points: tuple[FrontPoint, ...]
    infeasible: tuple[InfeasibleBudget, ...] = ()
    dominated: tuple[DominatedBudget, ...] = ()
    others: tuple[str, ...] = ()
    importance: str | None = None
    figure: str = "top-1"
    unit: str = "%"
    format: Literal["limpq.front/1"] = field(default="limpq.front/1")

    def rows(self) -> list[dict[str, Any]]:
        """One for each point: its limit and what it takes, in G BitOps (1 G = 1e9); objective, proved bound and gap."""
        return [
            {
                "gbitops_limit": point.gbitops_limit,
                "gbitops": point.bitops / 1e9,
                "objective": point.policy.objective,
                "bound": point.solver.bound,
                "gap": point.solver.gap,
                "status": point.solver.status,
                **({} if point.preview is None else {"top1_preview": point.preview.top1}),
            }
            for point in self.points
        ]

    def _title(self) -> str:
        return f"Front of {self.model}: {len(self.points)} policies"

    @property
    def worst_gap(self) -> float | None:
        """The largest certified gap of any point or dominated budget; None without any."""
        gaps = [point.solver.gap for point in self.points] + [budget.gap for budget in self.dominated]
        return max(gaps, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformPoint:
    """One bit-width for all weights and one for all activations: what a front is compared with."""

    weight_bits: int
    act_bits: int
    bitops: int
    objective: float
    preview: PointPreview | None = None


COST = BitOps(pinned=True)


def parse_range(text: str) -> tuple[float, ...]:
    """``"LO:HI:N"`` -> N limits in G BitOps from LO to HI, evenly spaced, in whole BitOps. Raises SettingError."""
    parts = text.split(":")
    try:
        low, high = (Fraction(part.strip()) for part in parts[:2])
        number = int(parts[2])
        if len(parts) != 3:
            raise ValueError
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise SettingError(
            f"--gbitops {text!r} is not understood; expected LO:HI:N, such as 20:60:50 for 50 budgets from 20 to 60 G"
        ) from error
    if not 0 < low < high and not (0 < low == high and number == 1):
        raise SettingError(f"--gbitops {text!r} goes from {parts[0]} to {parts[1]}; expected 0 < LO < HI")
    if not (2 <= number <= MAX_BUDGETS or (number == 1 and low == high)):
        raise SettingError(f"--gbitops {text!r} asks for {number} budgets; expected 2 to {MAX_BUDGETS:,}")
    inner = [round(low + (high - low) * index / (number - 1), 9) for index in range(1, number - 1)]
    return tuple(dict.fromkeys(float(limit) for limit in (low, *inner, high)))


def sweep(
    indicators: Indicators,
    gbitops: Sequence[float],
    *,
    budgets: Sequence[Budget] = (),
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
    solve: Solve | None = None,
    progress: Progress | None = None,
    admit: Admit = lambda indicators: indicators,
) -> Front:
    """One search per limit in ``gbitops``; ``budgets`` hold at every one of them. ``importance``, ``alpha`` and
    ``outliers``: as in `search.search_policy`; ``admit`` puts restrictions on indicators.

    Answers help each other: a policy stands for every limit that it meets, and a bound, which only grows as the limit
    shrinks, for every smaller limit. So the objective never grows with the budget, and gaps are at most those of the
    single searches. Every point is checked again against all its budgets, in exact integers. ``solve``: None takes one
    that builds the program once. Where uniform bits are a build's own policy, they stand at the build's own budget.

    Raises SettingError where ``budgets`` limit BitOps too, and what ``solve`` raises except InfeasiblePolicy.
    """
    if any(isinstance(budget.cost, BitOps) for budget in budgets):
        raise SettingError("--like and --max-gbitops limit BitOps, which the sweep itself does; leave them away")
    solve = PolicySearch() if solve is None else solve
    asked = any(one is not None for one in (importance, alpha, outliers))
    carried, recipe = indicators, one_recipe(indicators, importance=importance, alpha=alpha, outliers=outliers)
    indicators = admit(read_by(carried, recipe.importance))
    limits = sorted(set(gbitops))
    found: list[tuple[float, Policy]] = []
    infeasible = []
    for done, limit in enumerate(limits):
        try:
            within = (gbitops_budget(indicators, limit), *budgets)
            policy = solve(indicators, within, alpha=recipe.alpha, outliers=recipe.outliers)
            found.append((limit, replace(policy, importance=recipe.importance)))
        except InfeasiblePolicy as error:
            infeasible.append(InfeasibleBudget(gbitops_limit=limit, reason=str(error)))
        if progress is not None:
            progress(done + 1, len(limits))
    points, dominated = drop_dominated(_share_answers(indicators, found, budgets))
    front = Front(
        model=indicators.model,
        importance=recipe.importance,
        alpha=recipe.alpha,
        outliers=recipe.outliers,
        points=points,
        infeasible=tuple(infeasible),
        dominated=dominated,
        others=tuple(budget.option for budget in budgets),
    )
    return front if asked else _with_own(front, carried, dict(found), budgets, admit)


def _with_own(
    front: Front, carried: Indicators, found: dict[float, Policy], budgets: Sequence[Budget], admit: Admit
) -> Front:
    """The build's own policy at the build's own budget, where that is uniform bits."""
    for limit, policy in found.items():
        within = (gbitops_budget(carried, limit), *budgets)
        uniform = own_uniform(admit(carried), within)
        if uniform is None:
            continue
        own = uniform_candidate(uniform, carried, within, policy, admit=admit)
        assert own.solver is not None
        point = FrontPoint(gbitops_limit=limit, policy=own, solver=own.solver)
        others = (one for one in front.points if one.gbitops_limit != limit)
        return replace(
            front,
            points=tuple(sorted((*others, point), key=lambda one: one.bitops)),
            dominated=tuple(one for one in front.dominated if one.gbitops_limit != limit),
        )
    return front


def drop_dominated(points: Sequence[FrontPoint]) -> tuple[tuple[FrontPoint, ...], tuple[DominatedBudget, ...]]:
    """Points that no other matches or beats in BitOps and objective, by ascending BitOps; and the rest. Of equal ones
    that with the smaller limit stays."""
    kept: list[FrontPoint] = []
    dominated = []
    for point in sorted(points, key=lambda point: (point.bitops, point.policy.objective, point.gbitops_limit)):
        if kept and kept[-1].policy.objective <= point.policy.objective:
            dominated.append(
                DominatedBudget(
                    gbitops_limit=point.gbitops_limit,
                    dominated_by=kept[-1].gbitops_limit,
                    bound=point.solver.bound,
                    gap=point.solver.gap,
                )
            )
        else:
            kept.append(point)
    return tuple(kept), tuple(sorted(dominated, key=lambda budget: budget.gbitops_limit))


def uniform_points(
    indicators: Indicators,
    *,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: OutlierMode | None = None,
    budgets: Sequence[Budget] = (),
    admit: Admit = lambda indicators: indicators,
) -> tuple[UniformPoint, ...]:
    """Uniform policies that every layer may take, within ``budgets``, by ascending BitOps. Where outliers are
    forbidden, a uniform policy that takes one is priced as learned: it can be run, though the search may not choose
    it."""
    recipe = one_recipe(indicators, importance=importance, alpha=alpha, outliers=outliers)
    indicators = admit(read_by(indicators, recipe.importance))
    treated = treat_outliers(indicators, "keep" if recipe.outliers == "forbid" else recipe.outliers)
    points = []
    for weight_bits in indicators.bits:
        for act_bits in indicators.bits:
            if any((weight_bits, act_bits) not in some for some in treated.pairs.values()):
                continue
            pairs = uniform_pairs(indicators, weight_bits, act_bits)
            if all(total_cost(budget.cost, indicators, pairs) <= budget.limit for budget in budgets):
                objective = objective_of(indicators, treated, pairs, recipe.alpha, f"w{weight_bits}a{act_bits}")
                bitops = total_cost(COST, indicators, pairs)
                points.append(
                    UniformPoint(weight_bits=weight_bits, act_bits=act_bits, bitops=bitops, objective=objective)
                )
    return tuple(sorted(points, key=lambda point: (point.bitops, point.objective)))


def _share_answers(
    indicators: Indicators, found: Sequence[tuple[float, Policy]], budgets: Sequence[Budget]
) -> list[FrontPoint]:
    """Each limit with the best policy of any search that meets it, and with the best bound of any larger limit.

    ``found`` by ascending limit; all searches share the other budgets.
    """
    by_bitops = sorted(
        (total_cost(COST, indicators, policy.pairs()), policy.objective, at) for at, (_, policy) in enumerate(found)
    )
    bounds: list[float] = []
    for _, policy in reversed(found):
        assert policy.solver is not None, "a searched policy has no bound"
        bounds.append(max([policy.solver.bound, *bounds[-1:]]))
    points = []
    best: tuple[float, int] | None = None
    entry = 0
    for at, (limit, own) in enumerate(found):
        within = (gbitops_budget(indicators, limit), *budgets)
        while entry < len(by_bitops) and by_bitops[entry][0] <= within[0].limit:
            _, objective, index = by_bitops[entry]
            best = (objective, index) if best is None or objective < best[0] else best
            entry += 1
        assert best is not None, "a search broke its own limit"
        taken = own if best[0] >= own.objective else found[best[1]][1]
        costs = _recheck(indicators, taken.pairs(), within)
        assert own.solver is not None
        slack = 1e-8 * abs(taken.objective)  # bounds and objectives are sums of doubles, libraries have tolerances
        assert bounds[-1 - at] <= taken.objective + slack, "a policy lies below a proven bound"
        bound = min(bounds[-1 - at], taken.objective)
        solver = replace(own.solver, bound=bound, gap=(taken.objective - bound) / (abs(bound) or 1.0))
        points.append(FrontPoint(gbitops_limit=limit, policy=replace(taken, costs=costs, solver=solver), solver=solver))
    return points


def _recheck(indicators: Indicators, pairs: Pairs, budgets: Sequence[Budget]) -> tuple[BudgetUse, ...]:
    check_ties(indicators, pairs, "a searched policy")
    uses = []
    for budget in budgets:
        used = total_cost(budget.cost, indicators, pairs)
        assert used <= budget.limit, f"{budget.cost.name} of {used} exceeds the limit of {budget.limit}"
        uses.append(BudgetUse(name=budget.cost.name, used=used, limit=budget.limit, unit=budget.cost.unit))
    return tuple(uses)
