"""Parity: the integer reference against the runtime, and the trained model against the exported one."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from limpq_deploy.export.reference.parity import ParityReport, TensorParity
from limpq_deploy.report import svg
from limpq_deploy.report.columns import AxisLabel, Column, ColumnChart, column_chart
from limpq_deploy.report.figures import count, percent
from limpq_deploy.report.inputs import ReportInputs

DECADE_PX = 22
TOP = 14
HIGHEST = 0
"""10^0: every code differs."""


FORMS = {
    "placed graph": "The graph that is trained, its quantizers off",
    "float template": "That graph as it is exported, with the first weights",
    "exported float model": "The exported float model, with the last weights",
}
"""What `GivenComparison` calls the forms of a model, in words for readers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenForm:
    """A float form of the model beside the user's own module; ``difference`` None where it was not compared."""

    what: str
    difference: float | None
    why: str
    limit: float
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRow:
    """One tensor in the three comparisons; None where it was not compared."""

    tensor: str
    runtime: TensorParity | None
    faithful: TensorParity | None
    folding: TensorParity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over tensors. ``tie``: farthest mismatch from a rounding tie, in steps."""

    elements: int
    mismatches: int
    max_lsb: int
    tie: float | None

    @property
    def share(self) -> float:
        return self.mismatches / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """An image that the two put into different classes."""

    image: int
    trained: str
    runtime: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParitySection:
    report: ParityReport
    given: tuple[GivenForm, ...]
    rows: tuple[ParityRow, ...]
    runtime: Total
    faithful: Total | None
    folding: Total | None
    end_to_end: Total | None
    chart: ColumnChart | None
    limit: float
    differing: tuple[Differing, ...]
    unwatched: tuple[tuple[str, str], ...]


def _given(report: ParityReport) -> Iterator[GivenForm]:
    for one in report.given:
        for name in (*one.differences, *one.not_compared):
            yield GivenForm(
                what=FORMS.get(name, name),
                difference=one.differences.get(name),
                why=one.not_compared.get(name, ""),
                limit=one.limit,
                images=one.images,
            )


def parity_section(inputs: ReportInputs) -> ParitySection | None:
    report = inputs.parity
    if report is None:
        return None
    rows = _rows(report)
    limit = inputs.verdict.limits.max_flip_share
    return ParitySection(
        report=report,
        given=tuple(_given(report)),
        rows=rows,
        runtime=total(report.tensors),
        faithful=total(report.faithful) if report.faithful else None,
        folding=total(report.folding) if report.folding else None,
        end_to_end=total(report.end_to_end) if report.end_to_end else None,
        chart=_chart(rows, limit) if report.faithful or report.folding else None,
        limit=limit,
        differing=tuple(
            Differing(
                image=one.image,
                trained=_class(inputs.class_names, one.trained),
                runtime=_class(inputs.class_names, one.runtime),
            )
            for one in report.disagreements
        ),
        unwatched=tuple(report.unwatched.items()),
    )


def total(parts: tuple[TensorParity, ...]) -> Total:
    ties = [part.max_tie_distance for part in parts if part.mismatches and part.max_tie_distance is not None]
    return Total(
        elements=sum(part.elements for part in parts),
        mismatches=sum(part.mismatches for part in parts),
        max_lsb=max((part.max_lsb for part in parts), default=0),
        tie=max(ties, default=None),
    )


def _rows(report: ParityReport) -> tuple[ParityRow, ...]:
    sides = [{part.tensor: part for part in parts} for parts in (report.tensors, report.faithful, report.folding)]
    names = dict.fromkeys(name for side in (sides[1], sides[2], sides[0]) for name in side)
    return tuple(
        ParityRow(tensor=name, runtime=sides[0].get(name), faithful=sides[1].get(name), folding=sides[2].get(name))
        for name in names
    )


def _chart(rows: tuple[ParityRow, ...], limit: float) -> ColumnChart:
    """Share of differing codes by tensor, logarithmic above a row for exactly none."""
    rows = tuple(row for row in rows if row.faithful or row.folding)
    shares = [
        part.mismatches / part.elements
        for row in rows
        for part in (row.faithful, row.folding)
        if part is not None and part.mismatches
    ]
    lowest = math.floor(math.log10(min([*shares, limit])) - 1e-9)
    none = TOP + DECADE_PX * (HIGHEST - lowest) + DECADE_PX

    def height(value: float) -> float:
        return TOP + DECADE_PX * (HIGHEST - math.log10(value)) if value > 0 else none

    decades = range(lowest, HIGHEST + 1)
    behind = [svg.horizontal(height(10.0**power), "grid") for power in decades]
    behind += [svg.horizontal(none, "base"), svg.horizontal(height(limit), "limit")]
    axis = [AxisLabel(y=none, text="none")]
    axis += [AxisLabel(y=height(10.0**power), text=_power(power)) for power in decades if (power - lowest) % 2 == 0]

    def column(row: ParityRow) -> Column:
        marks = []
        said = [row.tensor]
        for name, part, radius in (("folding", row.folding, 5.0), ("faithful", row.faithful, 3.6)):
            if part is not None and part.elements:
                share = part.mismatches / part.elements
                marks.append(svg.dot(0.5, height(share), radius, f"p-{name}"))
                said.append(
                    f"{name}: {count(part.mismatches)} of {count(part.elements)} codes differ ({percent(share)}), "
                    f"at most {part.max_lsb} LSB"
                )
        return Column(name=row.tensor.removesuffix("_codes"), hover="\n".join(said), marks=svg.group(*marks))

    label = "Share of codes that differ between trained and exported model, by tensor; the table below has the numbers."
    return column_chart(label, [column(row) for row in rows], none + 6, axis=axis, behind=svg.group(*behind))


def _power(power: int) -> str:
    return f"{100 * 10.0**power:g} %" if power >= -4 else f"1e{power + 2} %"


def _class(names: tuple[str, ...], index: int) -> str:
    return f"{names[index]} ({index})" if 0 <= index < len(names) else str(index)
