"""Accuracy against a cost as a small picture of the page: a front with intervals, other policies, files, a reference.

Its letters keep their size where it is drawn about as wide as `WIDTH` pixels; colours come from the page's style.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from limpq_deploy.report import svg
from limpq_deploy.report.axes import Axis, linear, logarithmic

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 20, 46

APART_PX = 11.0
"""Least distance of two labels, from baseline to baseline."""

NEAR_PX = 44.0
"""Labels whose marks are farther apart than this do not meet."""

Kind = Literal["front", "uniform", "candidate", "own", "file"]
ORDER: tuple[Kind, ...] = ("candidate", "uniform", "file", "front", "own")
"""In which marks are painted, the most important last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One policy or file: ``x`` its cost, ``y`` its accuracy with an interval. ``label`` stands beside it; ``at``: its
    place on the slider; ``series``: of which build, where there are several."""

    kind: Kind
    x: float
    y: float
    low: float
    high: float
    hover: str
    label: str = ""
    at: int | None = None
    series: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A line across, such as the float model's accuracy."""

    y: float
    label: str


def scatter(
    marks: Sequence[Mark], *, x_name: str, y_name: str, label: str, reference: Reference | None = None
) -> Markup:
    """Draw marks with costs above 0; the cost stands on a logarithmic axis. Dots of the front are joined by thin lines,
    which lead the eye and promise nothing between them."""
    x_axis = logarithmic(
        min(mark.x for mark in marks) / 1.08, max(mark.x for mark in marks) * 1.1, LEFT + 8, WIDTH - RIGHT - 8
    )
    ys = [end for mark in marks for end in (mark.low, mark.high, mark.y)]
    ys += [reference.y] if reference is not None else []
    y_axis = linear(min(ys), max(ys), HEIGHT - BOTTOM, TOP, steps=5)
    painted = [mark for kind in ORDER for mark in marks if mark.kind == kind]
    return svg.tag(
        "svg",
        *_frame(x_axis, y_axis, x_name, y_name),
        *(_reference(reference, y_axis) if reference is not None else ()),
        *_joined(marks, x_axis, y_axis),
        *(_mark(mark, x_axis, y_axis) for mark in painted),
        *_labels(painted, x_axis, y_axis),
        class_="scatter",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width="100%",
        role="img",
        aria_label=label,
    )


def _frame(x_axis: Axis, y_axis: Axis, x_name: str, y_name: str) -> list[Markup]:
    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick, text in y_axis.ticks:
        y = y_axis(tick)
        parts.append(svg.tag("line", x1=LEFT, x2=edge, y1=y, y2=y, class_="grid"))
        parts.append(svg.tag("text", text, x=LEFT - 6, y=y + 3.5, text_anchor="end", class_="tick"))
    parts.append(svg.tag("line", x1=LEFT, x2=edge, y1=floor, y2=floor, class_="base"))
    last = -100.0
    for tick, text in x_axis.ticks:
        x = x_axis(tick)
        parts.append(svg.tag("line", x1=x, x2=x, y1=floor, y2=floor + 4, class_="base"))
        if x - last > 8 + 6 * len(text):
            parts.append(svg.tag("text", text, x=x, y=floor + 18, text_anchor="middle", class_="tick"))
            last = x
    parts.append(svg.tag("text", x_name, x=(LEFT + edge) / 2, y=HEIGHT - 5, text_anchor="middle", class_="tick"))
    middle = (TOP + floor) / 2
    turned = f"rotate(-90 13 {svg.number(middle)})"
    parts.append(svg.tag("text", y_name, x=13, y=middle, text_anchor="middle", class_="tick", transform=turned))
    return parts


def _reference(reference: Reference, y_axis: Axis) -> list[Markup]:
    y = y_axis(reference.y)
    return [
        svg.tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="reference"),
        svg.tag("text", reference.label, x=LEFT + 4, y=y - 5, class_="mark-label"),
    ]


def _joined(marks: Sequence[Mark], x_axis: Axis, y_axis: Axis) -> list[Markup]:
    lines = []
    for series in sorted({mark.series for mark in marks}):
        own = (mark for mark in marks if mark.kind == "front" and mark.series == series)
        front = sorted(own, key=lambda mark: mark.x)
        points = " ".join(f"{svg.number(x_axis(one.x))},{svg.number(y_axis(one.y))}" for one in front)
        lines.append(svg.tag("polyline", points=points, class_=f"joined s{series}"))
    return lines


def _mark(mark: Mark, x_axis: Axis, y_axis: Axis) -> Markup:
    x, y = x_axis(mark.x), y_axis(mark.y)
    parts: list[Markup] = [svg.tag("title", mark.hover)]
    if mark.high > mark.low:
        parts.append(svg.tag("line", x1=x, x2=x, y1=y_axis(mark.low), y2=y_axis(mark.high), class_="spread"))
    if mark.at is not None:
        parts.append(svg.tag("circle", cx=x, cy=y, r=9, class_="halo"))
    if mark.kind == "candidate":
        cross = f"M{_(x - 3.5)} {_(y - 3.5)}l7 7m0 -7l-7 7"
        parts.append(svg.tag("path", d=cross, class_="shape"))
    elif mark.kind == "file":
        parts.append(svg.tag("rect", x=x - 4.5, y=y - 4.5, width=9, height=9, class_="shape"))
    elif mark.kind == "own":
        parts.append(svg.tag("path", d=f"M{_(x)} {_(y - 7)}l7 7l-7 7l-7 -7z", class_="shape"))
    else:
        parts.append(svg.tag("circle", cx=x, cy=y, r=4.2, class_="shape"))
    more: dict[str, svg.Attribute] = {} if mark.at is None else {"data_at": mark.at}
    return svg.tag("g", *parts, class_=f"mark {mark.kind} s{mark.series}", **more)


def _labels(marks: Sequence[Mark], x_axis: Axis, y_axis: Axis) -> list[Markup]:
    """Names beside their marks, moved down where they would meet one that is set already."""
    placed: list[tuple[float, float]] = []
    found = []
    for mark in sorted((one for one in marks if one.label), key=lambda one: (y_axis(one.y), one.x)):
        x, y = x_axis(mark.x), y_axis(mark.y) - 11
        if y < TOP - 3:
            y += 24
        while any(abs(x - other) < NEAR_PX and abs(y - height) < APART_PX for other, height in placed):
            y += APART_PX
        y = min(y, HEIGHT - BOTTOM - 3)
        placed.append((x, y))
        room = 3.2 * len(mark.label)
        anchor, at = "middle", x
        if x + room > WIDTH - RIGHT:
            anchor, at = "end", x + 6
        elif x - room < LEFT:
            anchor, at = "start", x - 6
        text = svg.tag("text", mark.label, x=at, y=y, text_anchor=anchor, class_=f"mark-label {mark.kind}")
        found.append(text)
    return found


def _(value: float) -> str:
    return svg.number(value)
