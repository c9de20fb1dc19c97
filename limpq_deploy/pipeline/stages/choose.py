"""The stage that chooses the policy, and what it is set beside."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.tournament import Look, hold_tournament
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.asked_policy import budgets_asked, policy_given, under_restrictions
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.facts import (
    IMPORTANCE,
    LATENCY_LIMIT,
    LIMITS,
    PREVIEWS,
    ROUNDS_MADE,
    SEARCHES,
    TAKES_POLICY,
)
from limpq_deploy.pipeline.stages.previewer import Previewer
from limpq_deploy.pipeline.stages.rounds import search_in_rounds
from limpq_deploy.policy.budgets import ROWS, latency_budget, parse_like, uniform_policy_within
from limpq_deploy.policy.candidates import find
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.given_policy import own_budget
from limpq_deploy.policy.importance_names import SCALE, read_by
from limpq_deploy.policy.indicators import Found, Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.recipes import Recipe, found_by, one_recipe, recipes, usual_recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.policy.tie_warning import tie_warning
from limpq_deploy.progress import Report
from limpq_deploy.workspace.file_names import (
    COMPARISON,
    FLOAT_WEIGHTS,
    INDICATORS,
    JOINT,
    PLACEMENT,
    POLICY,
    ROUNDS,
    TABLE,
    TEMPLATE,
)

PLAIN_BUDGETS = tuple(name for name in ROWS if name not in {fact.name for fact in LIMITS})
"""Settings of budgets that count as they were given."""
RESTRICTING = ("space", "formats", "min_bits", "pin", "tie")


def _run_search(subject: Subject, folder: Path, report: Report) -> str:
    config = subject.config
    indicators = load_record(Indicators, folder / INDICATORS)
    restricted = under_restrictions(subject, indicators)
    budgets = budgets_asked(subject, restricted)
    like = parse_like(config.budget_like) if config.budget_like is not None else None
    rounds_said, look = "", cache_of(subject, folder)
    if config.goes_round:

        def choose(within: tuple[Budget, ...]) -> Policy:
            rival = uniform_policy_within(restricted, within, like)
            try:
                return _choose(subject, look, indicators, within, rival, report)
            except InfeasiblePolicy as error:
                raise InfeasiblePolicy(
                    f"{error}; times are predicted from this build's profile of the machine, and are alike at all "
                    "bits below 8: --fresh profiles it anew, which helps where it was busy then"
                ) from error

        policy, rounds = search_in_rounds(subject, folder, restricted, choose, report)
        assert config.max_latency_ms is not None
        budgets = (*budgets, latency_budget(restricted, rounds.table, config.max_latency_ms))
        write_record(rounds, folder / ROUNDS)
        rounds_said = f"; latency {rounds.why}"
        pair = uniform_policy_within(restricted, budgets, like)
    else:
        pair = uniform_policy_within(restricted, budgets, like)
        policy = _choose(subject, look, indicators, budgets, pair, report)
    comparison = Comparison(
        pair=pair,
        same=pair is not None and set(policy.pairs().values()) == {pair},
        unrestricted=uniform_policy_within(indicators, budgets, like) if pair is None else None,
        fp8=FP8 in config.candidates,
    )
    write_record(policy, folder / POLICY)
    write_record(comparison, folder / COMPARISON)
    write_record(replace(indicators, found=_found(policy, indicators, restricted, budgets, pair)), folder / INDICATORS)
    assert policy.solver is not None
    used = ", ".join(f"{cost.name} {100 * cost.used / cost.limit:.1f} % of the limit" for cost in policy.costs)
    idle = "; the budget limits nothing" if policy.is_everywhere(indicators.bits[-1]) else ""
    how = f"{policy.importance}, {policy.solver.status} in {1000 * policy.solver.seconds:.0f} ms"
    if policy.tournament is not None:
        held = policy.tournament
        how = f"{held.why}; {len(held.candidates)} previews of {held.images:,} held-out images in {held.seconds:.1f} s"
    ties = tie_warning(policy, under_restrictions(subject, read_by(indicators, policy.importance or SCALE)))
    idle += f"; {ties}" if ties else ""
    return f"{how}; {used}; {comparison.sentence()}{idle}{rounds_said}"


SEARCHED_POLICY = Stage(
    name="search",
    title="policy",
    settings=("policy", *PLAIN_BUDGETS, *RESTRICTING, "importance", "alpha", "outliers", "solver"),
    facts=LIMITS,
    reads=(
        *(IMPORTANCE, PLACEMENT),
        *(If(PREVIEWS, name) for name in (FLOAT_WEIGHTS, JOINT)),
        *(If(ROUNDS_MADE, name) for name in (TABLE, TEMPLATE)),
    ),
    writes=(POLICY, COMPARISON, If(ROUNDS_MADE, ROUNDS)),
    completes=(INDICATORS,),
    run=_run_search,
    when=(SEARCHES,),
    frees_memory=True,
)
"""The best policy of a tournament, or one program's where ``importance`` names its measure; which one it was is put
down in the indicators file, for later searches."""


def _run_given(subject: Subject, folder: Path, report: Report) -> str:
    config = subject.config
    assert config.policy is not None
    indicators = load_record(Indicators, folder / INDICATORS)
    restricted = under_restrictions(subject, indicators)
    policy = policy_given(subject, restricted)
    budgets = budgets_asked(subject, restricted) if config.limited else (own_budget(restricted, policy),)
    like = parse_like(config.like) if config.like is not None else None
    pair = uniform_policy_within(restricted, budgets, like)
    comparison = Comparison(
        pair=pair,
        same=pair is not None and set(policy.pairs().values()) == {pair},
        fp8=FP8 in config.candidates,
    )
    write_record(policy, folder / POLICY)
    write_record(comparison, folder / COMPARISON)
    used = "".join(f"; {cost.name} {100 * cost.used / cost.limit:.1f} % of the limit" for cost in policy.costs)
    return f"as given in {config.policy.name}, nothing was searched{used}; {comparison.sentence()}"


GIVEN_POLICY = Stage(
    name="search",
    title="policy",
    settings=("policy", "like", *PLAIN_BUDGETS, *RESTRICTING),
    facts=(LATENCY_LIMIT,),
    reads=(IMPORTANCE, PLACEMENT),
    writes=(POLICY, COMPARISON),
    run=_run_given,
    when=(TAKES_POLICY,),
)
"""The user's own policy."""


