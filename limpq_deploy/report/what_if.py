"""What other budgets would give: a front with a slider, drawn against every cost that is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from markupsafe import Markup

from limpq_deploy.calibration.numbers.formats import FP8_BITS, bits_of
from limpq_deploy.export.records.placement import FLOAT_BITS, BitPair
from limpq_deploy.policy.what_if import WhatIf, WhatIfPoint
from limpq_deploy.report.bits_over_front import bits_chart, pairs_of_all
from limpq_deploy.report.columns import ColumnChart
from limpq_deploy.report.figures import binary_size, digits, giga, signed
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.layers import BIT_PX
from limpq_deploy.report.scatter import Mark, Reference, scatter
from limpq_deploy.tasks.score import TOP1, Measure
from limpq_deploy.verdict.record import MIXED

Costs = Callable[[WhatIfPoint], float | None]
"""One cost of a policy; None where it is not known."""

AXES: tuple[tuple[str, str, Costs], ...] = (
    ("G BitOps, all layers", "BitOps", lambda point: point.bitops / 1e9),
    ("KiB of weights, stored at their bits", "size", lambda point: point.size_bits / 2**13),
    ("predicted latency, ms", "latency", lambda point: None if point.latency_ns is None else point.latency_ns / 1e6),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRow:
    """One stop of the slider, as text. ``says``: all of it in a line; ``gain``: the figure against the section's
    ``against``; ``bits``: of every layer, in the table's order; ``own``: these are the policy's bits."""

    name: str
    says: str
    bitops: str
    size: str
    latency: str | None
    figure: str
    interval: str
    gain: str
    loss: str
    mean_bits: str
    proof: str
    command: str
    bits: tuple[BitPair, ...]
    own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfSection:
    """``start``: the stop nearest to the policy's own budget. ``pictures``: accuracy against each cost. ``together``:
    what the intervals allow to say. ``against``: what figures are compared with: the policy, or where it has no preview
    on these images, ``start``. ``layers``: names of the searched ones, in the order of the rows' ``bits``."""

    rows: tuple[FrontRow, ...]
    uniform: tuple[FrontRow, ...]
    start: int
    bit_px: int
    pictures: tuple[Markup, ...]
    chart: ColumnChart
    figure: str
    images: int
    together: str
    against: str
    swept: str
    measure: str
    layers: tuple[str, ...]


def what_if_section(inputs: ReportInputs) -> WhatIfSection | None:
    """None where no front was made, or nothing on it previewed."""
    found = inputs.what_if
    if found is None or not found.points or found.images is None:
        return None
    own = inputs.policy.pairs()
    names = tuple(layer.name for layer in inputs.placement.searched)
    bitops = next(one.nominal_all for one in inputs.verdict.bitops if one.name == MIXED)
    start = _start(found, own, bitops)
    same = next((point for point in (*found.points, *found.uniform) if point.pairs() == own), None)
    reached = (same or found.points[start]).preview
    base = reached.value if reached is not None else 0.0
    measure = _measure(found)

    def row(point: WhatIfPoint) -> FrontRow:
        return _row(point, names, base, measure, own, inputs.commands.get(point.name, ""))

    return WhatIfSection(
        rows=tuple(row(point) for point in found.points),
        uniform=tuple(row(point) for point in found.uniform),
        start=start,
        bit_px=BIT_PX,
        pictures=tuple(_pictures(inputs, found)),
        chart=bits_chart(
            inputs.placement.layers,
            pairs_of_all(inputs.placement, inputs.policy, found.points[start].pairs()),
            [pairs_of_all(inputs.placement, inputs.policy, point.pairs()) for point in found.points],
        ),
        figure=measure.title,
        images=found.images,
        together=_together(found),
        swept=f"--{found.swept.replace('_', '-')}",
        against="this policy" if same is not None else f"the best at {found.points[start].name}",
        measure=f"{found.importance}, alpha {found.alpha:g}, outliers: {found.outliers}",
        layers=names,
    )


def _measure(found: WhatIf) -> Measure:
    return TOP1 if found.figure == TOP1.name else Measure(name=found.figure, unit=found.unit)


def _start(found: WhatIf, own: dict[str, BitPair], bitops: int) -> int:
    """The policy's own stop, or that with the most BitOps within its ``bitops``."""
    same = [place for place, point in enumerate(found.points) if point.pairs() == own]
    within = [place for place, point in enumerate(found.points) if point.bitops <= bitops]
    return same[0] if same else max(within, key=lambda place: found.points[place].bitops, default=0)


