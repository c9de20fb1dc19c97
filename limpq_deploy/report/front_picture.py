"""The front as a picture: previewed accuracy, or else the objective, against a cost; uniform bits beside it.

Objectives against BitOps stand above what no policy reaches, as the searches prove it. Between sampled budgets nothing
is known of the best policy, so thin straight lines join the points and no staircase does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.files import write_bytes
from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.policy.front import Front, PointPreview, UniformPoint
from limpq_deploy.report.across import Across
from limpq_deploy.report.axes import Axis, linear, logarithmic
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
    rectangle,
    to_png,
    to_svg,
)
from limpq_deploy.report.figures import digits, plural
from limpq_deploy.report.front_view import GIGA, Place, View

WIDTH, HEIGHT = 920, 540
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 106, 62

LETTER = 6.3
"""Pixels that a letter of the key takes, about."""

NEAR = 1.35
"""Uniform policies are drawn up to so many times the largest objective of the front."""

OWN_UNIFORM = "none"
"""Solver of a policy that was not searched: a build's own uniform bits."""

LOG_FROM = 8.0
"""Objectives that span more than this ratio stand on a logarithmic axis."""


def write_front_picture(
    front: Front, path: Path, *, uniform: Sequence[UniformPoint] = (), x: Across | None = None
) -> None:
    """Write the picture by the file's ending, ``.svg`` or ``.png``. Raises SettingError for another one, or for a front
    without a point."""
    writers = {".svg": lambda drawing: to_svg(drawing).encode(), ".png": to_png}
    if path.suffix.lower() not in writers:
        raise SettingError(f"cannot draw a picture into {path.name!r}; expected a name that ends in .svg or .png")
    write_bytes(path, writers[path.suffix.lower()](front_picture(front, uniform=uniform, x=x)))


def front_picture(front: Front, *, uniform: Sequence[UniformPoint] = (), x: Across | None = None) -> Drawing:
    """Draw a front.

    Each point stands at what its policy takes of ``x`` (None: BitOps) and at its previewed figure, where all points
    have one, else at its objective. ``uniform`` (`policy.front.uniform_points`) are left out beyond the axes, and those
    without a preview where the figure is drawn. Raises SettingError where no point was found.
    """
    if not front.points:
        raise SettingError(
            f"no budget of the sweep is met, from {front.infeasible[0].gbitops_limit:g} to "
            f"{front.infeasible[-1].gbitops_limit:g} G BitOps: there is nothing to draw; sweep larger budgets"
            if front.infeasible
            else "the front has no point: there is nothing to draw; sweep at least one budget"
        )
    view = View(front=front, x=x)
    places = [view.of_point(point) for point in front.points]
    rings = [(one, place) for one in uniform if (place := view.of_uniform(one)) is not None]
    x_axis, y_axis = _axes(view, places, [place for _, place in rings])
    seen = [(one, at) for one, at in rings if x_axis.holds(at.x) and y_axis.holds(at.low) and y_axis.holds(at.high)]
    shapes: list[Shape] = [
        *(_proved(front, x_axis, y_axis) if view.proves else ()),
        *_frame(view, x_axis, y_axis),
        *(_infeasible(front, x_axis) if view.by_bitops else ()),
        _joined(places, x_axis, y_axis),
        *_intervals([*(at for _, at in seen), *places], x_axis, y_axis),
        *_uniform(view, seen, x_axis, y_axis),
        *_points(view, places, x_axis, y_axis),
        *_heading(view, bool(seen)),
    ]
    first, last = places[0], places[-1]
    return Drawing(
        width=WIDTH,
        height=HEIGHT,
        label=f"{view.y_name} against {view.x_unit} of {plural(len(front.points), 'policy', 'policies')} of "
        f"{front.model}: from {digits(first.y)} at {digits(first.x)} to {digits(last.y)} at {digits(last.x)}.",
        shapes=tuple(shapes),
    )


def _axes(view: View, places: Sequence[Place], rings: Sequence[Place]) -> tuple[Axis, Axis]:
    """Axes that hold every point, bound and infeasible budget, and the uniform policies near them. The last limit may
    lie beyond: a budget that buys nothing more should not squeeze the rest."""
    front = view.front
    xs, ys = [place.x for place in places], [end for place in places for end in (place.low, place.high)]
    if view.by_bitops:
        xs += [point.gbitops_limit for point in front.points[:-1]]
        xs += [budget.gbitops_limit for budget in front.infeasible]
    x_axis = linear(min(xs), max(xs), LEFT, WIDTH - RIGHT, steps=8)
    inside = [one for one in rings if x_axis.holds(one.x)]
    if view.previewed:
        ys += [end for one in inside for end in (one.low, one.high)]
        return x_axis, linear(min(ys), max(ys), HEIGHT - BOTTOM, TOP, steps=6)
    if view.proves:
        ys += [point.solver.bound for point in front.points]
    low, high = min(ys), max([*ys, *(one.y for one in inside if one.y <= NEAR * max(ys))])
    if low > 0 and high / low > LOG_FROM:
        return x_axis, logarithmic(low / 1.08, high * 1.08, HEIGHT - BOTTOM, TOP)
    return x_axis, linear(low, high, HEIGHT - BOTTOM, TOP, steps=6)


def _frame(view: View, x_axis: Axis, y_axis: Axis) -> list[Shape]:
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
    shapes.append(Text(at=((LEFT + edge) / 2, HEIGHT - 14), content=view.x_title, anchor="middle"))
    shapes.append(Text(at=(20, middle), content=f"{view.y_name}{scale}", anchor="middle", upright=True))
    return shapes


def _proved(front: Front, x_axis: Axis, y_axis: Axis) -> list[Shape]:
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


