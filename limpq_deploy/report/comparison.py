"""Several builds side by side on one page: what each would ship, what that costs, their fronts and their bits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from limpq_deploy.calibration.files import write_text
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.what_if import WhatIf, WhatIfPoint
from limpq_deploy.report.bits_over_front import bits_chart, pairs_of_all
from limpq_deploy.report.columns import ColumnChart
from limpq_deploy.report.costs import amount, budget_name
from limpq_deploy.report.figures import binary_size, count, giga, milliseconds
from limpq_deploy.report.page import environment, security_policy, whole_style
from limpq_deploy.report.scatter import Kind, Mark, scatter
from limpq_deploy.verdict.candidates import SIMPLEST, Candidate
from limpq_deploy.verdict.recommendation import sentence
from limpq_deploy.verdict.record import Verdict

TEMPLATE = "comparison.html.j2"

SERIES = 4
"""Colours of builds."""

COSTS: tuple[tuple[str, Callable[[WhatIfPoint], float]], ...] = (
    ("G BitOps, all layers", lambda point: point.bitops / 1e9),
    ("KiB of weights, stored at their bits", lambda point: point.size_bits / 2**13),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedBuild:
    """A finished build by the records of its folder; ``name`` is what tells it from the others."""

    name: str
    command: str
    verdict: Verdict
    policy: Policy
    placement: Placement
    what_if: WhatIf | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A row of the table: one text for each build; ``alike``: all are the same."""

    name: str
    values: tuple[str, ...]

    @property
    def alike(self) -> bool:
        return len(set(self.values)) == 1


def write_comparison(path: Path, builds: Sequence[ComparedBuild]) -> None:
    """Write the page whole. Raises OutputError where that is not possible."""
    write_text(path, render_comparison(builds))


def render_comparison(builds: Sequence[ComparedBuild]) -> str:
    """The page as HTML; a pure function of the builds."""
    same_layers = len({tuple(layer.name for layer in one.placement.layers) for one in builds}) == 1
    charts = [_bits(one) for one in builds]
    style = whole_style(charts)
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            builds=builds,
            series=[number % SERIES for number in range(len(builds))],
            facts=_facts(builds),
            candidates=_candidates(builds),
            pictures=_pictures(builds),
            charts=charts,
            layers=_layers(builds) if same_layers else None,
            style=Markup(style),
            policy=Markup(security_policy(style, "")),
        )
    )


def _facts(builds: Sequence[ComparedBuild]) -> tuple[Fact, ...]:
    def row(name: str, text: Callable[[ComparedBuild], str]) -> Fact:
        return Fact(name=name, values=tuple(map(text, builds)))

    return (
        row("Ship", lambda one: one.verdict.recommendation.candidate if one.verdict.recommendation else "not said"),
        row("Why", _why),
        row("Verdict", lambda one: f"{one.verdict.outcome}, {len(one.verdict.checks)} checks"),
        row("Model", lambda one: one.verdict.model),
        row("Target", lambda one: one.verdict.target),
        row("Budgets", _budgets),
        row("Policy found by", _found_by),
        row("Mean bits of layers", _mean_bits),
    )


def _why(one: ComparedBuild) -> str:
    found = one.verdict.recommendation
    return "" if found is None else sentence(found, one.verdict.outcome)


def _budgets(one: ComparedBuild) -> str:
    used = (
        f"{budget_name(use.name)}: {amount(use.used, use.unit)} of {amount(use.limit, use.unit)}"
        for use in one.policy.costs
    )
    return "; ".join(used) or "none"


def _found_by(one: ComparedBuild) -> str:
    if one.policy.tournament is not None:
        return f"{one.policy.tournament.chosen}, of {len(one.policy.tournament.candidates)}"
    return f"{one.policy.importance or 'scale'}, alpha {one.policy.alpha:g}"


