"""A policy as a table with one line per layer, CSV or JSON, for spreadsheets and other tools, and back."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, RecordError
from limpq_deploy.calibration.files import write_text
from limpq_deploy.calibration.numbers.formats import FP8, FP8_BITS, bits_of, pair_name
from limpq_deploy.calibration.records import load_record, to_json
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.costs import Budget, Pairs, total_cost
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import OutlierMode, treat_outliers
from limpq_deploy.policy.policy import BudgetUse, LayerBits, Policy
from limpq_deploy.policy.widths import knowing

FORMAT = "format"
"""Column that only a table with layers in FP8 has."""

COLUMNS = ("name", "weight_bits", "act_bits", "macs", "num_weights", "bitops_share", "pinned")
REQUIRED = COLUMNS[:3]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One layer. ``macs`` for one image, ``num_weights`` without bias and ``bitops_share`` (of the BitOps of all
    layers, pinned ones included; 1 is everything) are None where no indicators were at hand. ``format``: "fp8" where
    its 8 bits are those of FP8 and no integers."""

    name: str
    weight_bits: int
    act_bits: int
    macs: int | None = None
    num_weights: int | None = None
    bitops_share: float | None = None
    pinned: bool = False
    format: Literal["fp8"] | None = None

    def __post_init__(self) -> None:
        if self.format is not None:
            LayerBits(weight=self.weight_bits, act=self.act_bits, format=self.format)  # which says what is wrong

    @classmethod
    def of(cls, name: str, pair: BitPair, **figures: Any) -> "TableRow":
        """A row from a pair of widths, as `formats` has them."""
        bits = LayerBits.of(pair)
        return cls(name=name, weight_bits=bits.weight, act_bits=bits.act, format=bits.format, **figures)

    @property
    def pair(self) -> BitPair:
        """(weight, activation) widths, as `formats` has them."""
        return (FP8, FP8) if self.format is not None else (self.weight_bits, self.act_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """Searched layers in the policy's order, then the pinned ones."""

    layers: tuple[TableRow, ...]
    model: str | None = None
    format: Literal["limpq.layer-table/1"] = field(default="limpq.layer-table/1")


def layer_table(policy: Policy, indicators: Indicators | None = None) -> LayerTable:
    """The table of a policy; without ``indicators``, bits alone. Raises ModelError where the two do not fit."""
    pairs = policy.pairs()
    if indicators is None:
        bare = (TableRow.of(name, pair) for name, pair in pairs.items())
        return LayerTable(layers=tuple(bare), model=policy.model)
    sizes = {layer.name: layer for layer in indicators.layers}
    missing = [name for name in pairs if name not in sizes]
    if missing:
        raise ModelError(
            f"the policy's layer {missing[0]!r} is not among the {len(sizes)} searched layers of {indicators.model!r}; "
            "give the indicators that the policy was searched with"
        )
    found: list[tuple[LayerIndicators | PinnedLayer, tuple[int, int], bool]]
    found = [(sizes[name], pair, False) for name, pair in pairs.items()]
    found += [(layer, (layer.weight_bits, layer.act_bits), True) for layer in indicators.pinned]
    total = sum(layer.macs * bits_of(w) * bits_of(a) for layer, (w, a), _ in found)
    return LayerTable(
        layers=tuple(
            TableRow.of(
                layer.name,
                pair,
                macs=layer.macs,
                num_weights=layer.num_weights,
                bitops_share=layer.macs * bits_of(pair[0]) * bits_of(pair[1]) / total if total else 0.0,
                pinned=pinned,
            )
            for layer, pair, pinned in found
        ),
        model=indicators.model,
    )


def policy_from_table(
    table: LayerTable,
    indicators: Indicators,
    *,
    alpha: float = 2.0,
    outliers: OutlierMode = "forbid",
    budgets: Sequence[Budget] = (),
    origin: str = "the table",
) -> Policy:
    """The policy of a table, checked against the indicators; objective and costs are computed anew.

    Pinned layers may be left out. Bits need not be candidates: where no importance was learned the objective takes an
    extrapolated one, and ``source`` says so (`widths.with_widths`). Raises ModelError where a searched layer is missing
    or unknown, where bits are forbidden, or differ between tied layers, and where MACs, weight counts or pinned bits
    are not those of the indicators; InfeasiblePolicy where a budget is exceeded.
    """
    pinned = {layer.name: layer for layer in indicators.pinned}
    sizes = {layer.name: layer for layer in indicators.layers}
    pairs: dict[str, tuple[int, int]] = {}
    for row in table.layers:
        if row.format is None and FP8 in row.pair:
            raise ModelError(
                f"{origin} gives {row.name!r} {FP8} bits, which nothing here has; FP8 is 8 and 8 bits, and fp8 under "
                f"{FORMAT}"
            )
        if row.name in pinned:
            at = pinned[row.name]
            if row.pair != (at.weight_bits, at.act_bits):
                raise ModelError(
                    f"{origin} gives {row.name!r} {pair_name(row.pair)}; the indicators of "
                    f"{indicators.model!r} pin it to {pair_name((at.weight_bits, at.act_bits))}, leave it so"
                )
            _check_size(row, at.macs, at.num_weights, origin)
            continue
        if row.name in sizes:
            _check_size(row, sizes[row.name].macs, sizes[row.name].num_weights, origin)
        pairs[row.name] = row.pair
    indicators = knowing(indicators, pairs)
    importance = treat_outliers(indicators, outliers)
    objective = objective_of(indicators, importance, pairs, alpha, origin)
    return Policy(
        bits={layer.name: LayerBits.of(pairs[layer.name]) for layer in sizes.values()},
        objective=objective,
        alpha=alpha,
        costs=tuple(_use(budget, indicators, pairs, origin) for budget in budgets),
        outliers=importance.outliers,
        model=indicators.model,
        source=indicators.source,
    )


def write_layer_table(table: LayerTable, path: Path) -> None:
    """Write a table whole, by the file's ending: ``.csv``, else JSON."""
    write_text(path, table_to_csv(table) if _is_csv(path) else to_json(table))


def load_layer_table(path: Path) -> LayerTable:
    """Read a table by the file's ending: ``.csv``, else JSON. Raises RecordError."""
    if not _is_csv(path):
        table = load_record(LayerTable, path)
        _check_rows(table.layers, str(path))
        return table
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; expected a table with one line per layer") from error
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    return table_from_csv(text, str(path))


def table_to_csv(table: LayerTable) -> str:
    """Header, then one line per layer; an unknown figure is an empty cell. Names hold no control characters. The column
    `FORMAT` is there where a layer is in FP8."""
    formats = any(row.format is not None for row in table.layers)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*COLUMNS, FORMAT) if formats else COLUMNS)
    for row in table.layers:
        cells = (row.name, row.weight_bits, row.act_bits, row.macs, row.num_weights, row.bitops_share)
        told = ["" if cell is None else cell for cell in cells]
        writer.writerow([*told, "yes" if row.pinned else "no", *([row.format or ""] if formats else [])])
    return out.getvalue()


