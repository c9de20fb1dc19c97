"""The front as a picture: objective against BitOps, what is proved below it, uniform and infeasible budgets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.files import write_bytes
from limpq_deploy.policy.front import Front, UniformPoint
from limpq_deploy.report.drawing import (
    BAD,
    LINE,
    MAIN,
    OTHER,
    SOFT,
    TEXT,
    Area,
    Dot,
    Drawing,
    Line,
    Point,
    Shape,
    Text,
    to_png,
    to_svg,
)
from limpq_deploy.report.figures import digits, plural
from limpq_deploy.report.rows import round_scale, tick_text

WIDTH, HEIGHT = 920, 540
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 92, 62
GIGA = 1e9

LETTER = 6.3
"""Pixels that a letter of the key takes, about."""

LOG_FROM = 8.0
"""Objectives that span more than this ratio stand on a logarithmic axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
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


def write_front_picture(front: Front, path: Path, *, uniform: Sequence[UniformPoint] = ()) -> None:
    """Write the picture by the file's ending, ``.svg`` or ``.png``. Raises SettingError for another one, or for a front
    without a point."""
    writers = {".svg": lambda drawing: to_svg(drawing).encode(), ".png": to_png}
    if path.suffix.lower() not in writers:
        raise SettingError(f"cannot draw a picture into {path.name!r}; expected a name that ends in .svg or .png")
    write_bytes(path, writers[path.suffix.lower()](front_picture(front, uniform=uniform)))


def front_picture(front: Front, *, uniform: Sequence[UniformPoint] = ()) -> Drawing:
    """Draw a front.

    Each point stands at the BitOps that its policy takes; the line between them is what the policies reach, the grey
    area what no policy reaches, as the searches prove it. ``uniform`` (`policy.front.uniform_points`) are left out
    beyond the axes. Raises SettingError where no point was found.
    """
    if not front.points:
        raise SettingError(
            f"no budget of the sweep is met, from {front.infeasible[0].gbitops_limit:g} to "
            f"{front.infeasible[-1].gbitops_limit:g} G BitOps: there is nothing to draw; sweep larger budgets"
            if front.infeasible
            else "the front has no point: there is nothing to draw; sweep at least one budget"
        )
    x_axis, y_axis = _axes(front, uniform)
    seen = [one for one in uniform if x_axis.holds(one.bitops / GIGA) and y_axis.holds(one.objective)]
    shapes: list[Shape] = [
        *_proved(front, x_axis, y_axis),
        *_frame(x_axis, y_axis),
        *_infeasible(front, x_axis),
        _reached(front, x_axis, y_axis),
        *_uniform(seen, x_axis, y_axis),
        *_points(front, x_axis, y_axis),
        *_heading(front, bool(seen)),
    ]
    first, last = front.points[0], front.points[-1]
    return Drawing(
        width=WIDTH,
        height=HEIGHT,
        label=f"Objective against G BitOps of {plural(len(front.points), 'policy', 'policies')} of {front.model}: "
        f"from {digits(first.policy.objective)} at {digits(first.bitops / GIGA)} G "
        f"to {digits(last.policy.objective)} at {digits(last.bitops / GIGA)} G.",
        shapes=tuple(shapes),
    )


def _axes(front: Front, uniform: Sequence[UniformPoint]) -> tuple[_Axis, _Axis]:
    """Axes that hold every point, bound and infeasible budget, and the uniform policies that are at most 1.35 times
    as high. The last limit may lie beyond: a budget that buys nothing more should not squeeze the rest."""
    points = front.points
    xs = [point.bitops / GIGA for point in points] + [point.gbitops_limit for point in points[:-1]]
    xs += [budget.gbitops_limit for budget in front.infeasible]
    ys = [point.policy.objective for point in points] + [point.solver.bound for point in points]
    x_axis = _linear(min(xs), max(xs), LEFT, WIDTH - RIGHT, steps=8)
    near = [one.objective for one in uniform if x_axis.holds(one.bitops / GIGA) and one.objective <= 1.35 * max(ys)]
    low, high = min(ys), max([*ys, *near])
    if low > 0 and high / low > LOG_FROM:
        return x_axis, _logarithmic(low / 1.08, high * 1.08, HEIGHT - BOTTOM, TOP)
    return x_axis, _linear(low, high, HEIGHT - BOTTOM, TOP, steps=6)


