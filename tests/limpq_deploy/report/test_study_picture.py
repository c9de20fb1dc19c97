"""What the page shows of BitOps against latency, and of the rounds of a latency limit."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.latency.rounds import Round, Rounds
from limpq_deploy.latency.study import Correlation, LatencyStudy, StudyPoint
from limpq_deploy.report.drawing import Dot
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.page import render_report
from limpq_deploy.report.study_picture import study_picture


def point(name: str, sweep: str, gbitops: float, ms: float, residual_ms: float | None = None) -> StudyPoint:
    return StudyPoint(
        name=name,
        sweep=sweep,  # type: ignore[arg-type]
        nominal=round(1e9 * gbitops),
        realised=round(1e9 * gbitops),
        ms=ms,
        low_ms=0.98 * ms,
        high_ms=1.02 * ms,
        residual_ms=residual_ms,
    )


NONE = Correlation(value=None, low=None, high=None, policies=2)
STUDY = LatencyStudy(
    model="net",
    device="a <device>",
    threads="default",
    points=(
        *(point(f"native {g} G", "native", g, 1.0 + g / 10, 0.01) for g in (2, 10, 20)),
        *(point(f"w{bits}a{bits}", "narrow", 2, 1.2) for bits in (2, 8)),
    ),
    realised=Correlation(value=1.0, low=0.9, high=1.0, policies=3),
    nominal=Correlation(value=1.0, low=0.9, high=1.0, policies=3),
    nominal_narrow=NONE,
    base_ms=1.0,
    ms_per_gbitops=0.1,
    explained=0.99,
    narrow_spread=0.0,
    sentence="On a <device> BitOps order engines well.",
)
ROUNDS = Rounds(
    limit_ms=3.0,
    tolerance=0.05,
    converged=True,
    chosen=1,
    why="predicted 2.900 ms, measured 2.950 ms (-1.7 %), within 3 ms after 1 round",
    rounds=(
        Round(
            number=1,
            pairs={},
            objective=1.0,
            aim_ms=3.0,
            predicted_ms=2.9,
            measured_ms=2.95,
            low_ms=2.9,
            high_ms=3.0,
            speed=1.0,
            agrees=True,
            holds=True,
        ),
    ),
    table=LatencyTable(model="net", device="d", times=()),
)


def test_every_policy_is_a_dot_those_of_2_to_8_bits_are_rings() -> None:
    drawing = study_picture(STUDY)
    dots = [shape for shape in drawing.shapes if isinstance(shape, Dot) and shape.hover]
    assert [dot.hollow for dot in dots] == [True, True, False, False, False]
    assert all(0 < dot.at[0] < drawing.width and 0 < dot.at[1] < drawing.height for dot in dots)
    native = sorted((dot for dot in dots if not dot.hollow), key=lambda dot: dot.at[0])
    assert native[0].at[1] > native[-1].at[1]  # more BitOps, further up
    assert "+0.010 ms beside the line" in native[0].hover


def test_the_page_holds_the_picture_itself_and_all_figures(small: ReportInputs) -> None:
    page = render_report(replace(small, study=STUDY, rounds=ROUNDS))
    drawn = '<svg class="drawing"' + page.partition('<svg class="drawing"')[2].partition("</svg>")[0] + "</svg>"
    assert ET.fromstring(drawn).get("aria-label", "").startswith("Latency against executed BitOps of 5 policies")
    assert "src=" not in page
    assert page.count("<figure") == page.count("<figcaption>")
    assert "On a &lt;device&gt; BitOps order engines well." in page
    assert "Predicted 2.900 ms, measured 2.950 ms" in page
    assert "<device>" not in page
    assert all(point.name in page for point in STUDY.points)


@pytest.mark.parametrize("part", ["study", "rounds"])
def test_each_part_stands_without_the_other(small: ReportInputs, part: str) -> None:
    page = render_report(replace(small, **{part: {"study": STUDY, "rounds": ROUNDS}[part]}))  # type: ignore[arg-type]
    assert ("How far BitOps predict latency" in page) is (part == "study")
    assert ("Rounds to the latency limit" in page) is (part == "rounds")