def _mean_bits(one: ComparedBuild) -> str:
    bits = one.policy.bits.values()
    weight, act = (sum(part) / max(1, len(bits)) for part in zip(*((b.weight, b.act) for b in bits), strict=True))
    return f"{weight:.2f} weight, {act:.2f} activation"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """One file of one build as text."""

    build: int
    name: str
    bits: str
    shipped: bool
    accuracy: str
    interval: str
    size: str
    bitops: str
    time: str


def _candidates(builds: Sequence[ComparedBuild]) -> tuple[CandidateRow, ...]:
    """All files, kind by kind, so that the same kind of two builds stands together."""
    return tuple(
        _candidate(number, build, one)
        for name in SIMPLEST
        for number, build in enumerate(builds)
        for one in build.verdict.candidates
        if one.name == name
    )


def _candidate(number: int, build: ComparedBuild, one: Candidate) -> CandidateRow:
    found, accuracy = build.verdict.recommendation, build.verdict.accuracy
    unit = accuracy.float.measure.unit if accuracy is not None else ""
    time = "not measured"
    if one.latency_ms is not None:
        time = milliseconds(one.latency_ms)
    elif one.moved is not None:
        time = f"{count(one.moved)} bytes moved at batch {one.batch}, {one.kernels} kernels"
    return CandidateRow(
        build=number,
        name=one.name,
        bits=one.bits,
        shipped=found is not None and found.candidate == one.name,
        accuracy=f"{one.accuracy:.2f} {unit}".rstrip(),
        interval=f"{one.accuracy_low:.2f} to {one.accuracy_high:.2f}",
        size=binary_size(one.bytes),
        bitops=f"{giga(one.bitops_nominal)} / {giga(one.bitops_realised)}",
        time=time,
    )


def _pictures(builds: Sequence[ComparedBuild]) -> tuple[Markup, ...]:
    """Fronts of all builds by one figure; none where their figures differ."""
    found = [(number, one, one.what_if) for number, one in enumerate(builds) if one.what_if is not None]
    figures = {(what_if.figure, what_if.unit) for _, _, what_if in found}
    if len(figures) != 1:
        return ()
    figure, unit = figures.pop()
    pictures = []
    for x_name, cost in COSTS:
        marks = []
        for number, one, what_if in found:
            for kind, point in _points(one, what_if):
                seen = point.preview
                if seen is None or cost(point) <= 0:
                    continue
                marks.append(
                    Mark(
                        kind=kind,
                        x=cost(point),
                        y=seen.value,
                        low=seen.low if kind == "front" else seen.value,
                        high=seen.high if kind == "front" else seen.value,
                        hover=f"{one.name}, {point.name}: {figure} {seen.value:.2f} {unit} by preview",
                        label=f"{one.name}'s own" if kind == "own" else "",
                        series=number % SERIES,
                    )
                )
        if marks:
            label = f"{figure} by preview against {x_name} of {len(found)} builds."
            pictures.append(scatter(marks, x_name=x_name, y_name=f"{figure}, {unit}", label=label))
    return tuple(pictures)


def _points(one: ComparedBuild, what_if: WhatIf) -> list[tuple[Kind, WhatIfPoint]]:
    own = one.policy.pairs()
    points: list[tuple[Kind, WhatIfPoint]] = [("front", point) for point in what_if.points]
    every = (*what_if.points, *what_if.uniform, *what_if.candidates)
    mine = next((point for point in every if point.pairs() == own and point.preview is not None), None)
    return [*points, ("own", mine)] if mine is not None else points


def _bits(one: ComparedBuild) -> ColumnChart:
    pairs = pairs_of_all(one.placement, one.policy, one.policy.pairs())
    return bits_chart(one.placement.layers, pairs)


def _layers(builds: Sequence[ComparedBuild]) -> tuple[tuple[str, tuple[BitPair, ...], bool], ...]:
    """(layer, pairs of each build, whether they differ)."""
    columns = [pairs_of_all(one.placement, one.policy, one.policy.pairs()) for one in builds]
    rows = zip(builds[0].placement.layers, zip(*columns, strict=True), strict=True)
    return tuple((layer.name, pairs, len(set(pairs)) > 1) for layer, pairs in rows)
