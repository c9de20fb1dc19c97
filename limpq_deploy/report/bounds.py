"""What bytes and operations leave to engines on named GPUs: bounds by published peaks, never latencies."""

from dataclasses import dataclass

from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.gpu_peaks import GPUS
from limpq_deploy.export.timing.roofline import expectations, floors
from limpq_deploy.report.inputs import ReportInputs

FORMATS = ("fp16", "int8", "fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRow:
    """One GPU: the bound in ms by format (`FORMATS`), "" where there is none; ``whys``: what may pay there, and why."""

    gpu: str
    ms: tuple[str, ...]
    whys: tuple[str, ...]
    source: str

    @property
    def words(self) -> str:
        """In sentences."""
        return ". ".join(why[0].upper() + why[1:] for why in self.whys)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundsSection:
    """``measured``: the deployed engine's p50 where there is one at the table's batch, in words."""

    batch: int
    compiler: str
    formats: tuple[str, ...]
    rows: tuple[BoundRow, ...]
    measured: str


def bounds_section(inputs: ReportInputs) -> BoundsSection | None:
    """None without a table of what a compiler's kernels move."""
    prices = inputs.cost_table
    if prices is None:
        return None
    return BoundsSection(
        batch=prices.batch,
        compiler=prices.compiler,
        formats=FORMATS,
        rows=bound_rows(prices),
        measured=_measured(inputs, prices.batch),
    )


def bound_rows(prices: CostTable) -> tuple[BoundRow, ...]:
    """Every GPU whose peaks are known."""
    rows = []
    for gpu in GPUS.values():
        known = floors(prices, gpu)
        shown = ("" if (one := known.get(name)) is None or one.missing else f"{one.floor_ms:.4f}" for name in FORMATS)
        whys = tuple(one.why for one in expectations(prices, gpu))
        rows.append(BoundRow(gpu=gpu.name, ms=tuple(shown), whys=whys, source=gpu.source))
    return tuple(rows)


def _measured(inputs: ReportInputs, batch: int) -> str:
    if inputs.latency is None:
        return "Nothing was timed here."
    found = [one for one in inputs.latency.series if (one.name, one.batch, one.streams) == ("mixed", batch, 1)]
    if not found:
        return f"Nothing was timed at batch {batch} here."
    return f"Measured on this build's own device at batch {batch}: p50 {found[0].stats.p50_ms:.4f} ms."
