"""What the policy costs: nominal and realised BitOps side by side, budgets, and the size of the weights."""

from dataclasses import dataclass

from limpq_deploy.calibration.numbers.formats import FP8, bits_of
from limpq_deploy.export.records.placement import FLOAT_BITS, BitPair, LayerPlacement
from limpq_deploy.policy.policy import BudgetUse
from limpq_deploy.report import svg
from limpq_deploy.report.figures import binary_size, count, digits, giga, percent
from limpq_deploy.report.inputs import ReportInputs, pair_of
from limpq_deploy.report.rows import Row, RowChart, Scale, round_scale, tick_text
from limpq_deploy.verdict.record import BitOpsCount

BAR = 11
OFF_CHART = 8
"""An assignment this many times more costly than every other one is left to the table."""

MODEL_NAMES = {"mixed": "mixed", "float": "float", "uniform8": "uniform 8 bit", "fp32": "float, FP32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSize:
    """Weights packed at their nominal bits, without biases and scales. ``ratio``: of 32-bit weights to it."""

    name: str
    num_bits: int
    ratio: float

    @property
    def text(self) -> str:
        return binary_size(self.num_bits / 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsSection:
    """``off_chart``: assignments too costly for the picture; ``same``: nominal equals realised for the mixed model."""

    chart: RowChart
    bitops: tuple[BitOpsCount, ...]
    off_chart: tuple[str, ...]
    budgets: RowChart | None
    sizes: tuple[WeightSize, ...]
    native: str


def costs_section(inputs: ReportInputs) -> CostsSection:
    bitops = inputs.verdict.bitops
    outside = _off_chart(bitops)
    return CostsSection(
        chart=_bitops_chart([entry for entry in bitops if entry.name not in outside]),
        bitops=bitops,
        off_chart=tuple(model_name(name) for name in outside),
        budgets=_budget_chart(inputs.verdict.budgets) if inputs.verdict.budgets else None,
        sizes=weight_sizes(inputs),
        native=", ".join(dict.fromkeys(map(_pair_words, inputs.placement.spec.native_pairs))),
    )


def model_name(name: str) -> str:
    """A model of the comparison, as the page calls it."""
    bits = name == "fp8" or (name.startswith("w") and name[1:2].isdigit())
    return MODEL_NAMES.get(name, f"uniform {name}" if bits else name)


def weight_sizes(inputs: ReportInputs) -> tuple[WeightSize, ...]:
    """Packed sizes of the mixed, uniform, 8-bit and float weights, from exact bit counts."""
    layers = inputs.placement.layers
    full = FLOAT_BITS * sum(layer.num_weights for layer in layers)

    def size(name: str, width: dict[str, int]) -> WeightSize:
        num_bits = sum(layer.num_weights * bits_of(width[layer.name]) for layer in layers)
        return WeightSize(name=name, num_bits=num_bits, ratio=full / num_bits if num_bits else 0.0)

    sizes = [size("mixed", {layer.name: inputs.pair(layer.name)[0] for layer in layers})]
    if inputs.uniform is not None:
        uniform = {layer.name: pair_of(inputs.placement, inputs.uniform, layer.name)[0] for layer in layers}
        sizes.append(size("uniform within the budget", uniform))
    return (*sizes, size("uniform 8 bit", _same(layers, 8)), size("float", _same(layers, FLOAT_BITS)))


def _same(layers: tuple[LayerPlacement, ...], bits: int) -> dict[str, int]:
    return {layer.name: bits for layer in layers}


def _off_chart(bitops: tuple[BitOpsCount, ...]) -> tuple[str, ...]:
    largest = {entry.name: max(entry.nominal_all, entry.realised_all) for entry in bitops}
    return tuple(
        name
        for name, figure in largest.items()
        if (others := [other for key, other in largest.items() if key != name]) and figure > OFF_CHART * max(others)
    )


def _bitops_chart(bitops: list[BitOpsCount]) -> RowChart:
    most = max((max(entry.nominal_all, entry.realised_all) for entry in bitops), default=1)
    unit, divisor = next((pair for pair in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if most >= pair[1]), ("", 1.0))
    scale = round_scale(0.0, most / divisor)
    height = 2 * BAR + 12

    def row(entry: BitOpsCount) -> Row:
        marks = (
            scale.grid(height),
            svg.box(0, 5, scale(entry.nominal_all / divisor), BAR, "nominal"),
            svg.box(0, 7 + BAR, scale(entry.realised_all / divisor), BAR, "realised"),
        )
        nominal, realised = giga(entry.nominal_all), giga(entry.realised_all)
        return Row(
            name=model_name(entry.name),
            track=svg.image(f"{entry.name}: nominal {nominal}, realised {realised} BitOps", height, *marks),
            value=f"{nominal} nominal",
            detail=f"{realised} realised",
        )

    return RowChart(
        rows=tuple(row(entry) for entry in bitops),
        axis=scale.axis(tick_text(scale, f" {unit}".rstrip())),
        axis_name="BitOps for one image, pinned layers included",
    )


def _budget_chart(budgets: tuple[BudgetUse, ...]) -> RowChart:
    """Each budget used, as a share of its limit."""
    height = 26
    top = max(1.0, *(budget.used / budget.limit if budget.limit else 0.0 for budget in budgets))
    scale = Scale(low=0.0, high=1.04 * top, ticks=(0.0, 0.25, 0.5, 0.75, 1.0))

    def row(budget: BudgetUse) -> Row:
        used = budget.used / budget.limit if budget.limit else 0.0
        kept = budget.used <= budget.limit
        marks = (
            scale.grid(height),
            svg.box(0, 7, scale(used), 12, "used" if kept else "used over"),
            svg.vertical(scale(1.0), 0, height, "limit"),
        )
        return Row(
            name=budget_name(budget.name),
            hint="within the limit" if kept else "ABOVE the limit",
            track=svg.image(f"{budget.name}: {percent(used)} of the limit used", height, *marks),
            value=percent(used),
            detail=f"{amount(budget.used, budget.unit)} of {amount(budget.limit, budget.unit)}",
        )

    return RowChart(
        rows=tuple(row(budget) for budget in budgets),
        axis=scale.axis(lambda tick: f"{100 * tick:.0f} %"),
        axis_name="share of the limit",
    )


def budget_name(name: str) -> str:
    known = {
        "bitops": "BitOps, all layers",
        "bitops_searched": "BitOps, searched layers",
        "size": "Weight size, all layers",
    }
    return known.get(name, name.replace("_", " "))


def amount(number: int, unit: str) -> str:
    """A count in its unit, as people read it."""
    if unit == "bits":
        return binary_size(number / 8)
    return f"{giga(number)} {unit}" if number >= 1000 else f"{count(number)} {unit}"


def _pair_words(pair: BitPair) -> str:
    if pair == (FP8, FP8):
        return "FP8"
    return "float" if pair[0] >= 16 else f"{pair[0]}\N{MULTIPLICATION SIGN}{pair[1]} bit"


def ratio_text(ratio: float) -> str:
    return f"{digits(ratio)}\N{MULTIPLICATION SIGN}"
