"""A chart of columns with long names: one column per layer or tensor, in execution order, the names upright below.

All charts of one model use the same columns, so they can be read one above the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limpq_deploy.report import svg

MIN_COLUMN_PX = 15
MAX_COLUMN_PX = 104
AXIS_WIDTH_PX = 54
MAX_NAME = 26
LETTER_PX = 5.9
NOTHING = Markup("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """``hover`` is shown under the pointer; ``marks`` are drawn in the column's own width (shares of 1)."""

    name: str
    hover: str
    marks: Markup
    class_: str = "column"


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisLabel:
    y: float
    text: str
    class_: str = "tick"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChart:
    """``axis`` stays in sight while ``plot`` scrolls sideways below ``min_width`` pixels; it grows to ``max_width``."""

    axis: Markup
    plot: Markup
    columns: int

    @property
    def min_width(self) -> int:
        return MIN_COLUMN_PX * self.columns

    @property
    def max_width(self) -> int:
        return MAX_COLUMN_PX * self.columns

    @property
    def rule(self) -> str:
        """Of the page's style: no element has a style of its own."""
        return f".cols-{self.columns}{{min-width:{self.min_width}px;max-width:{self.max_width}px}}"


def column_chart(
    label: str,
    columns: Sequence[Column],
    height: float,
    *,
    axis: Sequence[AxisLabel] = (),
    behind: Markup = NOTHING,
    front: Markup = NOTHING,
) -> ColumnChart:
    """Draw columns ``height`` pixels high, and their names below. ``label``: for screen readers; ``behind`` and
    ``front``: drawn across all columns, before and after them."""
    width = 1 / max(1, len(columns))
    names = [short_name(column.name) for column in columns]
    total = height + 10 + LETTER_PX * max((len(name) for name in names), default=0)
    drawn = [
        svg.tag(
            "svg",
            svg.tag("title", column.hover),
            svg.box(0, 0, 1, total, "catch"),
            column.marks,
            svg.tag(
                "svg",
                svg.tag("text", name, transform="rotate(-90)", text_anchor="end", dy="0.33em", class_="name"),
                x="50%",
                y=height + 6,
                overflow="visible",
            ),
            x=svg.share(index * width),
            width=svg.share(width),
            height=total,
            class_=column.class_,
        )
        for index, (column, name) in enumerate(zip(columns, names, strict=True))
    ]
    plot = svg.image(label, total, behind, *drawn, front, class_="plot")
    labels = [
        svg.tag("text", entry.text, x=AXIS_WIDTH_PX - 7, y=entry.y, dy="0.33em", text_anchor="end", class_=entry.class_)
        for entry in axis
    ]
    side = svg.tag("svg", *labels, class_="side", width=AXIS_WIDTH_PX, height=total, aria_hidden="true")
    return ColumnChart(axis=side, plot=plot, columns=len(columns))


def short_name(name: str) -> str:
    """A name of at most `MAX_NAME` letters; the end says more than the beginning."""
    return name if len(name) <= MAX_NAME else "\N{HORIZONTAL ELLIPSIS}" + name[-(MAX_NAME - 1) :]
