"""The front's picture: the same shapes as SVG and PNG, in the right places."""

import io
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.policy.budgets import compression_budget
from limpq_deploy.policy.front import Front, InfeasibleBudget, PointPreview, sweep, uniform_points
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.uniform_optima import joined, limits_of_uniform
from limpq_deploy.report.across import across
from limpq_deploy.report.drawing import BAD, MAIN, OTHER, SOFT, TEXT, Area, Dot, Drawing, Line, Text, to_png, to_svg
from limpq_deploy.report.front_picture import front_picture, write_front_picture

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def indicators() -> Indicators:
    layers = tuple(
        LayerIndicators(
            name=f"l{at}",
            macs=10**9,
            num_weights=100,
            weight=(3.0 + at, 1.5, 1.0),
            act=(2.0, 1.0, 0.5),
        )
        for at in range(3)
    )
    return Indicators(model="a <small> model", bits=(2, 3, 4), layers=layers)


@pytest.fixture(scope="module")
def front(indicators: Indicators) -> Front:
    return sweep(indicators, (5.0, 11.0, 14.0, 20.0, 30.0, 48.0))


def dots(drawing: Drawing, name: str, *, hover: bool = True) -> list[Dot]:
    return [
        shape
        for shape in drawing.shapes
        if isinstance(shape, Dot) and shape.ink.name == name and bool(shape.hover) == hover
    ]


def test_every_point_stands_at_its_bitops_and_objective(front: Front) -> None:
    points = dots(front_picture(front), MAIN.name)
    assert len(points) == len(front.points) == 4
    assert [dot.at[0] for dot in points] == sorted(dot.at[0] for dot in points)
    assert [dot.at[1] for dot in points] == sorted(dot.at[1] for dot in points)  # a lower objective stands lower
    xs = [point.bitops for point in front.points]
    ratio = (points[1].at[0] - points[0].at[0]) / (points[3].at[0] - points[0].at[0])
    assert ratio == pytest.approx((xs[1] - xs[0]) / (xs[3] - xs[0]))  # a linear axis, floats apart
    assert f"objective {front.points[0].policy.objective:.6f}" in points[0].hover


def test_what_is_proved_touches_optimal_points_and_fills_infeasible_budgets(front: Front) -> None:
    drawing = front_picture(front)
    area = next(shape for shape in drawing.shapes if isinstance(shape, Area) and len(shape.points) > 4)
    assert area.ink == SOFT
    heights = [y for _, y in area.points]
    for dot in dots(drawing, MAIN.name):
        assert min(abs(dot.at[1] - y) for y in heights) < 0.01  # the bound is 1e-12 below
    crosses = [shape for shape in drawing.shapes if isinstance(shape, Line) and shape.ink == BAD]
    assert len(crosses) == 2 * (len(front.infeasible) + 1)  # and one in the key
    assert min(heights) == area.points[1][1]  # all of the picture's height where nothing is feasible
    middle = sum(x for x, _ in crosses[2].points) / 2
    assert area.points[2][0] == pytest.approx(middle)  # floats apart


def test_uniform_policies_are_rings_and_those_with_equal_bits_are_named(front: Front, indicators: Indicators) -> None:
    uniform = uniform_points(indicators)
    drawing = front_picture(front, uniform=uniform)
    assert len(dots(drawing, TEXT.name)) == 3
    assert len(dots(drawing, OTHER.name)) == 6
    words = Counter(shape.content for shape in drawing.shapes if isinstance(shape, Text))
    assert all(words[name] == 1 for name in ("w2a2", "w3a3", "w4a4", "uniform bits"))
    assert "uniform bits" not in {shape.content for shape in front_picture(front).shapes if isinstance(shape, Text)}


def test_every_shape_stays_inside_the_picture(front: Front, indicators: Indicators) -> None:
    late = replace(front, points=(*front.points[:-1], replace(front.points[-1], gbitops_limit=1e6)))
    for drawn in (front, late, sweep(indicators, (20.0,)), sweep(indicators, (20.0, 48.0))):
        drawing = front_picture(drawn, uniform=uniform_points(indicators))
        for shape in drawing.shapes:
            for x, y in [shape.at] if isinstance(shape, Dot | Text) else shape.points:
                assert 0 <= x <= drawing.width
                assert 0 <= y <= drawing.height


def test_objectives_over_a_wide_span_stand_on_a_logarithmic_axis() -> None:
    layer = LayerIndicators(name="a", macs=10**9, num_weights=1, weight=(1e3, 10.0, 0.1), act=(1.0, 0.5, 0.1))
    steep = Indicators(model="steep", bits=(2, 3, 4), layers=(layer,))
    drawing = front_picture(sweep(steep, (4.0, 6.0, 16.0)))
    assert any(
        isinstance(shape, Text) and shape.content == "importance by scale, logarithmic" for shape in drawing.shapes
    )


def test_the_svg_is_one_file_that_asks_for_nothing(front: Front, indicators: Indicators) -> None:
    text = to_svg(front_picture(front, uniform=uniform_points(indicators)))
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert "<script" not in text
    assert not re.search(r"(href|src|url\()", text)
    assert "Policies of a <small> model" in [element.text for element in root.iter(f"{SVG}text")]
    assert len([one for one in root.iter(f"{SVG}title") if (one.text or "").startswith("uniform w")]) == 9
    assert text == to_svg(front_picture(front, uniform=uniform_points(indicators)))


