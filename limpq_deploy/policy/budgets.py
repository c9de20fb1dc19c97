"""Budgets as users give them, one field of `BudgetSettings` each, and the uniform policy within the same ones.

All that the rest knows of a budget comes from its field: the option and its help, the key in TOML files, the setting of
a build and of its stage that searches, and the line in docs/formats.md.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, get_args

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8, bits_of, whole, width_name
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.policy.act_costs import act_bits_budget, act_memory_budgets, weight_bits_budget
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.costs import (
    MIB,
    Asked,
    BitOps,
    Budget,
    G,
    Number,
    WeightSize,
    float_size,
    total_cost,
    uniform_pairs,
)
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.latency_cost import NS, latency_cost
from limpq_deploy.policy.table_cost import SCALE, kernel_cost, moved_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """A budget: ``metavar`` and ``help`` of its option; ``counts``: the name of its cost in policies and verdicts, that
    may go on with " at PLACE"; ``make``: what it limits, mostly one `Asked.at_most`.

    ``kind``: budgets of one kind exclude each other. ``source``: the setting that names the file with its costs, which
    ``make`` finds in `Asked.source`. ``measured``: a build measures that cost, so that it needs no such file there.
    """

    metavar: str
    help: str
    counts: str
    make: Callable[[Asked], Budget | Sequence[Budget]]
    kind: str | None = None
    source: str | None = None
    measured: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFile:
    """A file that budgets take their costs from. ``holds``: what those need; ``load``: reads it."""

    metavar: str
    help: str
    holds: str
    load: Callable[[Path], Any]


def _setting(row: BudgetRow | CostFile) -> Any:
    """A field that is not given unless it is, and carries its row."""
    return field(default=None, metadata={"row": row})


def parse_like(text: str) -> tuple[int, int]:
    """``"w4a4"`` -> (4, 4). Raises SettingError."""
    match = re.fullmatch(r"w(\d{1,2})a(\d{1,2})", text.strip().lower())
    if match is None or not all(1 <= int(bits) <= 32 for bits in match.groups()):
        raise SettingError(f"--like {text!r} is not understood; expected wNaM with 1 to 32 bits each, such as w4a4")
    return int(match[1]), int(match[2])


def _like(asked: Asked) -> Budget:
    weight_bits, act_bits = parse_like(str(asked.value))
    cost = BitOps(pinned=False)
    limit = sum(cost.of_layer(layer, weight_bits, act_bits) for layer in asked.indicators.layers)
    return asked.budget(cost, limit, "G BitOps over the searched layers", Fraction(1, G))


BITOPS = "BitOps"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What limits a policy; None: not given. The type of a field is that of its option: floats are above 0."""

    like: str | None = _setting(
        BudgetRow(
            metavar="wNaM",
            help="BitOps of a uniform policy over the searched layers, e.g. w4a4.",
            counts="bitops_searched",
            make=_like,
            kind=BITOPS,
        )
    )
    max_gbitops: float | None = _setting(
        BudgetRow(
            metavar="G",
            help="BitOps of all layers; 1 G = 1e9.",
            counts="bitops",
            make=lambda asked: asked.at_most(BitOps(pinned=True), "G BitOps", G),
            kind=BITOPS,
        )
    )
    compression_ratio: float | None = _setting(
        BudgetRow(
            metavar="R",
            help="32-bit size of all weights / quantized size.",
            counts="size",
            make=lambda asked: asked.at_least(WeightSize(), "times smaller", float_size(asked.indicators)),
            kind="the size",
        )
    )
    max_mib: float | None = _setting(
        BudgetRow(
            metavar="M",
            help="Size of all weights in MiB (2^20 bytes).",
            counts="size",
            make=lambda asked: asked.at_most(WeightSize(), "MiB", MIB),
            kind="the size",
        )
    )
    max_avg_weight_bits: float | None = _setting(
        BudgetRow(
            metavar="B",
            help="Bits of a weight on average, searched layers.",
            counts="weight_bits_searched",
            make=weight_bits_budget,
        )
    )
    max_avg_act_bits: float | None = _setting(
        BudgetRow(
            metavar="B",
            help="Bits of an activation on average, searched layers.",
            counts="act_bits_searched",
            make=act_bits_budget,
        )
    )
    max_act_mib: float | None = _setting(
        BudgetRow(
            metavar="M",
            help="Activations in memory at any moment, one image, in MiB.",
            counts="act_memory",
            make=act_memory_budgets,
        )
    )
    latency_table: Path | None = _setting(  # noqa: RUF009 - a Field, as the others
        CostFile(
            metavar="FILE.json",
            help="Measured times of layers, for --max-latency-ms.",
            holds="the times of this model's layers",
            load=lambda path: load_record(LatencyTable, path),
        )
    )
    max_latency_ms: float | None = _setting(
        BudgetRow(
            metavar="T",
            help="A budget with --latency-table. In a build a check too (p50 at the smallest batch, default threads); "
            "alone, or in a native space, the build times this machine and searches for it.",
            counts="latency",
            make=lambda asked: asked.at_most(latency_cost(asked.indicators, asked.source), "ms", NS),
            source="latency_table",
            measured=True,
        )
    )
    cost_table: Path | None = _setting(  # noqa: RUF009 - a Field, as the others
        CostFile(
            metavar="FILE.json",
            help="What a compiler's kernels move, by layer, for --max-moved-mib and --max-kernels.",
            holds="what this model's layers move",
            load=lambda path: load_record(CostTable, path),
        )
    )
    max_moved_mib: float | None = _setting(
        BudgetRow(
            metavar="M",
            help="What the engine's kernels read and write for a call of the table's batch, weights too, in MiB.",
            counts="moved",
            make=lambda asked: asked.at_most(moved_cost(asked.indicators, asked.source), "MiB moved", 2**20),
            source="cost_table",
        )
    )
    max_kernels: float | None = _setting(
        BudgetRow(
            metavar="N",
            help="Kernels of the engine.",
            counts="kernels",
            make=lambda asked: asked.at_most(kernel_cost(asked.indicators, asked.source), "kernels", SCALE),
            source="cost_table",
        )
    )


