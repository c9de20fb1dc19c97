"""Bits per layer as a picture: weight bits upwards, activation bits downwards, the share of BitOps below."""

from dataclasses import dataclass
from math import prod

from limpq_deploy.calibration.numbers.formats import bits_of, width_name
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import in_float
from limpq_deploy.report import svg
from limpq_deploy.report.columns import AxisLabel, Column, ColumnChart, column_chart
from limpq_deploy.report.figures import count, percent, width
from limpq_deploy.report.inputs import ReportInputs, pair_of

BIT_PX = 11
TOP = 16
GAP = 3
BETWEEN = 34
SHARE_PX = 46
FLOAT_BAR = 10
"""Height, in bits, of the bar of a tensor kept in float; its number is written on it."""
SIDE = 0.11
"""Room on each side of a bar, as a share of its column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer of the table. ``share``: of the nominal BitOps, pinned layers included."""

    name: str
    kind: str
    macs: int
    num_weights: int
    nominal: BitPair
    realised: BitPair
    uniform: BitPair | None
    share: float
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersSection:
    """``uniform``: the uniform policy's bits where it has one pair for all. ``container``: realised bits fit the
    picture and are drawn as outlines."""

    chart: ColumnChart
    rows: tuple[LayerRow, ...]
    uniform: BitPair | None
    container: bool


def layers_section(inputs: ReportInputs) -> LayersSection:
    rows = layer_rows(inputs)
    uniform = _one_pair(inputs)
    top_bits = max(8, *(drawn_bits(bits) for row in rows for bits in row.nominal))
    container = all(max(map(drawn_bits, row.realised)) <= top_bits for row in rows)
    return LayersSection(
        chart=_chart(rows, top_bits, uniform, container),
        rows=rows,
        uniform=uniform,
        container=container,
    )


def drawn_bits(bits: int) -> int:
    """Bits as a bar is high: floats are cut off, for their bars would dwarf all others."""
    return FLOAT_BAR if in_float(bits) else bits_of(bits)


def layer_rows(inputs: ReportInputs) -> tuple[LayerRow, ...]:
    """Every layer in execution order, with its share of the BitOps."""
    pairs = {layer.name: inputs.pair(layer.name) for layer in inputs.placement.layers}
    bitops = {layer.name: layer.macs * prod(map(bits_of, pairs[layer.name])) for layer in inputs.placement.layers}
    total = sum(bitops.values()) or 1
    return tuple(
        LayerRow(
            name=layer.name,
            kind=layer.kind,
            macs=layer.macs,
            num_weights=layer.num_weights,
            nominal=pairs[layer.name],
            realised=inputs.executed(layer.name),
            uniform=None if inputs.uniform is None else pair_of(inputs.placement, inputs.uniform, layer.name),
            share=bitops[layer.name] / total,
            pinned=layer.pinned_bits is not None,
        )
        for layer in inputs.placement.layers
    )


def _one_pair(inputs: ReportInputs) -> BitPair | None:
    if inputs.uniform is None:
        return None
    pairs = {pair_of(inputs.placement, inputs.uniform, layer.name) for layer in inputs.placement.searched}
    return pairs.pop() if len(pairs) == 1 else None


def _chart(rows: tuple[LayerRow, ...], top_bits: int, uniform: BitPair | None, container: bool) -> ColumnChart:
    weight_floor = TOP + BIT_PX * top_bits
    act_ceiling = weight_floor + GAP
    act_end = act_ceiling + BIT_PX * top_bits
    share_floor = act_end + BETWEEN + SHARE_PX
    most = max((row.share for row in rows), default=0) or 1

    lines = []
    axis = []
    for bits in range(0, top_bits + 1, 4):
        for y in (weight_floor - BIT_PX * bits, act_ceiling + BIT_PX * bits):
            lines.append(svg.horizontal(y, "grid"))
            if bits:
                axis.append(AxisLabel(y=y, text=f"{bits} bit"))
    axis += [
        AxisLabel(y=weight_floor - 2 * BIT_PX, text="weight", class_="tick w-ink"),
        AxisLabel(y=act_ceiling + 2 * BIT_PX, text="act.", class_="tick a-ink"),
        AxisLabel(y=share_floor - SHARE_PX, text=percent(most, 1)),
        AxisLabel(y=share_floor - SHARE_PX / 2, text="BitOps"),
    ]
    lines += [svg.horizontal(share_floor, "base"), svg.horizontal(share_floor - SHARE_PX, "grid")]

    def column(row: LayerRow) -> Column:
        weight, act = row.nominal
        up, down = BIT_PX * drawn_bits(weight), BIT_PX * drawn_bits(act)
        kind, text = (" pinned", " pinned-text") if row.pinned else ("", "")
        inner = 1 - 2 * SIDE
        outline = []
        if container:
            tall, deep = (BIT_PX * drawn_bits(bits) for bits in row.realised)
            outline = [
                svg.box(SIDE, weight_floor - tall, inner, tall, "container"),
                svg.box(SIDE, act_ceiling, inner, deep, "container"),
            ]
        marks = [
            *outline,
            svg.box(SIDE, weight_floor - up, inner, up, f"bar-w{kind}"),
            svg.box(SIDE, act_ceiling, inner, down, f"bar-a{kind}"),
            svg.words(0.5, weight_floor - 4, width_name(weight), f"in-bar{text}"),
            svg.words(0.5, act_ceiling + 11, width_name(act), f"in-bar{text}"),
            svg.box(SIDE, share_floor - SHARE_PX * row.share / most, inner, SHARE_PX * row.share / most, "bar-share"),
        ]
        return Column(name=row.name, hover=_hover(row), marks=svg.group(*marks))

    front = []
    if uniform is not None:
        front = [
            svg.horizontal(weight_floor - BIT_PX * drawn_bits(uniform[0]), "uniform-line"),
            svg.horizontal(act_ceiling + BIT_PX * drawn_bits(uniform[1]), "uniform-line"),
        ]
    label = (
        f"Weight and activation bits of {len(rows)} layers in execution order, "
        f"{sum(row.pinned for row in rows)} of them pinned; the table below holds the same numbers."
    )
    return column_chart(
        label, [column(row) for row in rows], share_floor, axis=axis, behind=svg.group(*lines), front=svg.group(*front)
    )


def _hover(row: LayerRow) -> str:
    pinned = " (pinned)" if row.pinned else ""
    return (
        f"{row.name}{pinned}\nweight {width(row.nominal[0])}, activation {width(row.nominal[1])}\n"
        f"executed at {width(row.realised[0])} and {width(row.realised[1])}\n"
        f"{count(row.macs)} MACs, {percent(row.share)} of BitOps"
    )