def cache_of(subject: Subject, folder: Path) -> Callable[[], Look]:
    """Gives one previewer, made when it is first asked for."""
    return functools.cache(lambda: Previewer(subject, folder))


def _found(
    policy: Policy, carried: Indicators, restricted: Indicators, budgets: tuple[Budget, ...], pair: BitPair | None
) -> Found:
    """By what the policy was found; where uniform bits won, by what the best program beside them was."""
    assert policy.importance is not None
    assert policy.outliers is not None
    recipe = Recipe(importance=policy.importance, alpha=policy.alpha, outliers=policy.outliers.mode)
    if policy.tournament is None:
        return found_by(recipe, restricted, budgets)
    ranked = policy.tournament.candidates
    winner = next(one for one in ranked if one.name == policy.tournament.chosen)
    if winner.importance is not None:
        return found_by(recipe, restricted, budgets)
    best = next((one for one in ranked if one.importance is not None), None)
    if best is not None:
        assert best.importance is not None
        recipe = one_recipe(carried, importance=best.importance, alpha=best.alpha, outliers=best.outliers)
    return found_by(recipe, restricted, budgets, pair)


def _choose(
    subject: Subject,
    look: Callable[[], Look],
    indicators: Indicators,
    budgets: tuple[Budget, ...],
    uniform: BitPair | None,
    report: Report,
) -> Policy:
    config = subject.config
    solve = PolicySearch(solver=config.solver)
    if config.importance is not None:
        recipe = one_recipe(indicators, importance=config.importance, alpha=config.alpha, outliers=config.outliers)
        return find(indicators, budgets, recipe, solve=solve, admit=functools.partial(under_restrictions, subject))
    return hold_tournament(
        indicators,
        budgets,
        recipes(indicators, alpha=config.alpha, outliers=config.outliers),
        look(),
        uniform=uniform,
        usual=None if config.ptq else usual_recipe(indicators, alpha=config.alpha, outliers=config.outliers),
        solve=solve,
        admit=functools.partial(under_restrictions, subject),
        report=report,
    )
