"""What `plot()` draws of each record: bars of bits, lines of scales, a front."""

from typing import Any

from limpq_deploy.api.finished import Report
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.shown import Picture
from limpq_deploy.policy.front import Front
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.report.drawing import BAD, LINE, MAIN, OTHER, TEXT, Drawing, Ink, Shape, Text, rectangle, to_svg
from limpq_deploy.report.drawing import Line as Stroke
from limpq_deploy.report.front_picture import front_picture
from limpq_deploy.report.rows import round_scale, tick_text
from limpq_deploy.verdict.record import Verdict

WIDTH, LEFT, TOP, BAR, GAP = 920, 230, 64, 9, 6


def picture_of(record: Any) -> Picture:
    """The drawing of a record. Raises SettingError for one that has nothing to draw."""
    drawn = _drawing(record)
    return Picture(to_svg(drawn))


def _drawing(record: Any) -> Drawing:
    if isinstance(record, Front):
        return front_picture(record)
    if isinstance(record, Policy):
        pairs = [
            (name, (("weights", MAIN, float(w)), ("activations", OTHER, float(a))))
            for name, (w, a) in record.bits.items()
        ]
        return _bars("Bits of each layer", pairs, unit="bits")
    if isinstance(record, Indicators):
        title = f"Learned scale at {record.bits[0]} bits"
        scales = [(one.name, one.weight[0], one.act[0]) for one in record.layers]
        pairs = [(name, (("weights", MAIN, w), ("activations", OTHER, a))) for name, w, a in scales]
        return _bars(title, pairs, unit="scale")
    if isinstance(record, Verdict):
        outcomes = [(row["check"], ((row["outcome"], _ink(row["outcome"]), 1.0),)) for row in record.rows()]
        return _bars(f"Checks: {record.outcome}", outcomes, unit="")
    if isinstance(record, Report) and record.verdict is not None and record.verdict.candidates:
        rows = [(row["candidate"], (("accuracy", MAIN, row["accuracy"]),)) for row in record.rows()]
        return _bars("Accuracy of the files that could be shipped", rows, unit="")
    if isinstance(record, Report) and record.policy is not None:
        return _drawing(record.policy)
    raise SettingError(f"there is nothing to draw of a {type(record).__name__} without results; finish the build first")


def _ink(outcome: str) -> Ink:
    return {"passed": MAIN, "failed": BAD}.get(outcome, OTHER)


def _bars(title: str, rows: list[Any], *, unit: str) -> Drawing:
    """Horizontal bars from 0; ``rows``: (name, bars), a bar is (what it is, its ink, its length)."""
    if not rows:
        raise SettingError(f"{title}: there is nothing to draw; expected a record with at least one row")
    scale = round_scale(0.0, max(value for _, bars in rows for _, _, value in bars) or 1.0)
    width = WIDTH - LEFT - 70

    def x(value: float) -> float:
        return LEFT + width * (value - scale.low) / (scale.high - scale.low)

    shapes: list[Shape] = [Text(at=(20, 26), content=title, ink=TEXT, size=17, bold=True)]
    inks = {what: ink for _, bars in rows for what, ink, _ in bars}
    at = 20.0
    for what, ink in inks.items():
        shapes += [rectangle(at, 40, 10, 10, ink), Text(at=(at + 15, 49), content=what)]
        at += 40 + 6.5 * len(what)
    y = float(TOP)
    text = tick_text(scale)
    height = sum(BAR * len(bars) + GAP for _, bars in rows)
    for tick in scale.ticks if unit else ():
        shapes.append(Stroke(points=((x(tick), TOP), (x(tick), TOP + height)), ink=LINE))
        shapes.append(Text(at=(x(tick), TOP + height + 16), content=text(tick), anchor="middle"))
    for name, bars in rows:
        shapes.append(Text(at=(LEFT - 8, y + BAR * len(bars) / 2 + 4), content=_short(name), ink=TEXT, anchor="end"))
        for what, ink, value in bars:
            shapes.append(rectangle(x(scale.low), y, x(value) - x(scale.low), BAR - 1, ink))
            said = f"{value:.4g}" if unit or what == "accuracy" else what
            shapes.append(Text(at=(x(value) + 5, y + BAR - 1), content=said, size=9))
            y += BAR
        y += GAP
    return Drawing(width=WIDTH, height=int(y + 34), label=f"{title}: {len(rows)} rows", shapes=tuple(shapes))


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"...{name[-29:]}"