def _row(
    point: WhatIfPoint, names: Sequence[str], base: float, measure: Measure, own: dict[str, BitPair], command: str
) -> FrontRow:
    seen = point.preview
    pairs = point.pairs()
    weights, acts = (fmean(bits_of(pairs[name][part]) for name in names) for part in (0, 1))
    figure = measure.shown(seen.value) if seen is not None else "not previewed"
    interval = f"{seen.low:.2f} to {measure.shown(seen.high)}" if seen is not None else ""
    size, bitops = binary_size(point.size_bits / 8), giga(point.bitops)
    latency = None if point.latency_ns is None else f"{digits(point.latency_ns / 1e6)} ms"
    solver = point.solver
    proof = "uniform bits, nothing was searched"
    if solver is not None:
        proof = "proved optimal" if solver.status == "optimal" else f"within {100 * solver.gap:.2g} % of the best"
    return FrontRow(
        name=point.name,
        says=f"{bitops} BitOps, {size}" + (f", {latency}" if latency else "") + f", {measure.said(seen.value)}"
        if seen is not None
        else f"{bitops} BitOps, {size}",
        bitops=bitops,
        size=size,
        latency=latency,
        figure=figure,
        interval=interval,
        gain=f"{signed(seen.value - base)} {measure.points}" if seen is not None else "",
        loss=f"{seen.loss:.4f}" if seen is not None else "",
        mean_bits=f"{weights:.2f} weight, {acts:.2f} activation",
        proof=proof,
        command=command,
        bits=tuple(pairs[name] for name in names),
        own=pairs == own,
    )


def _pictures(inputs: ReportInputs, found: WhatIf) -> list[Markup]:
    measure = _measure(found)
    accuracy = inputs.verdict.accuracy
    reference = None
    if accuracy is not None and accuracy.float.measure.name == measure.name:
        reference = Reference(y=accuracy.float.value, label="float, test images")
    pictures = []
    for name, short, cost in AXES:
        marks = [*_policies(inputs, found, cost, measure), *_files(inputs, short, measure)]
        if any(mark.kind == "front" for mark in marks):
            label = f"{measure.title} by preview against {short}: {len(found.points)} policies of the front."
            pictures.append(
                scatter(marks, x_name=name, y_name=f"{measure.name}, {measure.unit}", label=label, reference=reference)
            )
    return pictures


def _policies(inputs: ReportInputs, found: WhatIf, cost: Costs, measure: Measure) -> list[Mark]:
    own = inputs.policy.pairs()
    marks = []
    for kind, points in (("front", found.points), ("uniform", found.uniform), ("candidate", found.candidates)):
        for place, point in enumerate(points):
            seen, x = point.preview, cost(point)
            if seen is None or not x or (kind == "candidate" and any(point.bits == one.bits for one in found.uniform)):
                continue
            marks.append(
                Mark(
                    kind=kind,  # type: ignore[arg-type]
                    x=x,
                    y=seen.value,
                    low=seen.low if kind != "candidate" else seen.value,
                    high=seen.high if kind != "candidate" else seen.value,
                    hover=f"{point.name}: {measure.said(seen.value)} by preview "
                    f"({seen.low:.2f} to {seen.high:.2f}), {giga(point.bitops)} BitOps",
                    label=point.name if kind == "uniform" else "",
                    at=place if kind == "front" else None,
                )
            )
    for point in (*found.points, *found.uniform, *found.candidates):
        seen, x = point.preview, cost(point)
        if point.pairs() == own and seen is not None and x:
            hover = f"this policy: {measure.said(seen.value)} by preview, {giga(point.bitops)} BitOps"
            marks.append(Mark(kind="own", x=x, y=seen.value, low=seen.value, high=seen.value, hover=hover))
            break
    return marks


def _files(inputs: ReportInputs, cost: str, measure: Measure) -> list[Mark]:
    """Files that were built, with what they reach on test images; float is a line of its own."""
    weights = sum(layer.num_weights for layer in inputs.placement.layers)
    sizes = {
        "int8": 8 * weights,
        "fp8": FP8_BITS * weights,
        "float": FLOAT_BITS * weights,
        "mixed": sum(layer.num_weights * bits_of(inputs.pair(layer.name)[0]) for layer in inputs.placement.layers),
    }
    if inputs.verdict.accuracy is None or inputs.verdict.accuracy.float.measure.name != measure.name:
        return []
    marks = []
    for one in inputs.verdict.candidates:
        x = {"BitOps": one.bitops_nominal / 1e9, "size": sizes.get(one.name, 0) / 2**13}.get(cost, 0.0)
        if x and one.name not in ("float", "uniform"):
            hover = f"{one.file}: {measure.said(one.accuracy)} on test images"
            marks.append(
                Mark(
                    kind="file",
                    x=x,
                    y=one.accuracy,
                    low=one.accuracy_low,
                    high=one.accuracy_high,
                    hover=hover,
                    label=f"{one.name} file",
                )
            )
    return marks


def _together(found: WhatIf) -> str:
    """What so many images can tell of neighbours, in a sentence; "" where there are none."""
    seen = [point.preview for point in found.points if point.preview is not None]
    if len(seen) < 2:
        return ""
    alike = sum(one.low <= two.high and two.low <= one.high for one, two in pairwise(seen))
    if alike == len(seen) - 1:
        return "The intervals of all neighbours overlap: so many images do not tell one step from the next."
    return f"Of {len(seen) - 1} steps between neighbours {alike} are smaller than the images can tell."
