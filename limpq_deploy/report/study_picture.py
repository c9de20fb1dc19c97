"""How far BitOps predict latency, as a picture: executed BitOps against p50, the fitted line, residuals."""

from dataclasses import dataclass

from markupsafe import Markup

from limpq_deploy.latency.rounds import Rounds
from limpq_deploy.latency.study import LatencyStudy, StudyPoint
from limpq_deploy.report.drawing import LINE, MAIN, OTHER, TEXT, Dot, Drawing, Line, Shape, Text, to_inline
from limpq_deploy.report.figures import digits, plural
from limpq_deploy.report.rows import Scale, round_scale, tick_text

WIDTH, HEIGHT = 920, 400
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 40, 58
GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySection:
    """``picture``: None where no study was made."""

    study: LatencyStudy | None
    picture: Markup | None
    rounds: Rounds | None


def study_section(study: LatencyStudy | None, rounds: Rounds | None) -> StudySection | None:
    """What the report shows of BitOps against latency, and of the rounds of a latency limit; None where there is
    neither."""
    if study is None and rounds is None:
        return None
    picture = to_inline(study_picture(study)) if study is not None else None
    return StudySection(study=study, picture=picture, rounds=rounds)


def study_picture(study: LatencyStudy) -> Drawing:
    """Dots of the native sweep with their 95 % intervals and residuals to the line; rings of the policies of 2 to 8
    bits, which stand at one executed number of BitOps."""
    xs = [point.realised / GIGA for point in study.points]
    ys = [edge for point in study.points for edge in (point.low_ms, point.high_ms)]
    x, y = round_scale(0.0, max(xs), steps=8), round_scale(0.0, max(ys), steps=6)
    shapes: list[Shape] = [*_frame(x, y), *_fitted(study, x, y)]
    for point in sorted(study.points, key=lambda one: one.sweep == "native"):
        shapes += _point(point, study, x, y)
    return Drawing(
        width=WIDTH,
        height=HEIGHT,
        label=f"Latency against executed BitOps of {plural(len(study.points), 'policy', 'policies')} of {study.model}. "
        f"{study.sentence}",
        shapes=tuple(shapes),
    )


def _at(x: Scale, y: Scale, gbitops: float, ms: float) -> tuple[float, float]:
    return LEFT + (WIDTH - LEFT - RIGHT) * x(gbitops), HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y(ms)


def _frame(x: Scale, y: Scale) -> list[Shape]:
    shapes: list[Shape] = []
    edge = WIDTH - RIGHT
    for tick in y.ticks:
        height = _at(x, y, 0, tick)[1]
        shapes.append(Line(points=((LEFT, height), (edge, height)), ink=LINE))
        shapes.append(Text(at=(LEFT - 9, height + 4), content=tick_text(y)(tick), anchor="end"))
    for tick in x.ticks:
        across, floor = _at(x, y, tick, y.low)
        shapes.append(Line(points=((across, floor), (across, floor + 5)), ink=OTHER))
        shapes.append(Text(at=(across, floor + 20), content=tick_text(x)(tick), anchor="middle"))
    words = "executed (realised) G BitOps, all layers, one image"
    shapes.append(Text(at=((LEFT + edge) / 2, HEIGHT - 14), content=words, anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    shapes.append(Text(at=(20, middle), content="p50, ms per call", anchor="middle", upright=True))
    key = (("native pairs", MAIN, False), ("2 to 8 bits, executed as 8", TEXT, True))
    for number, (name, ink, hollow) in enumerate(key):
        left = LEFT + 8.0 + 150 * number
        shapes.append(Dot(at=(left, 20.0), radius=4.2, ink=ink, hollow=hollow))
        shapes.append(Text(at=(left + 12, 24), content=name))
    return shapes


def _fitted(study: LatencyStudy, x: Scale, y: Scale) -> list[Shape]:
    if not study.ms_per_gbitops:
        return []
    ends = [(one, study.base_ms + study.ms_per_gbitops * one) for one in (x.low, x.high)]
    return [Line(points=tuple(_at(x, y, *end) for end in ends), ink=OTHER, width=1.4)]


def _point(point: StudyPoint, study: LatencyStudy, x: Scale, y: Scale) -> list[Shape]:
    gbitops = point.realised / GIGA
    native = point.sweep == "native"
    hover = (
        f"{point.name}: {digits(gbitops)} G executed, {digits(point.nominal / GIGA)} G nominal, p50 {point.ms:.3f} ms "
        f"({point.low_ms:.3f} to {point.high_ms:.3f})"
    )
    shapes: list[Shape] = [
        Line(points=(_at(x, y, gbitops, point.low_ms), _at(x, y, gbitops, point.high_ms)), ink=OTHER, width=1.2)
    ]
    if point.residual_ms is not None:
        hover += f", {point.residual_ms:+.3f} ms beside the line"
        on_line = study.base_ms + study.ms_per_gbitops * gbitops
        shapes.append(Line(points=(_at(x, y, gbitops, point.ms), _at(x, y, gbitops, on_line)), ink=MAIN, width=1.0))
    at = _at(x, y, gbitops, point.ms)
    shapes.append(Dot(at=at, radius=4.2, ink=MAIN if native else TEXT, hollow=not native, hover=hover))
    return shapes
