"""Tables of prices: what they hold, and files without groups."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.timing.cost_table import CostTable, GroupCost, GroupPrice, Moved
from limpq_deploy.export.timing.predictions import predicted

from ...cost_tables import cost_table

INTEGER, HALF = (8, 8), (16, 16)
PLAIN = cost_table(
    dict.fromkeys("abc", 1), {pair: dict.fromkeys("abc", 10.0 * pair[0]) for pair in (INTEGER, HALF)}, batch=2
)
ODD = GroupPrice(pairs=(INTEGER, HALF, INTEGER), moved=Moved(activations=7.0, kernels=-0.5))


def grouped(*units: str, prices: tuple[GroupPrice, ...] = (ODD,)) -> CostTable:
    return replace(PLAIN, groups=(GroupCost(units=units, prices=prices),))


def test_a_group_counts_where_all_its_units_have_its_pairs_and_survives_its_file(tmp_path: Path) -> None:
    table = grouped("a", "b", "c")
    write_record(table, tmp_path / "table.json")
    assert load_record(CostTable, tmp_path / "table.json") == table
    policy = {"a": INTEGER, "b": HALF, "c": INTEGER}
    assert predicted(table, policy) == predicted(PLAIN, policy) + ODD.moved
    assert predicted(table, {**policy, "c": HALF}) == predicted(PLAIN, {**policy, "c": HALF})
    assert predicted(table, {**policy, "a": (4, 4)}) == predicted(table, policy)  # which runs at 8 bits


def test_a_file_without_groups_is_read_as_before(tmp_path: Path) -> None:
    write_record(PLAIN, tmp_path / "table.json")
    old = json.loads((tmp_path / "table.json").read_text())
    old.pop("groups", None)
    (tmp_path / "table.json").write_text(json.dumps(old))
    assert load_record(CostTable, tmp_path / "table.json") == PLAIN


@pytest.mark.parametrize(
    ("units", "prices", "sentence"),
    [
        (("a", "b", "e"), (ODD,), "'a', 'b', 'e' is none of different units"),
        (("a", "b", "a"), (ODD,), "is none of different units"),
        ((), (), "is none of different units"),
        (("a", "b"), (ODD,), "a price for another number of units"),
        (("a", "b", "c"), (ODD, replace(ODD, moved=Moved())), "is priced twice"),
        (("a", "b", "c"), (replace(ODD, moved=Moved(weights=inf)),), "no finite number of bytes"),
    ],
)
def test_a_group_that_means_nothing_is_refused(
    units: tuple[str, ...], prices: tuple[GroupPrice, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        grouped(*units, prices=prices)
