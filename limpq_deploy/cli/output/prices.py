"""What a compiler's kernels move, as text."""

from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.cli.output.predictions import error_lines
from limpq_deploy.cli.output.tables import table
from limpq_deploy.export.timing.cost_table import CostTable, Moved
from limpq_deploy.report.bounds import FORMATS, bound_rows

MIB = 2**20


def price_table(priced: CostTable) -> str:
    """A row for each layer: MiB moved at each precision, activations and weights, and kernels; then the checks."""
    parts = (*priced.parts, *priced.bounds)
    known = {(one.weight_bits, one.act_bits) for one in parts}
    pairs = sorted(known, key=lambda pair: (pair[0] * pair[1], pair))
    found: dict[str, dict[tuple[int, int], Moved]] = {}
    for part in parts:
        found.setdefault(part.layer, {})[part.weight_bits, part.act_bits] = part.moved
    rows = [[layer, *(_shown(prices.get(pair)) for pair in pairs)] for layer, prices in found.items()]
    lines = [
        table(["layer: MiB (kernels) at", *map(pair_name, pairs)], rows),
        f"{priced.compiler} for {', '.join(priced.capabilities)}, batch {priced.batch}; planned, not run",
    ]
    lines += error_lines(priced)
    alone = sorted({pair_name((one.weight_bits, one.act_bits)) for one in priced.bounds})
    if alone:
        lines.append(f"{', '.join(alone)}: for the bounds alone, as no policy of this build takes it")
    return "\n".join([*lines, "", *floor_lines(priced)])


def floor_lines(priced: CostTable) -> list[str]:
    """The bound of each GPU at each format, and what may pay there."""
    rows = bound_rows(priced)
    head = table(["bound in ms, no latency", *FORMATS], [[row.gpu, *row.ms] for row in rows])
    words = [why for row in rows for why in row.whys]
    return [head, *words, "Published peaks; what the L2 cache holds back between kernels does not pass through memory."]


def _shown(moved: Moved | None) -> str:
    return "" if moved is None else f"{moved.bytes / MIB:.3f} ({moved.kernels:.0f})"