def table_from_csv(text: str, origin: str) -> LayerTable:
    """Read what `table_to_csv` writes; columns in any order, others ignored. Only name and bits must be there. Raises
    RecordError with the line's number."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            found = ",".join(reader.fieldnames or ())[:80]
            raise RecordError(
                f"{origin} has no column {missing[0]!r} (found {found!r}); expected a header with {', '.join(REQUIRED)}"
            )
        rows = tuple(_row(cells, f"{origin}, line {reader.line_num}") for cells in reader)
    except csv.Error as error:
        raise RecordError(f"{origin}: {error} after line {reader.line_num}; expected closed quotes") from error
    _check_rows(rows, origin)
    return LayerTable(layers=rows)


def _row(cells: dict[str, str | None], where: str) -> TableRow:
    if None in cells.values() or None in cells:
        raise RecordError(f"{where} has another number of cells than the header; quote names that hold commas")
    cell = {name: value or "" for name, value in cells.items()}
    pinned = cell.get("pinned", "").strip().lower()
    if pinned not in ("", "no", "yes", "false", "true"):
        raise RecordError(f"{where}: pinned is {pinned!r}; expected yes or no")
    weight_bits, act_bits = (_count(cell, name, where) for name in ("weight_bits", "act_bits"))
    if weight_bits is None or act_bits is None:
        raise RecordError(f"{where}: layer {cell['name']!r} has no bits; expected weight_bits and act_bits")
    found = cell.get(FORMAT, "").strip().lower()
    if found not in ("", "fp8") or (found and (weight_bits, act_bits) != (FP8_BITS, FP8_BITS)):
        raise RecordError(
            f"{where}: format is {found[:40]!r} beside {weight_bits} and {act_bits} bits; expected nothing, or fp8 "
            "beside 8 and 8"
        )
    return TableRow(
        name=cell["name"],
        weight_bits=weight_bits,
        act_bits=act_bits,
        macs=_count(cell, "macs", where),
        num_weights=_count(cell, "num_weights", where),
        bitops_share=_share(cell.get("bitops_share", "").strip(), where),
        pinned=pinned in ("yes", "true"),
        format="fp8" if found else None,
    )


def _count(cell: dict[str, str], name: str, where: str) -> int | None:
    text = cell.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 30):
        raise RecordError(f"{where}: {name} is {text[:40]!r}; expected a whole number")
    return int(text)


def _share(text: str, where: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        value = -1.0
    if value is not None and not 0 <= value <= 1:
        raise RecordError(f"{where}: bitops_share is {text[:40]!r}; expected a number from 0 to 1")
    return value


def _check_rows(rows: Sequence[TableRow], origin: str) -> None:
    if not rows:
        raise RecordError(f"{origin} lists no layer; expected one line per layer")
    seen: set[str] = set()
    for row in rows:
        if row.name in seen:
            raise RecordError(f"{origin} lists layer {row.name!r} twice; expected every layer once")
        seen.add(row.name)


def _check_size(row: TableRow, macs: int, num_weights: int, origin: str) -> None:
    for name, found, expected in (("MACs", row.macs, macs), ("weights", row.num_weights, num_weights)):
        if found is not None and found != expected:
            raise ModelError(
                f"{origin} counts {found:,} {name} for layer {row.name!r}, the indicators {expected:,}; "
                "they are of different models or image sizes"
            )


def _use(budget: Budget, indicators: Indicators, pairs: Pairs, origin: str) -> BudgetUse:
    used = total_cost(budget.cost, indicators, pairs)
    if used > budget.limit:
        raise InfeasiblePolicy(
            f"{origin} takes {budget.figure(used)}; {budget.option} allows {budget.figure(budget.limit)}, "
            "relax the budget or take narrower bits"
        )
    return BudgetUse(name=budget.cost.name, used=used, limit=budget.limit, unit=budget.cost.unit)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"
