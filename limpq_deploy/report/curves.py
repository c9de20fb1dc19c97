"""Losses while the networks were trained, one small picture for each training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limpq_deploy.report import svg
from limpq_deploy.report.axes import linear, logarithmic

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 66, 12, 44

POINTS = 90
"""Points of a line, at most: each the mean of so many steps."""

APART_PX = 11.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A training: its title, and of each pass, such as a bit-width, (step, loss) in order."""

    title: str
    losses: Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePicture:
    title: str
    picture: Markup
    ends: str


def curves_section(curves: Sequence[Curve]) -> tuple[CurvePicture, ...]:
    """Empty where no log was kept."""
    pictures = []
    for curve in curves:
        losses = {name: _means(line) for name, line in curve.losses.items()}
        losses = {name: line for name, line in losses.items() if len(line) > 1}
        if losses:
            ends = ", ".join(f"{name} {line[0][1]:.3g} to {line[-1][1]:.3g}" for name, line in losses.items())
            pictures.append(CurvePicture(title=curve.title, picture=_draw(curve.title, losses, ends), ends=ends))
    return tuple(pictures)


def _means(line: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` means of neighbours; what is no positive number is left out, as the axis is logarithmic."""
    kept = [(step, loss) for step, loss in line if math.isfinite(loss) and loss > 0]
    size = max(1, math.ceil(len(kept) / POINTS))
    groups = [kept[at : at + size] for at in range(0, len(kept), size)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]


def _draw(title: str, losses: Mapping[str, list[tuple[float, float]]], ends: str) -> Markup:
    steps = [step for line in losses.values() for step, _ in line]
    values = [loss for line in losses.values() for _, loss in line]
    x_axis = linear(0.0, max(steps), LEFT, WIDTH - RIGHT, steps=4)
    y_axis = logarithmic(min(values) / 1.15, max(values) * 1.15, HEIGHT - BOTTOM, TOP)
    floor = HEIGHT - BOTTOM
    parts = [svg.tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor, class_="base")]
    for tick, text in y_axis.ticks:
        y = y_axis(tick)
        parts.append(svg.tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(svg.tag("text", text, x=LEFT - 6, y=y + 3.5, text_anchor="end", class_="tick"))
    for tick, text in x_axis.ticks:
        parts.append(svg.tag("text", text, x=x_axis(tick), y=floor + 18, text_anchor="middle", class_="tick"))
    parts.append(
        svg.tag("text", "step", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle", class_="tick")
    )
    placed: list[float] = []
    for place, (name, line) in enumerate(sorted(losses.items(), key=lambda one: one[1][-1][1], reverse=True)):
        points = " ".join(f"{svg.number(x_axis(step))},{svg.number(y_axis(loss))}" for step, loss in line)
        parts.append(svg.tag("polyline", points=points, class_=f"curve c{place % 6}"))
        y = y_axis(line[-1][1])
        if placed and y < placed[-1] + APART_PX:
            y = placed[-1] + APART_PX
        placed.append(y)
        said = f"{name} bit" if name.isdigit() else name
        parts.append(
            svg.tag("text", said, x=WIDTH - RIGHT + 6, y=min(y, floor) + 3.5, class_=f"curve-name c{place % 6}")
        )
    return svg.tag(
        "svg",
        *parts,
        class_="scatter",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width="100%",
        role="img",
        aria_label=f"Loss of {title} by step, logarithmic: {ends}.",
    )
