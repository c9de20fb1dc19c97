"""The page of a whole build: front with slider, prices, answers, losses; each readable without its script."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from limpq_deploy.policy.indicators import Measure
from limpq_deploy.policy.policy import LayerBits
from limpq_deploy.report import ReportInputs, render_report
from limpq_deploy.report.answers_view import MOST_CLASSES, answers_section
from limpq_deploy.report.curves import POINTS, Curve, curves_section
from limpq_deploy.report.figures import signed
from limpq_deploy.report.page import resource
from limpq_deploy.report.prices import prices_section
from limpq_deploy.report.scales import scales_section
from limpq_deploy.report.what_if import _files, what_if_section

from ..verdict.test_recommendation import candidate
from .test_report_page import Reader


@pytest.fixture(scope="module")
def page(whole: ReportInputs) -> str:
    return render_report(whole)


def test_the_page_may_run_its_own_script_and_style_and_nothing_else(page: str) -> None:
    reader = Reader(page)
    [policy] = [value for value in reader.values("content") if value.startswith("default-src")]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert reader.tags.count("style") == reader.tags.count("script") == 1
    assert not reader.values("style")
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert all(
        value.startswith(("#", "data:image/png;base64,")) for value in reader.values("src") + reader.values("href")
    )


def test_a_page_without_a_slider_has_no_script(small: ReportInputs) -> None:
    page = render_report(small)
    assert "<script" not in page
    assert "script-src" not in page


def test_every_point_stands_on_the_page_with_bits_costs_figure_and_command(whole: ReportInputs, page: str) -> None:
    assert whole.what_if is not None
    reader = Reader(page)
    for point in whole.what_if.points:
        assert point.preview is not None
        for said in (
            point.name,
            whole.commands[point.name],
            f"{point.preview.value:.2f} %",
            f"{point.preview.loss:.4f}",
        ):
            assert said in reader.words
        for bits in point.bits.values():
            assert f"w{bits.weight} a{bits.act}" in reader.words
    assert reader.tags.count("details") >= len(whole.what_if.points) + 3
    assert "Bits per layer at" in reader.words


def test_the_slider_begins_at_the_policys_own_budget(whole: ReportInputs) -> None:
    section = what_if_section(whole)
    assert section is not None
    assert whole.what_if is not None
    own = whole.what_if.candidates[0].bitops
    points = whole.what_if.points
    assert points[section.start].bitops <= own < points[section.start + 1].bitops
    moved = replace(whole, policy=replace(whole.policy, bits=points[1].bits))
    found = what_if_section(moved)
    assert found is not None
    assert (found.start, found.rows[1].own) == (1, True)
    unknown = replace(whole.what_if, candidates=(), uniform=())  # as of a policy that no tournament had
    assert what_if_section(replace(whole, what_if=unknown)).start == section.start  # type: ignore[union-attr]


def test_figures_are_compared_with_the_policys_own_where_it_was_previewed_on_the_same_images(
    whole: ReportInputs,
) -> None:
    assert whole.what_if is not None
    front = [point.bits for point in whole.what_if.points]
    first = next(point for point in whole.what_if.uniform if point.bits not in front)
    assert first.preview is not None
    section = what_if_section(replace(whole, policy=replace(whole.policy, bits=first.bits)))
    assert section is not None
    assert section.against == "this policy"
    for row, point in zip(section.rows, whole.what_if.points, strict=True):
        assert point.preview is not None
        assert row.gain == f"{signed(point.preview.value - first.preview.value)} points"
    other = what_if_section(whole)  # previewed in the tournament alone, on images of its own
    assert other is not None
    assert (other.against, other.rows[other.start].gain) == (
        f"the best at {other.rows[other.start].name}",
        "0.00 points",
    )


def test_the_pictures_hold_front_uniform_candidates_and_the_policy(whole: ReportInputs) -> None:
    section = what_if_section(whole)
    assert section is not None
    assert whole.what_if is not None
    assert len(section.pictures) == 2  # no table predicts latency
    for picture in section.pictures:
        for kind, number in (("front", len(whole.what_if.points)), ("uniform", 5), ("candidate", 1), ("own", 1)):
            assert picture.count(f'class="mark {kind} s0"') == number
        assert "float, test images" in picture


def test_files_stand_at_their_size_and_fp8_has_eight_bits(whole: ReportInputs) -> None:
    assert whole.verdict.accuracy is not None
    figure = whole.verdict.accuracy.float.measure
    other = candidate("fp8", 90.0, 1, None)
    mixed = replace(other, name="mixed", file="model.qdq.onnx")
    bits = dict.fromkeys(whole.policy.bits, LayerBits(weight=8, act=8, format="fp8"))
    inputs = replace(
        whole,
        policy=replace(whole.policy, bits=bits),
        verdict=replace(whole.verdict, candidates=(other, mixed)),
    )
    kib = sum(layer.num_weights for layer in inputs.placement.layers) / 1024
    assert [mark.x for mark in _files(inputs, "size", figure)] == [kib, kib]


def test_a_table_adds_the_predicted_latency(whole: ReportInputs) -> None:
    assert whole.what_if is not None
    points = tuple(replace(one, latency_ns=10**6 * (at + 1)) for at, one in enumerate(whole.what_if.points))
    section = what_if_section(replace(whole, what_if=replace(whole.what_if, points=points)))
    assert section is not None
    assert len(section.pictures) == 3
    assert [row.latency for row in section.rows][:2] == ["1.000 ms", "2.000 ms"]


def test_what_intervals_do_not_tell_apart_is_said(whole: ReportInputs) -> None:
    section = what_if_section(whole)
    assert section is not None
    assert "so many images do not tell one step from the next" in section.together
    assert whole.what_if is not None
    alone = what_if_section(replace(whole, what_if=replace(whole.what_if, points=whole.what_if.points[:1])))
    assert alone is not None
    assert alone.together == ""
    sharp = []
    for point in whole.what_if.points:
        assert point.preview is not None
        preview = replace(point.preview, low=point.preview.value - 0.1, high=point.preview.value + 0.1)
        sharp.append(replace(point, preview=preview))
    told = what_if_section(replace(whole, what_if=replace(whole.what_if, points=tuple(sharp))))
    assert told is not None
    assert f"Of {len(sharp) - 1} steps between neighbours 0 are smaller" in told.together


def test_prices_are_those_of_the_explanation(whole: ReportInputs, page: str) -> None:
    section = prices_section(whole)
    assert whole.what_if is not None
    found = whole.what_if.explanation
    assert found is not None
    assert section is not None
    tensors = {(step.layer, step.tensor) for step in found.steps}
    assert len(section.rows) == len(tensors)
    for row in section.rows:
        steps = [one for one in found.steps if (one.layer, one.tensor[0]) == (row.layer, row.tensor[0])]
        assert {cell.to_bits for cell in (row.fewer, row.more) if cell is not None} == {one.to_bits for one in steps}
    assert section.budgets[0].state == ("binding" if found.budgets[0].binding else "not binding")
    best = min(
        (step for step in found.steps if step.objective is not None and step.objective < 0 and step.costs[0] > 0),
        key=lambda step: step.objective / step.costs[0],  # type: ignore[operator]
    )
    assert section.wanted[0].startswith(f"{best.layer}, ")
    assert section.wanted[0] in Reader(page).words


def test_the_confusion_matrix_counts_every_image_and_lists_the_confusions(whole: ReportInputs) -> None:
    section = answers_section(whole)
    assert section is not None
    assert section.matrix is not None
    numbers = re.findall(r'class="confused-number [\w-]+"[^>]*>(\d+)<', section.matrix)
    assert sum(map(int, numbers)) == section.images == 50
    assert [(one.label, one.answer, one.mixed, one.by_float) for one in section.confusions] == [("1", "9", 1, 0)]
    assert (section.changed, section.num_lost, section.num_won) == (3, 1, 2)
    assert [one.source is None for one in section.won] == [False, True]


def test_many_classes_are_listed_and_not_drawn(whole: ReportInputs) -> None:
    assert whole.answers is not None
    many = replace(whole, answers=replace(whole.answers, classes=MOST_CLASSES + 1))
    section = answers_section(many)
    assert section is not None
    assert section.matrix is None
    assert section.confusions
    assert "What it answers" in render_report(many)


def test_a_picture_that_is_no_base64_is_left_out(whole: ReportInputs) -> None:
    assert whole.answers is not None
    bad = replace(whole.answers.lost[0], png='"><script>alert(1)</script>')
    section = answers_section(replace(whole, answers=replace(whole.answers, lost=(bad,))))
    assert section is not None
    assert section.lost[0].source is None


def test_losses_are_drawn_by_pass_with_their_ends(whole: ReportInputs) -> None:
    [curve] = curves_section(whole.curves)
    lines = re.findall(r'<polyline points="([^"]*)"', curve.picture)
    assert len(lines) == 2
    assert all(len(line.split()) <= POINTS for line in lines)
    assert "2 bit" in curve.picture
    assert curve.ends == "2 1.04 to 0.00671, 6 0.521 to 0.00336"  # means of four steps: 2 (1 + 1/2 + 1/3 + 1/4) / 4


def test_losses_that_are_no_numbers_above_zero_are_left_out() -> None:
    losses = {"train": [(1, 0.0), (2, float("nan")), (3, float("inf"))]}
    assert curves_section([Curve(title="nothing", losses=losses)]) == ()


def test_the_heat_map_is_of_the_measure_that_won(whole: ReportInputs) -> None:
    indicators = whole.indicators
    assert indicators is not None
    section = scales_section(whole)
    assert section is not None
    assert section.winning is None
    layers = tuple(
        replace(
            layer,
            measures={"kl": Measure(weight=(5.0, 4.0, 3.0, 2.0, 0.0), act=(50.0, 40.0, 30.0, 20.0, 10.0))},
        )
        for layer in indicators.layers
    )
    by_kl = replace(
        whole,
        indicators=replace(indicators, layers=layers),
        policy=replace(whole.policy, importance="kl", outliers=None),
    )
    section = scales_section(by_kl)
    assert section is not None
    assert section.winning is not None
    assert (section.winning.name, section.winning.weight_range) == ("kl", ("2.000", "5.000"))
    assert "act 2 bit: 50.00" in section.winning.chart.plot
    assert "divergence of the logits" in Reader(render_report(by_kl)).words


def test_hostile_texts_stay_text_everywhere(
    whole_build: Callable[[Callable[[str], str]], ReportInputs],
) -> None:
    hostile = "</style><script>alert('x')</script>\"&"
    inputs = whole_build(lambda name: f"{hostile}{name}")
    assert inputs.what_if is not None
    points = tuple(replace(one, name=hostile) for one in inputs.what_if.points)
    uniform = tuple(replace(one, name=hostile) for one in inputs.what_if.uniform)
    page = render_report(
        replace(
            inputs,
            class_names=(hostile,) * 10,
            commands={hostile: hostile},
            curves=(Curve(title=hostile, losses={hostile: [(1, 1.0), (2, 0.5)]}),),
            what_if=replace(inputs.what_if, points=points, uniform=uniform, importance=hostile, figure=hostile),
        )
    )
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert resource("report.js").strip() in page
    assert page.count("alert(") == page.count("alert(&#39;x&#39;)")
    assert hostile in reader.words
