"""How long a search within bytes takes with a compiler's price table: see `rtx_prices`."""

import os
import random
from collections.abc import Sequence

from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.predictions import predicted
from limpq_deploy.policy.budgets import budgets_of
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.search import search_policy

SEARCHES = 8
"""Limits that are searched."""


def longest_search(table: CostTable, placement: Placement, pairs: Sequence[BitPair]) -> float:
    """Seconds of CPU time, solvers' processes with it, of the longest of some searches within bytes, between the fewest
    and what the best policy moves. Narrow formats are worth more here, which move more: a search gives some up."""
    generator, bits = random.Random(0), tuple(pair[0] for pair in pairs)
    by_input: dict[str, tuple[float, ...]] = {}

    def worth() -> tuple[float, ...]:
        return tuple(sorted(generator.random() for _ in bits))

    indicators = Indicators(
        model=placement.model,
        bits=bits,
        layers=tuple(
            LayerIndicators(
                name=one.name, macs=one.macs, num_weights=one.num_weights, weight=worth(),
                act=by_input.setdefault(one.input, worth()),
                pairs=tuple(pairs), act_group=placement.act_group(one),
            )
            for one in placement.searched
        ),
        pinned=tuple(
            PinnedLayer(name=one.name, macs=one.macs, num_weights=one.num_weights, weight_bits=8, act_bits=8)
            for one in placement.pinned
        ),
    )  # fmt: skip

    def search(most: float) -> tuple[int, float]:
        started = _cpu_s()
        budgets = budgets_of("max_moved_mib", indicators, str(most / 2**20), table)
        found = search_policy(indicators, budgets, alpha=1.0, outliers="keep")
        assert found.solver is not None
        assert found.solver.status == "optimal"
        return found.costs[0].used, _cpu_s() - started

    least, most = (predicted(table, {one.name: pairs[at] for one in placement.searched}).bytes for at in (-1, 0))
    dearest, _ = search(2 * most)
    return max(search(least + (dearest - least) * (at + 0.5) / SEARCHES)[1] for at in range(SEARCHES))


def _cpu_s() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])