TYPES: dict[str, type] = {one.name: get_args(one.type)[0] for one in fields(BudgetSettings)}
ROWS: dict[str, BudgetRow | CostFile] = {one.name: one.metadata["row"] for one in fields(BudgetSettings)}
BUDGETS = {name: row for name, row in ROWS.items() if isinstance(row, BudgetRow)}
COST_FILES = {name: row for name, row in ROWS.items() if isinstance(row, CostFile)}

MINIMISED = {
    name.removeprefix("max_").replace("_", "-"): name
    for name in ("max_gbitops", "max_mib", "max_latency_ms", "max_moved_mib", "max_kernels")
}
"""What can be minimised, by the budget that counts it."""

LIMITING = tuple(name for name, row in ROWS.items() if isinstance(row, CostFile) or not row.measured)
"""Settings of a build any of which limits its policy; what it measures itself does so where a file has the costs."""


def option_of(name: str) -> str:
    """The option that gives a setting."""
    return f"--{name.replace('_', '-')}"


def of_kind(kind: str) -> tuple[str, ...]:
    """Names of the budgets that limit one thing."""
    return tuple(name for name, row in BUDGETS.items() if row.kind == kind)


def budgets_from_options(indicators: Indicators, **options: Any) -> tuple[Budget, ...]:
    """The budgets of a command line, by names of `BudgetSettings`; reads the files that their costs come from.

    Raises SettingError for a wrong value, for two of one kind, and for none at all; RecordError and ModelError where a
    file or the indicators lack what a budget needs.
    """
    settings = BudgetSettings(**options)
    given = {name: value for name in ROWS if (value := getattr(settings, name)) is not None}
    for kind in filter(None, (row.kind for row in BUDGETS.values())):
        if len(same := [option_of(name) for name in of_kind(kind) if name in given]) > 1:
            raise SettingError(f"{' and '.join(same)} both limit {kind}; give one of them")
    for name, row in BUDGETS.items():
        if name in given and row.source is not None and row.source not in given:
            file = COST_FILES[row.source]
            raise SettingError(f"{option_of(name)} needs {file.holds}; give {option_of(row.source)} {file.metavar}")
    for source in COST_FILES:
        users = [name for name, row in BUDGETS.items() if row.source == source]
        if source in given and not any(name in given for name in users):
            told = " or ".join(map(option_of, users))
            raise SettingError(f"{option_of(source)} limits nothing by itself; give {told} too")
    read = {name: file.load(given[name]) for name, file in COST_FILES.items() if name in given}
    budgets: list[Budget] = []
    for name, row in BUDGETS.items():
        if name in given:
            budgets += budgets_of(name, indicators, given[name], read.get(row.source or ""))
    check_budgets(budgets)
    return tuple(budgets)


