"""The parts of the page: figures, axes, columns, and what each picture is drawn from."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.plain_text import escaped
from limpq_deploy.policy.policy import LayerBits
from limpq_deploy.report import ReportInputs, figures, svg
from limpq_deploy.report.bits_over_front import bits_chart
from limpq_deploy.report.columns import Column, column_chart, short_name
from limpq_deploy.report.costs import costs_section, weight_sizes
from limpq_deploy.report.latency import BINS, histogram, latency_scale, latency_section
from limpq_deploy.report.layers import layer_rows, layers_section
from limpq_deploy.report.page import render_report
from limpq_deploy.report.parity import parity_section
from limpq_deploy.report.rows import round_scale, tick_text
from limpq_deploy.report.scales import scales_section
from limpq_deploy.train.evaluate import wilson_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00623, "0.00623"), (0.111, "0.111"), (1.5, "1.500"), (12.3456, "12.35"), (54321.4, "54,321")],
)
def test_digits_keep_small_numbers_readable(value: float, text: str) -> None:
    assert figures.digits(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.00 %"), (0.5, "50.00 %"), (4.7e-6, "4.7 per million"), (3e-9, "3 per billion")]
)
def test_a_small_share_is_never_rounded_to_zero(share: float, text: str) -> None:
    assert figures.percent(share) == text


def test_sizes_are_binary_and_counts_are_decimal() -> None:
    assert figures.binary_size(2**20) == "1.000 MiB"
    assert figures.binary_size(1536) == "1.500 KiB"
    assert figures.giga(389_000_000) == "389.0 M"
    assert figures.giga(999) == "999"


def test_a_difference_has_a_true_minus_and_zero_has_no_sign() -> None:
    assert figures.signed(-0.56) == "\N{MINUS SIGN}0.56"
    assert figures.signed(0.28) == "+0.28"
    assert figures.signed(-0.001) == "0.00"


@given(st.text(), st.text())
def test_any_text_in_an_element_comes_back_as_it_may_be_shown(content: str, label: str) -> None:
    class Reader(HTMLParser):
        content, label = "", ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag == "text"
            self.label = dict(attrs)["aria-label"] or ""

        def handle_data(self, data: str) -> None:
            self.content += data

    reader = Reader()
    reader.feed(svg.tag("text", content, aria_label=label))
    reader.close()
    assert (reader.content, reader.label) == (escaped(content), escaped(label))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_an_axis_holds_both_ends_and_has_equal_steps(low: float, width: float) -> None:
    high = low + width
    scale = round_scale(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-3)
    assert scale.low <= low + slack
    assert scale.high >= high - slack
    assert 2 <= len(scale.ticks) <= 13
    assert 0 <= scale(low) <= scale(high) <= 1


def test_tick_labels_have_the_decimals_that_their_step_needs() -> None:
    scale = round_scale(0.0, 0.03)
    labels = [tick_text(scale, " ms")(tick) for tick in scale.ticks]
    assert labels == ["0.00 ms", "0.01 ms", "0.02 ms", "0.03 ms"]


@given(st.integers(1, 5000), st.data())
def test_the_interval_of_an_accuracy_holds_it_and_solves_wilsons_equation(images: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, images))
    low, high = wilson_interval(correct, images)
    p = correct / images
    assert 0 <= low <= p + 1e-12
    assert p - 1e-12 <= high <= 1
    for end in (low, high):
        assert (p - end) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / images, abs=1e-9)


def test_columns_carry_their_full_name_and_stay_readable_when_many() -> None:
    names = [f"features.{index}.a_very_long_block_name.conv" for index in range(200)]
    chart = column_chart("bits", [Column(name=name, hover=name, marks=svg.group()) for name in names], 50)
    assert all(f"<title>{name}</title>" in chart.plot for name in names)
    assert chart.min_width / len(names) >= 12
    assert short_name(names[0]).endswith("long_block_name.conv")


def test_shares_of_bitops_add_up_and_pinned_layers_keep_their_bits(small: ReportInputs) -> None:
    rows = layer_rows(small)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert [row.nominal for row in rows if row.pinned] == [(8, 8), (8, 8)]
    assert rows[1].nominal == (5, 3)
    assert rows[1].realised == (8, 8)
    total = sum(row.macs * row.nominal[0] * row.nominal[1] for row in rows)
    assert total == small.verdict.bitops[0].nominal_all


def test_bits_that_an_engine_reports_stand_before_those_that_the_target_promises(small: ReportInputs) -> None:
    inputs = replace(small, realised={"layer1.0.conv2": (32, 32)})
    rows = {row.name: row.realised for row in layer_rows(inputs)}
    assert rows["layer1.0.conv2"] == (32, 32)
    assert rows["layer1.0.conv1"] == (8, 8)
    assert layers_section(small).container
    assert not layers_section(inputs).container


def test_a_layer_kept_in_float_has_a_bar_that_does_not_dwarf_the_others(small: ReportInputs) -> None:
    bits = {**small.policy.bits, "layer1.0.conv1": LayerBits(weight=32, act=32)}
    floats = replace(small, policy=replace(small.policy, bits=bits), realised={"layer1.0.conv1": (32, 32)})
    section = layers_section(floats)
    assert section.container
    assert 'height="110" class="bar-w"' in section.chart.plot
    assert f'height="{11 * 32}"' not in section.chart.plot
    assert ">32</text>" in section.chart.plot
    assert "weight 32 bit, activation 32 bit" in section.chart.plot


def test_fp8_is_called_by_its_name_and_stands_as_tall_as_8_bits(small: ReportInputs) -> None:
    bits = {**small.policy.bits, "layer1.0.conv1": LayerBits.of((FP8, FP8))}
    fp8 = replace(small, policy=replace(small.policy, bits=bits), realised={"layer1.0.conv1": (FP8, FP8)})
    drawn = layers_section(fp8).chart.plot
    assert "weight fp8, activation fp8" in drawn
    assert "executed at fp8 and fp8" in drawn
    following = bits_chart(small.placement.layers, [(8, 8)] * 10, [[(8, 8)] * 10, [(FP8, FP8)] * 10]).plot
    assert 'data-bits="8,8" data-said="8,fp8"' in following
    shown = re.sub(r"'sha256-[^']*'", "", render_report(fp8))  # a hash may hold any letters
    assert all(">9<" not in one and "w9" not in one for one in (drawn, following))
    assert "<td>9</td>" not in shown  # another 9 may be a tick of measured times
    assert "w9" not in shown
    assert drawn.count(">fp8<") == 2
    assert shown.count("<td>fp8</td>") == 2


def test_bars_are_as_tall_as_their_bits(small: ReportInputs) -> None:
    plot = layers_section(small).chart.plot
    for row in layer_rows(small):
        kind = " pinned" if row.pinned else ""
        assert f'height="{11 * row.nominal[0]}" class="bar-w{kind}"' in plot
        assert f'height="{11 * row.nominal[1]}" class="bar-a{kind}"' in plot


def test_packed_size_counts_every_weight_at_its_bits(small: ReportInputs) -> None:
    mixed, uniform, eight, full = weight_sizes(small)
    weights = sum(layer.num_weights for layer in small.placement.layers)
    assert mixed.num_bits == sum(layer.num_weights * small.pair(layer.name)[0] for layer in small.placement.layers)
    assert eight.num_bits == 8 * weights
    assert full.num_bits == 32 * weights
    assert full.ratio == 1
    assert mixed.ratio == full.num_bits / mixed.num_bits
    assert uniform.num_bits < eight.num_bits


def test_an_assignment_far_off_the_scale_is_named_and_left_to_the_table(small: ReportInputs) -> None:
    section = costs_section(small)
    assert section.off_chart == ("float",)
    assert [row.name for row in section.chart.rows] == ["mixed", "uniform w4a4", "uniform 8 bit"]


def test_movement_is_the_median_and_counts_a_shared_activation_once(small: ReportInputs) -> None:
    assert small.indicators is not None
    first, second, *_ = small.indicators.layers
    ones, half = (1.0,) * 5, (0.5,) * 5
    layers = (
        replace(first, weight=ones, weight_init=half, act=ones, act_init=half, act_group="a"),
        replace(second, weight=ones, weight_init=half, act=ones, act_init=half, act_group="a"),
        *(replace(layer, weight_init=None, act_init=layer.act) for layer in small.indicators.layers[2:]),
    )
    section = scales_section(replace(small, indicators=replace(small.indicators, layers=layers)))
    assert section is not None
    assert section.movement.weight == 1.0
    assert section.movement.act == 0.0
    assert section.movement.little


def test_without_first_values_movement_is_not_drawn(resnet50: ReportInputs) -> None:
    section = scales_section(resnet50)
    assert section is not None
    assert section.moved is None
    assert not section.movement.little
    assert [(entry.layer, entry.bits) for entry in section.treated] == [
        ("layer4.0.downsample.0", 5),
        ("layer4.2.conv3", 5),
    ]


def test_every_call_is_in_the_histogram_or_counted_beside_it(small: ReportInputs) -> None:
    section = latency_section(small)
    assert section is not None
    for group in section.groups:
        scale = latency_scale(group.series)
        drawn = sum(int(histogram(np.asarray(one.samples_ms), scale).sum()) for one in group.series)
        beyond = sum(sample > scale.high for one in group.series for sample in one.samples_ms)
        assert drawn + beyond == sum(len(one.samples_ms) for one in group.series)
        assert (group.beyond is not None) == (beyond > 0)
        assert len(histogram(np.asarray([scale.low]), scale)) == BINS


def test_doubts_are_said_once_with_all_engines_that_they_are_about(small: ReportInputs) -> None:
    assert small.latency is not None
    doubted = tuple(replace(one, doubts=("busy machine",)) for one in small.latency.series)
    section = latency_section(replace(small, latency=replace(small.latency, series=doubted)))
    assert section is not None
    assert [group.doubts for group in section.groups] == [(("float, uniform 8 bit, mixed", "busy machine"),)] * 2
    assert section.doubtful == len(doubted)


def test_parity_sums_over_tensors_and_names_the_classes(small: ReportInputs) -> None:
    section = parity_section(small)
    assert section is not None
    assert small.parity is not None
    assert section.faithful is not None
    assert section.folding is not None
    assert section.runtime.mismatches == 0
    assert section.faithful.mismatches == 1
    assert section.faithful.tie == 0.0004
    assert section.folding.mismatches == sum(part.mismatches for part in small.parity.folding) > 1
    assert section.end_to_end == section.folding
    assert [(one.image, one.trained, one.runtime) for one in section.differing] == [
        (41, "3 (3)", "8 (8)"),
        (277, "1 (1)", "7 (7)"),
    ]


def test_a_tensor_without_a_difference_stands_below_every_other_one(small: ReportInputs) -> None:
    section = parity_section(small)
    assert section is not None
    assert section.chart is not None
    heights = [float(piece.split('"')[0]) for piece in section.chart.plot.split('cy="')[1:]]
    assert all(math.isfinite(height) for height in heights)
    assert heights.count(max(heights)) == len(small.placement.layers) - 1
