"""The indicators as heat maps: learned scales, and how far each moved from its first value."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from limpq_deploy.policy.importance_names import MEASURES, SCALE, carried, read_by
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.outliers import OutlierReport
from limpq_deploy.report import svg
from limpq_deploy.report.columns import AxisLabel, Column, ColumnChart, column_chart
from limpq_deploy.report.figures import digits, percent, width
from limpq_deploy.report.inputs import ReportInputs

CELL_PX = 17
TOP = 18
BETWEEN = 26

LITTLE_MOVEMENT = 0.02
"""Below this median the scales hardly learned: their order is still that of the tensors' sizes."""

FULL_MOVEMENT = 0.5
"""Movement that is drawn in full colour; what moved farther looks the same."""

Values = tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Median of ``|scale / first value - 1|`` over layers and bit-widths; a shared activation counts once."""

    weight: float | None
    act: float | None

    @property
    def little(self) -> bool:
        return self.act is not None and self.act < LITTLE_MOVEMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Treated:
    """An indicator that grew with the bit-width, and what the search did about it."""

    layer: str
    tensor: str
    bits: int
    learned: str
    used: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRow:
    """Scales of one layer as text, one per bit-width."""

    name: str
    weight: tuple[str, ...]
    act: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Winning:
    """Heat map of the measure by which the policy was found, where that is another one than the scales: ``what`` it is,
    the smallest and largest numbers above 0 as text."""

    name: str
    what: str
    chart: ColumnChart
    weight_range: tuple[str, str]
    act_range: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalesSection:
    """``learned``: heat map of the scales; ``moved``: of the movement, None where first values are not recorded;
    ``winning``: that of another measure. ``weight_range`` and ``act_range``: smallest and largest learned scale, as
    text."""

    bits: tuple[int, ...]
    learned: ColumnChart
    moved: ColumnChart | None
    movement: Movement
    weight_range: tuple[str, str]
    act_range: tuple[str, str]
    winning: Winning | None
    treated: tuple[Treated, ...]
    mode: str | None
    rows: tuple[ScaleRow, ...]


def scales_section(inputs: ReportInputs) -> ScalesSection | None:
    indicators = inputs.indicators
    if indicators is None:
        return None
    by_name = {layer.name: layer for layer in indicators.layers}
    layers = [(placed.name, by_name.get(placed.name)) for placed in inputs.placement.layers]
    weights = _range([scale for layer in indicators.layers for scale in layer.weight])
    acts = _range([scale for layer in indicators.layers for scale in layer.act])
    movement = Movement(weight=_median_movement(indicators, "weight"), act=_median_movement(indicators, "act"))
    learned = _heat(
        inputs,
        layers,
        indicators,
        value=lambda layer: (layer.weight, layer.act),
        shade=lambda value, tensor: _log_share(value, weights if tensor == "weight" else acts),
        text=digits,
        label=f"{'Learned scales' if inputs.trained else 'Scales'} of weights and activations by layer and bit-width; "
        "the table below holds the numbers.",
    )
    moved = None
    if movement.weight is not None or movement.act is not None:
        moved = _heat(
            inputs,
            layers,
            indicators,
            value=lambda layer: (_moved(layer.weight, layer.weight_init), _moved(layer.act, layer.act_init)),
            shade=lambda value, tensor: min(1.0, value / FULL_MOVEMENT),
            text=lambda value: f"moved {percent(value, 1)}",
            label="How far each scale moved from its first value, by layer and bit-width.",
        )
    report = _treatment(inputs)
    return ScalesSection(
        bits=indicators.bits,
        learned=learned,
        moved=moved,
        movement=movement,
        weight_range=(digits(weights[0]), digits(weights[1])),
        act_range=(digits(acts[0]), digits(acts[1])),
        winning=_winning(inputs),
        treated=tuple(
            Treated(
                layer=entry.layer,
                tensor="activation" if entry.tensor == "act" else "weight",
                bits=entry.bits,
                learned=digits(entry.learned),
                used="not used" if entry.used is None else digits(entry.used),
            )
            for entry in (report.entries if report is not None else ())
        ),
        mode=None if report is None else report.mode,
        rows=tuple(
            ScaleRow(
                name=layer.name,
                weight=tuple(map(digits, layer.weight)),
                act=tuple(map(digits, layer.act)),
            )
            for layer in indicators.layers
        ),
    )


def _winning(inputs: ReportInputs) -> Winning | None:
    name, indicators = inputs.policy.importance, inputs.indicators
    if indicators is None or name in (None, SCALE) or name not in carried(indicators):
        return None
    assert name is not None
    read = read_by(indicators, name)
    by_name = {layer.name: layer for layer in read.layers}
    ends = [_range([one for layer in read.layers for one in values(layer) if one > 0]) for values in (_weight, _act)]
    chart = _heat(
        inputs,
        [(placed.name, by_name.get(placed.name)) for placed in inputs.placement.layers],
        read,
        value=lambda layer: (layer.weight, layer.act),
        shade=lambda value, tensor: _log_share(value, ends[tensor == "act"]),
        text=digits,
        label=f"Importance by the measure {name}, of weights and activations by layer and bit-width.",
    )
    said = [(digits(low), digits(high)) for low, high in ends]
    return Winning(name=name, what=MEASURES[name].what, chart=chart, weight_range=said[0], act_range=said[1])


def _weight(layer: LayerIndicators) -> tuple[float, ...]:
    return layer.weight


def _act(layer: LayerIndicators) -> tuple[float, ...]:
    return layer.act


def _heat(
    inputs: ReportInputs,
    layers: Sequence[tuple[str, LayerIndicators | None]],
    indicators: Indicators,
    *,
    value: Callable[[LayerIndicators], tuple[Values, Values]],
    shade: Callable[[float, str], float],
    text: Callable[[float], str],
    label: str,
) -> ColumnChart:
    """Two blocks of cells, weights above activations; the chosen bit-width is framed, a treated entry crossed."""
    block = CELL_PX * len(indicators.bits)
    tops = {"weight": TOP, "act": TOP + block + BETWEEN}
    report = _treatment(inputs)
    treated = {(entry.layer, entry.tensor, entry.bits) for entry in (report.entries if report is not None else ())}
    axis = []
    for tensor, top in tops.items():
        name = "weight" if tensor == "weight" else "act."
        axis.append(AxisLabel(y=top - 9, text=name, class_=f"tick {tensor[0]}-ink"))
        axis += [AxisLabel(y=top + CELL_PX * (row + 0.5), text=width(bits)) for row, bits in enumerate(indicators.bits)]

    def column(name: str, layer: LayerIndicators | None) -> Column:
        if layer is None:
            pinned = [svg.box(0.06, top + 0.5, 0.88, block - 1, "cell-none") for top in tops.values()]
            return Column(name=name, hover=f"{name}\npinned, not searched", marks=svg.group(*pinned))
        chosen = inputs.pair(name)
        marks: list[Markup] = []
        said = [name]
        for position, (tensor, top) in enumerate(tops.items()):
            values = value(layer)[position]
            for row, bits in enumerate(indicators.bits):
                y = top + CELL_PX * row
                if values is not None:
                    opacity = 0.07 + 0.93 * shade(values[row], tensor)
                    marks.append(svg.box(0.06, y + 0.5, 0.88, CELL_PX - 1, f"cell-{tensor[0]}", fill_opacity=opacity))
                    note = " (chosen)" if bits == chosen[position] else ""
                    said.append(f"{tensor} {width(bits)}: {text(values[row])}{note}")
                if (name, tensor, bits) in treated:
                    marks.append(svg.words(0.5, y + CELL_PX - 4, "\N{MULTIPLICATION SIGN}", "cross"))
            if values is not None and chosen[position] in indicators.bits:
                y = top + CELL_PX * indicators.bits.index(chosen[position])
                marks.append(svg.box(0.06, y + 1, 0.88, CELL_PX - 2, "chosen"))
        return Column(name=name, hover="\n".join(said), marks=svg.group(*marks))

    return column_chart(label, [column(name, layer) for name, layer in layers], tops["act"] + block, axis=axis)


def _treatment(inputs: ReportInputs) -> OutlierReport | None:
    """What was done to scales that grow with the bits; None where the policy was found by another measure's numbers."""
    return inputs.policy.outliers if inputs.policy.importance in (None, SCALE) else None


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values, default=0.0), max(values, default=0.0)


def _log_share(value: float, ends: tuple[float, float]) -> float:
    """Position on a logarithmic scale between the ends; 0 where one of them is 0."""
    low, high = ends
    if value <= 0 or low <= 0 or high <= low:
        return 0.0 if value <= 0 else 1.0
    return math.log(value / low) / math.log(high / low)


def _moved(values: tuple[float, ...], first: Values) -> Values:
    """``|scale / first value - 1|``, and 0 for a first value of 0."""
    if first is None:
        return None
    return tuple(abs(value / start - 1) if start else 0.0 for value, start in zip(values, first, strict=True))


def _median_movement(indicators: Indicators, tensor: str) -> float | None:
    moved: dict[str, tuple[float, ...]] = {}
    for layer in indicators.layers:
        if tensor == "weight":
            key, values = layer.name, _moved(layer.weight, layer.weight_init)
        else:
            key, values = layer.act_group or layer.name, _moved(layer.act, layer.act_init)
        if values is not None:
            moved.setdefault(key, values)
    everything = [value for values in moved.values() for value in values]
    return median(everything) if everything else None