def require_within_reach(indicators: Indicators, like: str) -> None:
    """Raise SettingError for bits that no policy here has, and whose BitOps none reaches: nothing would be limited."""
    asked, bits, layers = parse_like(like), indicators.bits, indicators.layers
    cost, admitted = BitOps(pinned=False), admitted_pairs(indicators)
    pairs = [admitted.get(layer.name) or frozenset(product(bits, bits)) for layer in layers]
    most = sum(max(cost.of_layer(layer, *pair) for pair in some) for layer, some in zip(layers, pairs, strict=True))
    widths = {width for some in set(pairs) for pair in some for width in pair}
    in_fp8 = FP8 in asked and not (whole(asked) and FP8 in widths)
    if in_fp8 or (most < like_budget(indicators, *asked).limit and not set(asked) <= widths):
        candidates, widest = ", ".join(map(width_name, sorted(widths))), max(widths - {FP8}, default=8)
        why = "9 stands for FP8, which is no candidate here" if in_fp8 else "that would limit nothing"
        raise SettingError(
            f"--like {like} asks for the BitOps of bits that no layer can have: {why}; the "
            f"candidates are {candidates}; ask for w{widest}a{widest} or less, or for more candidates (--bits)"
        )


def budgets_of(name: str, indicators: Indicators, value: Number, source: Any = None) -> tuple[Budget, ...]:
    """What one budget limits; ``source``: the contents of the file that it takes its costs from."""
    row = BUDGETS[name]
    made = row.make(Asked(option=option_of(name), value=value, indicators=indicators, source=source))
    budgets = (made,) if isinstance(made, Budget) else tuple(made)
    assert {budget.cost.name.partition(" at ")[0] for budget in budgets} <= {row.counts}, f"{name} counts {row.counts}"
    return budgets


def like_budget(indicators: Indicators, weight_bits: int, act_bits: int) -> Budget:
    """BitOps of a uniform policy over the searched layers; its bit-widths need not be candidates."""
    return budgets_of("like", indicators, f"w{weight_bits}a{act_bits}")[0]


def gbitops_budget(indicators: Indicators, gbitops: Number) -> Budget:
    """BitOps of all layers, pinned included; 1 G = 1e9."""
    return budgets_of("max_gbitops", indicators, gbitops)[0]


def compression_budget(indicators: Indicators, ratio: Number) -> Budget:
    """32-bit size of all weights / quantized size, pinned included, is at least ``ratio``."""
    return budgets_of("compression_ratio", indicators, ratio)[0]


def latency_budget(indicators: Indicators, table: LatencyTable, max_ms: Number) -> Budget:
    """The times of ``table`` add up to at most ``max_ms``. Raises what `latency_cost` raises."""
    return budgets_of("max_latency_ms", indicators, max_ms, table)[0]


def check_budgets(budgets: Sequence[Budget]) -> None:
    """Raises SettingError where nothing is limited: the widest candidates everywhere would be the trivial answer."""
    if not budgets:
        *first, last = map(option_of, list(BUDGETS)[:4])
        raise SettingError(
            "no budget was given, so the widest bits everywhere would win; "
            f"give one, such as {', '.join(first)} or {last}"
        )


def uniform_policy_within(
    indicators: Indicators, budgets: Sequence[Budget], like: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """The uniform (weight_bits, act_bits) to compare a mixed policy with at the same budgets and restrictions.

    ``like``, when both its widths are candidates (others were never trained), every layer may take it and every budget
    holds; else such a candidate pair with the most BitOps (ties: larger min(w, a), then larger w, then integers); None
    where there is none. Raises SettingError where layers that share bit-widths have no pair in common.
    """
    admitted = admitted_pairs(indicators).values()

    def fits(pair: tuple[int, int]) -> bool:
        if any(pair not in some for some in admitted):
            return False
        pairs = uniform_pairs(indicators, *pair)
        return all(total_cost(budget.cost, indicators, pairs) <= budget.limit for budget in budgets)

    bits = indicators.bits
    if like is not None and like[0] in bits and like[1] in bits and fits(like):
        return like
    fitting = [(w, a) for w in bits for a in bits if fits((w, a))]

    def rank(pair: tuple[int, int]) -> tuple[int, int, int, bool]:
        weight, act = map(bits_of, pair)
        return weight * act, min(weight, act), weight, FP8 not in pair

    return max(fitting, key=rank, default=None)
