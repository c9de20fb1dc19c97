"""The stage that asks what other budgets would give: a certified front with previews, and what each bit is worth."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.latency.rounds import Rounds
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.asked_policy import under_restrictions
from limpq_deploy.pipeline.stages.choose import PLAIN_BUDGETS, RESTRICTING
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.facts import LIMITS, MEASURES, ROUNDS_MADE, SEARCHES
from limpq_deploy.pipeline.stages.previewer import Previewer
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, budgets_from_options, latency_budget
from limpq_deploy.policy.costs import Budget, Cost
from limpq_deploy.policy.explain import Explanation, explain
from limpq_deploy.policy.importance_names import SCALE, read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.latency_cost import latency_cost
from limpq_deploy.policy.policy import Policy, Tournament
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.policy.solver.deadline import Deadline
from limpq_deploy.policy.what_if import (
    PreviewFigure,
    WhatIf,
    WhatIfPoint,
    figure_of,
    front_points,
    limits_of,
    point_of,
    swept_budget,
    uniform_points,
)
from limpq_deploy.progress import Report
from limpq_deploy.train.evaluate import wilson_interval
from limpq_deploy.workspace.file_names import (
    FLOAT_WEIGHTS,
    INDICATORS,
    JOINT,
    PLACEMENT,
    POLICY,
    ROUNDS,
    WHAT_IF,
)

FEW, MANY = 7, 12
"""Points of a front: many where previews are cheap."""

FEWEST_IMAGES, MOST_IMAGES = 200, 2000
"""Images of a preview, and as many for its BatchNorm."""

WORK = 5e11
"""Multiply-accumulates of all previews together, about: beyond that there are fewer images, then fewer points."""

SEARCH_S = 20.0
"""For all searches of the front, and again for the prices; what was found by then stands with its gap."""


def _run(subject: Subject, folder: Path, report: Report) -> str:
    started = time.perf_counter()
    indicators = load_record(Indicators, folder / INDICATORS)
    policy = load_record(Policy, folder / POLICY)
    restricted = under_restrictions(subject, indicators)
    asked, sources = asked_budgets(subject, folder)
    swept = swept_budget(asked, restricted, sources)
    recipe = one_recipe(indicators)
    others = _budgets(restricted, {**asked, swept.name: None, **dict.fromkeys(swept.replaced)}, sources)
    macs = sum(layer.macs for layer in subject.placement.layers)
    number, images = effort(macs)
    table = sources.get("latency_table")
    latency = None if table is None else latency_cost(restricted, table)
    uniform = uniform_points(restricted, latency)
    own = figure_of(swept, restricted, policy.pairs())
    marks = (own, *(figure_of(swept, restricted, one.pairs()) for one in uniform))
    points = front_points(
        indicators,
        recipe,
        swept,
        limits_of(swept, marks, number),
        others,
        solve=PolicySearch(solver=subject.config.solver, deadline=Deadline.within(SEARCH_S)),
        admit=partial(under_restrictions, subject),
        latency=latency,
    )
    look = Previewer(subject, folder, images=images, interval=True)
    shown = _previewed((*points, *uniform), look, report)
    first = look(policy.pairs())
    found = WhatIf(
        swept=swept.name,
        importance=recipe.importance,
        alpha=recipe.alpha,
        outliers=recipe.outliers,
        points=shown[: len(points)],
        uniform=shown[len(points) :],
        candidates=_candidates(policy.tournament, restricted, latency),
        explanation=_explained(subject, policy, indicators, _budgets(restricted, asked, sources)),
        figure=first.measure.name,
        unit=first.measure.unit,
        images=first.images,
        seconds=round(time.perf_counter() - started, 3),
    )
    write_record(found, folder / WHAT_IF)
    low, high = (one.preview for one in (found.points[0], found.points[-1])) if found.points else (None, None)
    if low is None or high is None:
        return "no policy keeps the other budgets"
    proved = sum(one.solver is not None and one.solver.status == "optimal" for one in found.points)
    return (
        f"{len(found.points)} policies from {found.points[0].name} to {found.points[-1].name}, {proved} proved "
        f"optimal; {found.figure} by preview {first.measure.shown(low.value)} to {first.measure.shown(high.value)} "
        f"({first.images:,} images)"
    )


WHAT_IF_STAGE = Stage(
    name="what-if",
    title="what if",
    settings=(*PLAIN_BUDGETS, *RESTRICTING, "solver"),
    facts=LIMITS,
    reads=(POLICY, INDICATORS, PLACEMENT, FLOAT_WEIGHTS, JOINT, If(ROUNDS_MADE, ROUNDS)),
    writes=(WHAT_IF,),
    run=_run,
    when=(SEARCHES, MEASURES),
)
"""What other budgets would give, and what each bit of the policy costs and buys; for the page."""


def effort(macs: int) -> tuple[int, int]:
    """(points, images of each preview) for a model of so many multiply-accumulates."""
    images = int(WORK / max(1, macs) / (2 * MANY))
    if images >= FEWEST_IMAGES:
        return MANY, min(MOST_IMAGES, images)
    return FEW, FEWEST_IMAGES


def asked_budgets(subject: Subject, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of budgets by setting, as the search took them, and the contents of the files that costs come from."""
    config = subject.config
    asked = dict(config.asked_budgets)
    sources = {name: row.load(asked[name]) for name, row in COST_FILES.items() if asked.get(name) is not None}
    if config.goes_round:
        asked["max_latency_ms"] = config.max_latency_ms
        sources["latency_table"] = load_record(Rounds, folder / ROUNDS).table
    return asked, sources