def _linear(low: float, high: float, start: float, end: float, *, steps: int) -> _Axis:
    least = 1e-6 * max(abs(low), abs(high)) or 1e-6
    if high - low < least:  # one point, whose bound lies a rounding below it
        low, high = low - 1e5 * least, high + 1e5 * least
    scale = round_scale(low, high, steps=steps)
    text = tick_text(scale)
    ticks = tuple((tick, text(tick)) for tick in scale.ticks)
    return _Axis(low=scale.low, high=scale.high, start=start, end=end, ticks=ticks)


def _logarithmic(low: float, high: float, start: float, end: float) -> _Axis:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    named = tuple((tick, f"{tick:g}") for tick in ticks if low <= tick <= high)
    return _Axis(low=low, high=high, start=start, end=end, ticks=named, log=True)


def _frame(x_axis: _Axis, y_axis: _Axis) -> list[Shape]:
    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    shapes: list[Shape] = []
    for tick, text in y_axis.ticks:
        shapes.append(Line(points=((LEFT, y_axis(tick)), (edge, y_axis(tick))), ink=LINE))
        shapes.append(Text(at=(LEFT - 9, y_axis(tick) + 4), content=text, anchor="end"))
    for tick, text in x_axis.ticks:
        shapes.append(Line(points=((x_axis(tick), floor), (x_axis(tick), floor + 5)), ink=OTHER))
        shapes.append(Text(at=(x_axis(tick), floor + 20), content=text, anchor="middle"))
    shapes.append(Line(points=((LEFT, floor), (edge, floor)), ink=OTHER))
    scale = ", logarithmic" if y_axis.log else ""
    middle = (TOP + floor) / 2
    shapes.append(
        Text(at=((LEFT + edge) / 2, HEIGHT - 14), content="G BitOps, pinned layers included", anchor="middle")
    )
    shapes.append(Text(at=(20, middle), content=f"objective{scale}", anchor="middle", upright=True))
    return shapes


def _proved(front: Front, x_axis: _Axis, y_axis: _Axis) -> list[Shape]:
    """No policy within a limit lies below that limit's bound, and none at all within an infeasible one: a staircase,
    filled down to the axis."""
    floor, left = float(HEIGHT - BOTTOM), x_axis.start
    stairs: list[Point] = []
    if front.infeasible:
        right = x_axis(front.infeasible[-1].gbitops_limit)
        stairs += [(left, TOP), (right, TOP)]
        left = right
    for point in front.points:
        height = floor if y_axis.log and point.solver.bound <= 0 else y_axis(point.solver.bound)
        right = min(x_axis(point.gbitops_limit), x_axis.end)
        stairs += [(left, height), (right, height)]
        left = right
    return [Area(points=((stairs[0][0], floor), *stairs, (stairs[-1][0], floor)), ink=SOFT)]


def _reached(front: Front, x_axis: _Axis, y_axis: _Axis) -> Line:
    """What the policies reach: level until the next one."""
    corners: list[Point] = []
    for point in front.points:
        x, y = x_axis(point.bitops / GIGA), y_axis(point.policy.objective)
        corners += [(x, corners[-1][1] if corners else y), (x, y)]
    return Line(points=(*corners, (x_axis.end, corners[-1][1])), ink=MAIN, width=1.4)


