"""A task's figure of one model, and of two models on the same images, each with a 95 % interval. No torch here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Z95 = 1.959963984540054
"""Half the width of a 95 % interval, in standard errors."""

GROUPS = 50
"""Groups of images that are left out in turn; from about twenty on, the interval hardly changes."""

MOST_IMAGES = 10**9
"""No data set has more, so that nobody is told to gather them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The figure of a task: its ``name`` ("top-1"), its ``unit`` ("%") and whether a ``higher`` one is better."""

    name: str
    unit: str = "%"
    higher: bool = True

    @property
    def points(self) -> str:
        """The unit of a difference."""
        return "points" if self.unit == "%" else self.unit

    @property
    def title(self) -> str:
        """The name as it begins a sentence: ``Top-1``; ``mIoU`` stays."""
        return self.name[:1].upper() + self.name[1:] if self.name.islower() else self.name

    def shown(self, value: float) -> str:
        """``91.50 %``."""
        return f"{value:.2f} {self.unit}".rstrip()

    def said(self, value: float) -> str:
        """``top-1 91.50 %``."""
        return f"{self.name} {self.shown(value)}"

    def gain(self, first: float, second: float) -> float:
        """How much better the first figure is than the second, in `points`."""
        return first - second if self.higher else second - first


TOP1 = Measure(name="top-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A task's figure on ``images`` images. ``low`` and ``high``: ends of its 95 % interval. ``details``: further
    figures by name, for people to read."""

    measure: Measure
    images: int
    value: float
    low: float
    high: float
    details: dict[str, float] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        return self.measure.shown(self.value)

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two models on the same images. ``points``: how much better the first is, in the measure's unit, with the ends of
    its 95 % interval; below 0 it is worse. ``p_first_worse``: one-sided probability that chance alone makes the first
    look so much worse."""

    images: int
    points: float
    low: float
    high: float
    p_first_worse: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def images_that_decide(self, limit: float) -> int | None:
        """About how many images leave ``limit`` outside the interval, if the difference stays: its width falls with
        their square root. None where no number does."""
        distance = abs(self.points - limit)
        needed = math.inf if distance == 0 else self.images * ((self.high - self.low) / 2 / distance) ** 2
        return None if needed > MOST_IMAGES else max(self.images, math.ceil(needed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A `Score` with what a comparison needs: the figures with each group of images left out, and for each image
    whether it is right, where that is all that counts (empty otherwise)."""

    accuracy: Score
    left_out: tuple[float, ...]
    hits: tuple[bool, ...] = ()


def scored(
    measure: Measure,
    statistics: Sequence[Any],
    figure: Callable[[Sequence[Any]], float],
    details: Callable[[Sequence[Any]], dict[str, float]] = lambda statistics: {},
    *,
    most_groups: int = GROUPS,
) -> Scored:
    """The figure of per-image statistics. Its interval comes from leaving out every fiftieth image, fifty times (the
    delete-a-group jackknife; Kott, 2001):  var = (G - 1) / G * sum_g (f_g - mean f)^2. ``most_groups`` 0: no
    interval, which takes fifty times as long."""
    value, images = figure(statistics), len(statistics)
    groups = min(most_groups, images)
    left_out: tuple[float, ...] = ()
    if groups > 1:
        kept = ([one for at, one in enumerate(statistics) if at % groups != group] for group in range(groups))
        left_out = tuple(figure(some) for some in kept)
    half = Z95 * _standard_error(left_out)
    score = Score(
        measure=measure,
        images=images,
        value=value,
        low=value - half,
        high=value + half,
        details=details(statistics),
    )
    return Scored(accuracy=score, left_out=left_out)


def difference(first: Scored, second: Scored) -> Difference:
    """How much better the first is. Raises ValueError where the two did not see the same number of images."""
    one, other = first.accuracy, second.accuracy
    if one.images != other.images:
        raise ValueError(f"figures on {one.images} and {other.images} images cannot be compared")
    gain = one.measure.gain
    points = gain(one.value, other.value)
    error = _standard_error([gain(mine, its) for mine, its in zip(first.left_out, second.left_out, strict=True)])
    if error == 0:
        p_worse = 0.0 if points < 0 else 1.0
    else:
        p_worse = 0.5 * math.erfc(-points / error / math.sqrt(2))
    return Difference(
        images=one.images,
        points=points,
        low=points - Z95 * error,
        high=points + Z95 * error,
        p_first_worse=p_worse,
    )


def _standard_error(left_out: Sequence[float]) -> float:
    count = len(left_out)
    return math.sqrt((count - 1) * float(np.var(left_out))) if count > 1 else 0.0
