"""Budgets as users give them, and the uniform policy within the same ones."""

import re
from collections.abc import Sequence
from fractions import Fraction
from math import floor
from pathlib import Path

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.policy.act_costs import act_bits_budget, act_memory_budgets, weight_bits_budget
from limpq_deploy.policy.admitted import admitted_pairs
from limpq_deploy.policy.costs import BitOps, Budget, Number, WeightSize, positive, total_cost, uniform_pairs
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.latency_cost import latency_budget


def parse_like(text: str) -> tuple[int, int]:
    """``"w4a4"`` -> (4, 4). Raises SettingError."""
    match = re.fullmatch(r"w(\d{1,2})a(\d{1,2})", text.strip().lower())
    if match is None or not all(1 <= int(bits) <= 32 for bits in match.groups()):
        raise SettingError(f"--like {text!r} is not understood; expected wNaM with 1 to 32 bits each, such as w4a4")
    return int(match[1]), int(match[2])


def like_budget(indicators: Indicators, weight_bits: int, act_bits: int) -> Budget:
    """BitOps of a uniform policy over the searched layers; its bit-widths need not be candidates."""
    cost = BitOps(pinned=False)
    limit = sum(cost.of_layer(layer, weight_bits, act_bits) for layer in indicators.layers)
    return Budget(
        cost=cost,
        limit=limit,
        option=f"--like w{weight_bits}a{act_bits}",
        figure_unit="G BitOps over the searched layers",
        multiplier=Fraction(1, 10**9),
    )


def gbitops_budget(gbitops: Number) -> Budget:
    """BitOps of all layers, pinned included; 1 G = 1e9."""
    limit = floor(positive("--max-gbitops", gbitops) * 10**9)
    return Budget(
        cost=BitOps(pinned=True),
        limit=limit,
        option=f"--max-gbitops {gbitops}",
        figure_unit="G BitOps",
        multiplier=Fraction(1, 10**9),
    )


def compression_budget(indicators: Indicators, ratio: Number) -> Budget:
    """32-bit size of all weights / quantized size, pinned included, is at least ``ratio``."""
    searched = sum(layer.num_weights for layer in indicators.layers)
    float_bits = 32 * (searched + sum(layer.num_weights for layer in indicators.pinned))
    return Budget(
        cost=WeightSize(),
        limit=floor(float_bits / positive("--compression-ratio", ratio)),
        option=f"--compression-ratio {ratio}",
        figure_unit="times smaller",
        multiplier=Fraction(float_bits),
        inverse=True,
    )


def mib_budget(mib: Number) -> Budget:
    """Size of all weights, pinned included; 1 MiB = 2^20 bytes."""
    return Budget(
        cost=WeightSize(),
        limit=floor(positive("--max-mib", mib) * 2**23),
        option=f"--max-mib {mib}",
        figure_unit="MiB",
        multiplier=Fraction(1, 2**23),
    )


def budgets_from_options(
    indicators: Indicators,
    *,
    like: str | None = None,
    max_gbitops: Number | None = None,
    compression_ratio: Number | None = None,
    max_mib: Number | None = None,
    max_avg_weight_bits: Number | None = None,
    max_avg_act_bits: Number | None = None,
    max_act_mib: Number | None = None,
    latency_table: Path | None = None,
    max_latency_ms: Number | None = None,
) -> tuple[Budget, ...]:
    """The command line's budgets; reads the latency table. Raises SettingError for a wrong value, for two of one kind,
    and for none at all, RecordError and ModelError where the table or the indicators lack what a budget needs."""
    if like is not None and max_gbitops is not None:
        raise SettingError("--like and --max-gbitops both limit BitOps; give one of them")
    if compression_ratio is not None and max_mib is not None:
        raise SettingError("--compression-ratio and --max-mib both limit the size; give one of them")
    if max_latency_ms is not None and latency_table is None:
        raise SettingError("--max-latency-ms needs the times of this model's layers; give --latency-table FILE.json")
    if latency_table is not None and max_latency_ms is None:
        raise SettingError("--latency-table limits nothing by itself; give --max-latency-ms too")
    budgets: list[Budget] = []
    if like is not None:
        budgets.append(like_budget(indicators, *parse_like(like)))
    if max_gbitops is not None:
        budgets.append(gbitops_budget(max_gbitops))
    if compression_ratio is not None:
        budgets.append(compression_budget(indicators, compression_ratio))
    if max_mib is not None:
        budgets.append(mib_budget(max_mib))
    if max_avg_weight_bits is not None:
        budgets.append(weight_bits_budget(indicators, max_avg_weight_bits))
    if max_avg_act_bits is not None:
        budgets.append(act_bits_budget(indicators, max_avg_act_bits))
    if max_act_mib is not None:
        budgets.extend(act_memory_budgets(indicators, max_act_mib))
    if latency_table is not None and max_latency_ms is not None:
        budgets.append(latency_budget(indicators, load_record(LatencyTable, latency_table), max_latency_ms))
    check_budgets(budgets)
    return tuple(budgets)


def check_budgets(budgets: Sequence[Budget]) -> None:
    """Raises SettingError where nothing is limited: the widest candidates everywhere would be the trivial answer."""
    if not budgets:
        raise SettingError(
            "no budget was given, so the widest bits everywhere would win; "
            "give one, such as --like, --max-gbitops, --compression-ratio or --max-mib"
        )


def uniform_policy_within(
    indicators: Indicators, budgets: Sequence[Budget], like: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """The uniform (weight_bits, act_bits) to compare a mixed policy with at the same budgets and restrictions.

    ``like``, when both its widths are candidates (others were never trained), every layer may take it and every budget
    holds; else such a candidate pair with the most BitOps (ties: larger min(w, a), then larger w); None where there is
    none. Raises SettingError where layers that share bit-widths have no pair in common.
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
    return max(fitting, key=lambda pair: (pair[0] * pair[1], min(pair), pair[0]), default=None)
