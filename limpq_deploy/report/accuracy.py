"""Accuracy of the compared models, with the interval that so many images allow."""

from dataclasses import dataclass

from limpq_deploy.report import svg
from limpq_deploy.report.figures import count, digits, plural, signed
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.rows import Row, RowChart, round_scale, tick_text
from limpq_deploy.tasks.score import TOP1, Difference, Score
from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.verdict.record import AccuracyResult

HEIGHT = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRow:
    """One model; ``low`` and ``high`` are the ends of the 95 % interval in the figure's unit, ``points`` the difference
    to float."""

    name: str
    accuracy: Accuracy | Score
    low: float
    high: float
    points: float
    class_: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracySection:
    """``title``: the figure's name; ``how``: where its interval comes from. ``paired``: the comparison with the uniform
    policy as a sentence, ``paired_float``: that with float. ``of``: what these accuracies are of."""

    title: str
    how: str
    points: str

    chart: RowChart
    rows: tuple[AccuracyRow, ...]
    images: int
    paired: str | None
    paired_float: str | None
    of: str | None
    missing_uniform: str | None

    @property
    def counted(self) -> bool:
        """Whether images are right or wrong."""
        return all(isinstance(row.accuracy, Accuracy) for row in self.rows)

    @property
    def top5(self) -> bool:
        return any(isinstance(row.accuracy, Accuracy) and row.accuracy.top5 is not None for row in self.rows)

    @property
    def details(self) -> tuple[str, ...]:
        """Names of further figures."""
        found = (row.accuracy.details for row in self.rows if isinstance(row.accuracy, Score))
        return tuple(dict.fromkeys(name for details in found for name in details))


def accuracy_section(inputs: ReportInputs) -> AccuracySection | None:
    result = inputs.verdict.accuracy
    if result is None:
        return None
    uniform_name = f"uniform {result.uniform_bits}" if result.uniform_bits else "uniform"
    named = (
        ("float", "m-float", result.float),
        ("mixed", "m-mixed", result.mixed),
        (uniform_name, "m-uniform", result.uniform),
        ("uniform 8 bit", "m-uniform8", result.uniform8),
        ("uniform fp8", "m-uniform8", result.fp8),
    )
    rows = []
    for name, class_, accuracy in named:
        if accuracy is not None:
            low, high = accuracy.interval
            points = accuracy.value - result.float.value
            rows.append(AccuracyRow(name=name, accuracy=accuracy, low=low, high=high, points=points, class_=class_))
    missing = None
    if result.uniform is None:
        missing = (
            f"The uniform policy {result.uniform_bits} within the same budget was not measured."
            if result.uniform_bits
            else "No uniform policy keeps the budgets and restrictions, so there is none to compare with."
        )
    measure = result.float.measure
    return AccuracySection(
        title=measure.title,
        how="Wilson" if isinstance(result.float, Accuracy) else "jackknife",
        points=measure.points,
        chart=_chart(rows),
        rows=tuple(rows),
        images=result.float.images,
        paired=_paired(inputs),
        paired_float=_paired_float(result),
        of=result.of,
        missing_uniform=missing,
    )


def _chart(rows: list[AccuracyRow]) -> RowChart:
    scale = round_scale(min(row.low for row in rows), max(row.high for row in rows))
    middle = HEIGHT / 2
    reference, measure = rows[0].accuracy.value, rows[0].accuracy.measure

    def track(row: AccuracyRow) -> Row:
        marks = (
            scale.grid(HEIGHT),
            svg.vertical(scale(reference), 0, HEIGHT, "reference"),
            svg.horizontal(middle, f"whisker {row.class_}", scale(row.low), scale(row.high)),
            svg.dot(scale(row.accuracy.value), middle, 6, f"dot {row.class_}"),
        )
        said = measure.said(row.accuracy.value)
        label = f"{row.name}: {said}, 95 % interval {row.low:.2f} to {measure.shown(row.high)}"
        return Row(
            name=row.name,
            track=svg.image(label, HEIGHT, *marks),
            value=row.accuracy.shown,
            detail="" if row is rows[0] else f"{signed(row.points)} {measure.points}",
        )

    return RowChart(
        rows=tuple(track(row) for row in rows),
        axis=scale.axis(tick_text(scale, f" {measure.unit}".rstrip())),
        axis_name="top-1 accuracy" if measure == TOP1 else measure.name,
    )


def _paired_float(result: AccuracyResult) -> str | None:
    if result.against_float is None:
        return None
    pair, (low, high) = result.against_float, result.against_float.interval
    if isinstance(pair, Difference):
        return (
            f"On the same {count(pair.images)} images mixed is {signed(pair.points)} {result.mixed.measure.points} "
            f"better than float, 95 % interval {signed(low)} to {signed(high)}."
        )
    return (
        f"Image by image, mixed alone is right on {plural(pair.only_first, 'image')} and float alone on "
        f"{count(pair.only_second)} of {count(pair.images)}: {signed(pair.points)} points, 95 % interval {signed(low)} "
        f"to {signed(high)}."
    )


def _paired(inputs: ReportInputs) -> str | None:
    result = inputs.verdict.accuracy
    if result is None or result.against_uniform is None:
        return None
    pair = result.against_uniform
    if isinstance(pair, Difference):
        return (
            f"On the same {count(pair.images)} images mixed is {signed(pair.points)} {result.mixed.measure.points} "
            f"better than {result.uniform_bits}. If both were equally good, mixed would look at least this bad with "
            f"probability {digits(pair.p_first_worse)}."
        )
    return (
        f"Image by image, mixed alone is right on {plural(pair.only_first, 'image')} and {result.uniform_bits} alone "
        f"on {count(pair.only_second)} of {count(pair.images)} ({signed(pair.points)} points). If both were equally "
        f"good, mixed would look at least this bad with probability {digits(pair.p_first_worse)}."
    )