def _joined(places: Sequence[Place], x_axis: Axis, y_axis: Axis) -> Line:
    """A thin line from point to point, which leads the eye."""
    points = sorted((x_axis(place.x), y_axis(place.y)) for place in places)
    return Line(points=tuple(points), ink=MAIN, width=0.8)


def _intervals(places: Sequence[Place], x_axis: Axis, y_axis: Axis) -> list[Shape]:
    return [
        Line(points=((x_axis(one.x), y_axis(one.low)), (x_axis(one.x), y_axis(one.high))), ink=OTHER, width=1.2)
        for one in places
        if one.high > one.low
    ]


def _points(view: View, places: Sequence[Place], x_axis: Axis, y_axis: Axis) -> list[Shape]:
    radius = 4.2 if len(places) <= 80 else 2.6
    return [
        Dot(
            at=(x_axis(place.x), y_axis(place.y)),
            radius=radius,
            ink=MAIN,
            hover=f"{digits(point.bitops / GIGA)} G of {point.gbitops_limit:g} G BitOps: objective "
            f"{point.policy.objective:.6f}, no policy below {point.solver.bound:.6f} (gap {point.solver.gap:.1e})"
            f"{_said(view, point.preview)}",
        )
        for point, place in zip(view.front.points, places, strict=True)
    ]


def _said(view: View, preview: PointPreview | None) -> str:
    if preview is None:
        return ""
    interval = f" ({preview.low:.2f} to {preview.high:.2f})" if preview.low is not None else ""
    return f", {view.front.figure} by preview {preview.top1:.2f} {view.front.unit}{interval}"


def _uniform(view: View, uniform: Sequence[tuple[UniformPoint, Place]], x_axis: Axis, y_axis: Axis) -> list[Shape]:
    """Rings; those with equal bits are named."""
    shapes: list[Shape] = []
    for one, place in sorted(uniform, key=lambda both: both[0].weight_bits == both[0].act_bits):
        at = (x_axis(place.x), y_axis(place.y))
        name = pair_name((one.weight_bits, one.act_bits))
        hover = f"uniform {name}: {digits(one.bitops / GIGA)} G BitOps, objective {one.objective:.6f}"
        hover += _said(view, one.preview)
        equal = one.weight_bits == one.act_bits
        shapes.append(Dot(at=at, radius=4.2, ink=TEXT if equal else OTHER, hollow=True, hover=hover))
        if equal:
            shapes.append(Text(at=(at[0], at[1] - 10), content=name, ink=TEXT, anchor="middle"))
    return shapes


def _infeasible(front: Front, x_axis: Axis) -> list[Shape]:
    """A cross on the axis for each budget that no policy meets."""
    floor = HEIGHT - BOTTOM
    shapes: list[Shape] = []
    for budget in front.infeasible:
        shapes += _cross((x_axis(budget.gbitops_limit), floor))
    return shapes


def _cross(at: Point) -> list[Shape]:
    x, y = at
    return [Line(points=((x - 4, y - 4 * side), (x + 4, y + 4 * side)), ink=BAD, width=1.8) for side in (1, -1)]


def _heading(view: View, uniform: bool) -> list[Shape]:
    """Title, how sure the points are, and the key."""
    front = view.front
    proof = "every point proved optimal"
    searched = [point.solver for point in front.points if point.solver.name != OWN_UNIFORM]
    if any(solver.status != "optimal" for solver in searched):
        proof = f"largest certified gap {100 * max(solver.gap for solver in searched):.2g} %"
    elif len(searched) < len(front.points):
        proof = "all but the build's own uniform bits proved optimal"
    measure = f"measure {front.importance or 'scale'}"
    facts = [
        plural(len(front.points), "point"),
        proof,
        measure,
        f"alpha {front.alpha:g}",
        f"outliers: {front.outliers}",
    ]
    shapes: list[Shape] = [
        Text(at=(LEFT, 28), content=f"Policies of {front.model}", ink=TEXT, size=17, bold=True),
        Text(at=(LEFT, 48), content=", ".join((*facts, *front.others))),
    ]
    x, y = LEFT + 6.0, 68.0
    for name, mark in _key(view, uniform):
        shapes += mark((x, y))
        shapes.append(Text(at=(x + 13, y + 4), content=name))
        x += 44 + LETTER * len(name)
    return shapes


def _key(view: View, uniform: bool) -> list[tuple[str, Callable[[Point], list[Shape]]]]:
    key: list[tuple[str, Callable[[Point], list[Shape]]]] = [
        ("best policy", lambda at: [Dot(at=at, radius=4.2, ink=MAIN)]),
    ]
    if view.proves:
        key.append(("no policy, proved", _patch))
    if view.previewed and any(one.preview is not None and one.preview.low is not None for one in view.front.points):
        key.append(("95 % interval", _bar))
    if uniform:
        key.append(("uniform bits", lambda at: [Dot(at=at, radius=4.2, ink=TEXT, hollow=True)]))
        if not view.previewed:
            key.append(("uniform, unequal bits", lambda at: [Dot(at=at, radius=4.2, ink=OTHER, hollow=True)]))
    if view.front.infeasible and view.by_bitops:
        key.append(("budget that nothing meets", _cross))
    return key


def _patch(at: Point) -> list[Shape]:
    x, y = at
    patch = rectangle(x - 6, y - 6, 12, 12, SOFT)
    return [patch, Line(points=(*patch.points, patch.points[0]), ink=OTHER, width=0.8)]


def _bar(at: Point) -> list[Shape]:
    return [Line(points=((at[0], at[1] - 7), (at[0], at[1] + 7)), ink=OTHER, width=1.2)]