def _points(front: Front, x_axis: _Axis, y_axis: _Axis) -> list[Shape]:
    radius = 4.2 if len(front.points) <= 80 else 2.6
    return [
        Dot(
            at=(x_axis(point.bitops / GIGA), y_axis(point.policy.objective)),
            radius=radius,
            ink=MAIN,
            hover=f"{digits(point.bitops / GIGA)} G of {point.gbitops_limit:g} G BitOps: objective "
            f"{point.policy.objective:.6f}, no policy below {point.solver.bound:.6f} (gap {point.solver.gap:.1e})",
        )
        for point in front.points
    ]


def _uniform(uniform: Sequence[UniformPoint], x_axis: _Axis, y_axis: _Axis) -> list[Shape]:
    """Rings; those with equal bits are named."""
    shapes: list[Shape] = []
    for one in sorted(uniform, key=lambda one: one.weight_bits == one.act_bits):
        at = (x_axis(one.bitops / GIGA), y_axis(one.objective))
        name = f"w{one.weight_bits}a{one.act_bits}"
        hover = f"uniform {name}: {digits(one.bitops / GIGA)} G BitOps, objective {one.objective:.6f}"
        equal = one.weight_bits == one.act_bits
        shapes.append(Dot(at=at, radius=4.2, ink=TEXT if equal else OTHER, hollow=True, hover=hover))
        if equal:
            shapes.append(Text(at=(at[0], at[1] - 10), content=name, ink=TEXT, anchor="middle"))
    return shapes


def _infeasible(front: Front, x_axis: _Axis) -> list[Shape]:
    """A cross on the axis for each budget that no policy meets."""
    floor = HEIGHT - BOTTOM
    shapes: list[Shape] = []
    for budget in front.infeasible:
        shapes += _cross((x_axis(budget.gbitops_limit), floor))
    return shapes


def _cross(at: Point) -> list[Shape]:
    x, y = at
    return [Line(points=((x - 4, y - 4 * side), (x + 4, y + 4 * side)), ink=BAD, width=1.8) for side in (1, -1)]


def _heading(front: Front, uniform: bool) -> list[Shape]:
    """Title, how sure the points are, and the key."""
    proof = "every point proved optimal"
    if any(point.solver.status != "optimal" for point in front.points):
        proof = f"largest certified gap {100 * (front.worst_gap or 0.0):.2g} %"
    facts = [plural(len(front.points), "point"), proof, f"alpha {front.alpha:g}", f"outliers: {front.outliers}"]
    shapes: list[Shape] = [
        Text(at=(LEFT, 28), content=f"Policies of {front.model}", ink=TEXT, size=17, bold=True),
        Text(at=(LEFT, 48), content=", ".join((*facts, *front.others))),
    ]
    x, y = LEFT + 6.0, 68.0
    for name, mark in _key(front, uniform):
        shapes += mark((x, y))
        shapes.append(Text(at=(x + 13, y + 4), content=name))
        x += 44 + LETTER * len(name)
    return shapes


def _key(front: Front, uniform: bool) -> list[tuple[str, Callable[[Point], list[Shape]]]]:
    key: list[tuple[str, Callable[[Point], list[Shape]]]] = [
        ("best policy", lambda at: [Dot(at=at, radius=4.2, ink=MAIN)]),
        ("no policy, proved", _patch),
    ]
    if uniform:
        key.append(("uniform bits", lambda at: [Dot(at=at, radius=4.2, ink=TEXT, hollow=True)]))
        key.append(("uniform, unequal bits", lambda at: [Dot(at=at, radius=4.2, ink=OTHER, hollow=True)]))
    if front.infeasible:
        key.append(("budget that nothing meets", _cross))
    return key


def _patch(at: Point) -> list[Shape]:
    x, y = at
    corners = ((x - 6, y - 6), (x + 6, y - 6), (x + 6, y + 6), (x - 6, y + 6))
    return [Area(points=corners, ink=SOFT), Line(points=(*corners, corners[0]), ink=OTHER, width=0.8)]
