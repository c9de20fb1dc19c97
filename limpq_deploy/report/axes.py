"""Axes of pictures: numbers to pixels, linear or logarithmic, with round ticks."""

import math
from dataclasses import dataclass

from limpq_deploy.report.rows import round_scale, tick_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Numbers from ``low`` to ``high`` at pixels from ``start`` to ``end``; ``ticks``: (number, its text)."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def linear(low: float, high: float, start: float, end: float, *, steps: int) -> Axis:
    """An axis of about ``steps`` round steps that holds both ends."""
    least = 1e-6 * max(abs(low), abs(high)) or 1e-6
    if high - low < least:  # one point, whose bound lies a rounding below it
        low, high = low - 1e5 * least, high + 1e5 * least
    scale = round_scale(low, high, steps=steps)
    text = tick_text(scale)
    ticks = tuple((tick, text(tick)) for tick in scale.ticks)
    return Axis(low=scale.low, high=scale.high, start=start, end=end, ticks=ticks)


def logarithmic(low: float, high: float, start: float, end: float) -> Axis:
    """An axis from ``low`` to ``high``, both above 0, with ticks at 1, 2 and 5 times powers of ten; at each power alone
    where they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    named = tuple((tick, f"{tick:g}") for tick in ticks if low <= tick <= high)
    return Axis(low=low, high=high, start=start, end=end, ticks=named, log=True)
