"""A chart of rows: a name, a track of marks over one common axis, a value. Wraps on narrow screens."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from limpq_deploy.report import svg

AXIS_HEIGHT = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """``hint`` stands small under the name, ``detail`` under the value."""

    name: str
    track: Markup
    value: str
    hint: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChart:
    rows: tuple[Row, ...]
    axis: Markup
    axis_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A linear axis from ``low`` to ``high``, with round tick values."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Position of a value as a share of the axis, kept inside."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def grid(self, height: float) -> Markup:
        return svg.group(*(svg.vertical(self(tick), 0, height, "grid") for tick in self.ticks))

    def axis(self, text: Callable[[float], str]) -> Markup:
        """Tick labels; those at the ends stay inside. Of many every other one is ``between``: narrow tracks leave it
        away."""
        labels = []
        many, last = len(self.ticks) > 4, len(self.ticks) - 1
        for place, tick in enumerate(self.ticks):
            at = self(tick)
            anchor = "start" if at < 0.04 else "end" if at > 0.96 else "middle"
            between = many and 0 < place < last and (place % 2 == 1 or place == last - 1)
            labels.append(svg.words(at, 13, text(tick), "tick between" if between else "tick", anchor))
        return svg.tag("svg", *labels, class_="track", width="100%", height=AXIS_HEIGHT, aria_hidden="true")


def round_scale(low: float, high: float, *, steps: int = 5) -> Scale:
    """The smallest axis of about ``steps`` round steps (1, 2 or 5 times a power of ten) that holds both ends."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(index * step, 10) for index in range(first, last + 1))
    return Scale(low=ticks[0], high=ticks[-1], ticks=ticks)


def tick_text(scale: Scale, unit: str = "") -> Callable[[float], str]:
    """Labels with as many decimals as the step needs."""
    step = scale.ticks[1] - scale.ticks[0]
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return lambda value: f"{value:,.{places}f}{unit}"