def test_the_png_shows_the_same_shapes_at_twice_the_size(front: Front) -> None:
    drawing = front_picture(front)
    image = Image.open(io.BytesIO(to_png(drawing)))
    assert image.size == (2 * drawing.width, 2 * drawing.height)
    for dot in dots(drawing, MAIN.name):
        assert image.getpixel((round(2 * dot.at[0]), round(2 * dot.at[1]))) == tuple(bytes.fromhex(MAIN.light[1:]))
    label = next(shape for shape in drawing.shapes if isinstance(shape, Text) and shape.upright)
    left, lower = round(2 * label.at[0]), round(2 * label.at[1])
    strip = np.asarray(image.crop((left - 40, lower - 60, left + 10, lower + 60)).convert("L"))
    assert strip.min() < 140  # the axis' name is written there


def test_points_are_joined_by_straight_lines_and_the_best_lies_at_or_below_each_uniform(
    front: Front, indicators: Indicators
) -> None:
    uniform = uniform_points(indicators)
    limits = limits_of_uniform(uniform, [5.0, 48.0])
    assert len(limits) == len({one.bitops for one in uniform if one.bitops < 48 * 10**9})
    whole = joined(front, sweep(indicators, limits))
    drawing = front_picture(whole, uniform=uniform)
    line = next(shape for shape in drawing.shapes if isinstance(shape, Line) and shape.ink == MAIN)
    assert list(line.points) == [dot.at for dot in dots(drawing, MAIN.name)]  # no corner between two points
    for ring in (*dots(drawing, TEXT.name), *dots(drawing, OTHER.name)):
        left = max((at for at in line.points if at[0] <= ring.at[0] + 0.01), key=lambda at: at[0])
        assert left[1] >= ring.at[1] - 0.01  # lower on the picture, or the same


def previewed(front: Front) -> Front:
    points = tuple(
        replace(point, preview=PointPreview(top1=80.0 + at, loss=0.1, low=78.0 + at, high=81.0 + at))
        for at, point in enumerate(front.points)
    )
    return replace(front, points=points, figure="mIoU")


def test_previews_stand_upwards_with_their_intervals_and_their_own_name(front: Front, indicators: Indicators) -> None:
    uniform = uniform_points(indicators)
    seen = replace(uniform[0], preview=PointPreview(top1=79.0, loss=0.2, low=78.5, high=79.5))
    drawing = front_picture(previewed(front), uniform=(seen, *uniform[1:]))
    words = [shape.content for shape in drawing.shapes if isinstance(shape, Text)]
    assert "mIoU by preview, %" in words
    assert "no policy, proved" not in words  # bounds are of objectives
    points = dots(drawing, MAIN.name)
    assert [dot.at[1] for dot in points] == sorted((dot.at[1] for dot in points), reverse=True)
    assert len(dots(drawing, TEXT.name)) == 1  # the uniform one that was previewed
    whiskers = [shape for shape in drawing.shapes if isinstance(shape, Line) and len({x for x, _ in shape.points}) == 1]
    assert all(any(line.points[0][0] == dot.at[0] for line in whiskers) for dot in points)


@pytest.mark.parametrize("name", ["bitops", "size"])
def test_any_cost_can_stand_across(front: Front, indicators: Indicators, name: str) -> None:
    x = across(name, indicators)
    points = dots(front_picture(front, x=x), MAIN.name)
    costs = [x.of(point.policy.pairs()) for point in front.points]
    share = (points[1].at[0] - points[0].at[0]) / (points[-1].at[0] - points[0].at[0])
    assert share == pytest.approx((costs[1] - costs[0]) / (costs[-1] - costs[0]))  # a linear axis, floats apart


def test_bytes_are_those_that_layers_read() -> None:
    layer = LayerIndicators(name="a", macs=1, num_weights=2**20, weight=(1.0, 0.5), act=(1.0, 0.5), act_elements=2**21)
    x = across("bytes", Indicators(model="m", bits=(2, 4), layers=(layer,)))
    assert x.of({"a": (4, 2)}) == 0.5 + 0.5  # MiB: 2^20 weights of 4 bits, 2^21 activations of 2 bits
    assert x.of({"a": (FP8, FP8)}) == 1 + 2


@pytest.mark.parametrize("name", ["front.svg", "front.png"])
def test_a_picture_is_written_by_its_ending(front: Front, tmp_path: Path, name: str) -> None:
    write_front_picture(front, tmp_path / name)
    assert (tmp_path / name).read_bytes()[:4] == (b"<svg" if name.endswith("svg") else b"\x89PNG")


def test_another_ending_and_an_empty_front_are_refused(front: Front, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"ends in \.svg or \.png"):
        write_front_picture(front, tmp_path / "front.pdf")
    empty = replace(front, points=(), infeasible=(InfeasibleBudget(gbitops_limit=5.0, reason="too small"),))
    with pytest.raises(SettingError, match="no budget of the sweep is met, from 5 to 5 G BitOps"):
        front_picture(empty)
    with pytest.raises(SettingError, match="no point"):
        front_picture(replace(empty, infeasible=()))


def test_other_budgets_stand_below_the_title(indicators: Indicators) -> None:
    front = sweep(indicators, (20.0, 48.0), budgets=[compression_budget(indicators, 9)])
    words = [shape.content for shape in front_picture(front).shapes if isinstance(shape, Text)]
    assert any(content.endswith("--compression-ratio 9") for content in words)