def _budgets(restricted: Indicators, asked: Mapping[str, Any], sources: Mapping[str, Any]) -> tuple[Budget, ...]:
    """Budgets of these settings; none where all are None. A table that a build measured itself comes from no file."""
    plain = {name: asked.get(name) for name in (*BUDGETS, *COST_FILES)}
    measured = plain["latency_table"] is None and "latency_table" in sources
    limit = plain["max_latency_ms"]
    if measured or limit is None:
        plain.update(max_latency_ms=None, latency_table=None)
    found = budgets_from_options(restricted, **plain) if any(value is not None for value in plain.values()) else ()
    if measured and limit is not None:
        found = (*found, latency_budget(restricted, sources["latency_table"], limit))
    return found


def _previewed(points: Sequence[WhatIfPoint], look: Previewer, report: Report) -> tuple[WhatIfPoint, ...]:
    seen = []
    for number, point in enumerate(points):
        report(number, len(points), point.name)
        found = look(point.pairs())
        assert found.low is not None
        assert found.high is not None
        figure = PreviewFigure(value=found.top1, low=found.low, high=found.high, loss=found.loss)
        seen.append(replace(point, preview=figure))
    return tuple(seen)


def _candidates(tournament: Tournament | None, restricted: Indicators, latency: Cost | None) -> tuple[WhatIfPoint, ...]:
    """Those of the tournament, by their own previews; where images are counted, with their interval."""
    if tournament is None:
        return ()
    found = []
    for one in tournament.candidates:
        pairs = {name: bits.pair for name, bits in one.bits.items()}
        low = high = one.top1
        if tournament.measure is None:
            right = round(one.top1 * tournament.images / 100)
            low, high = (100 * end for end in wilson_interval(right, tournament.images))
        figure = PreviewFigure(value=one.top1, low=low, high=high, loss=one.loss)
        found.append(replace(point_of(one.name, pairs, restricted, latency), preview=figure))
    return tuple(found)


def _explained(
    subject: Subject, policy: Policy, indicators: Indicators, budgets: Sequence[Budget]
) -> Explanation | None:
    read = under_restrictions(subject, read_by(indicators, policy.importance or SCALE))
    solve = PolicySearch(solver=subject.config.solver, deadline=Deadline.within(SEARCH_S))
    return explain(policy, read, budgets, solve=solve)
