"""What a cost table says of a policy: what its engine is expected to move, and whether one was built. No onnx here."""

from collections.abc import Mapping

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.cost_table import Check, CostTable, Moved
from limpq_deploy.export.timing.table import narrowest


def predicted(table: CostTable, policy: Mapping[str, BitPair]) -> Moved:
    """What an engine of a policy of the searched layers moves, by the table. Raises ValueError as `priced_pairs`."""
    priced = _priced(table)
    at = priced_pairs(table, policy)
    alone = [priced[layer][at[unit]] for layer, unit in table.units.items()]
    beside = [one.moved for one in table.neighbours if (at[one.first], at[one.second]) == (one.before, one.after)]
    together = [
        one.moved
        for group in table.groups
        for chosen in [tuple(at[unit] for unit in group.units)]
        for one in group.prices
        if one.pairs == chosen
    ]
    return sum([*alone, *beside, *together], Moved())


def priced_pairs(table: CostTable, policy: Mapping[str, BitPair]) -> dict[str, BitPair]:
    """The pair at which each unit runs. Raises ValueError for bits that the table does not price."""
    priced, at = _priced(table), dict[str, BitPair]()
    for unit in dict.fromkeys(table.units.values()):
        asked = policy.get(unit)
        found = next(iter(priced[unit])) if asked is None else narrowest(priced[unit], asked)
        if found is None:
            raise ValueError(f"layer {unit!r} has bits {asked}, which the table does not price")
        at[unit] = found
    return at


def built_of(table: CostTable, policy: Mapping[str, BitPair]) -> Check | None:
    """The engine of this policy, where the table knows one. Raises ValueError as `priced_pairs`."""
    at = priced_pairs(table, policy)
    for one in (*table.near, *table.checks):
        if priced_pairs(table, one.pairs) == at:
            return one
    return None


def _priced(table: CostTable) -> dict[str, dict[BitPair, Moved]]:
    found: dict[str, dict[BitPair, Moved]] = {}
    for part in table.parts:
        found.setdefault(part.layer, {})[part.weight_bits, part.act_bits] = part.moved
    return found
