"""A cost as the objective, against every policy there is."""

from dataclasses import replace
from itertools import product

import pytest

from limpq_deploy.api.policies import search
from limpq_deploy.calibration.errors import InfeasiblePolicy, SettingError
from limpq_deploy.calibration.records import from_json, to_json, write_record
from limpq_deploy.export.timing.predictions import predicted
from limpq_deploy.policy.budgets import MINIMISED
from limpq_deploy.policy.costs import BitOps, WeightSize, total_cost
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.policy import Policy

from .test_table_cost import INDICATORS, NATIVE, TABLE, policies

BITS = (2, 4, 8)


def layer(name: str, macs: int, weight: tuple[float, ...], act: tuple[float, ...]) -> LayerIndicators:
    return LayerIndicators(name=name, macs=macs, num_weights=macs // 2, weight=weight, act=act)


SMALL = Indicators(
    model="small",
    bits=BITS,
    layers=(
        layer("a", 300, (9.0, 2.0, 1.0), (5.0, 2.5, 0.5)),
        layer("b", 100, (4.0, 3.0, 0.2), (7.0, 1.0, 0.6)),
        layer("c", 200, (0.3, 0.2, 0.1), (8.0, 6.0, 0.4)),
    ),
    pinned=(),
)
WITHOUT_OUTLIERS = {"alpha": 1.0, "outliers": "keep"}


def every() -> list[dict[str, tuple[int, int]]]:
    pairs = list(product(BITS, BITS))
    return [dict(zip("abc", some, strict=True)) for some in product(pairs, repeat=3)]


def importance(policy: dict[str, tuple[int, int]]) -> float:
    at = BITS.index
    return sum(one.weight[at(policy[one.name][0])] + one.act[at(policy[one.name][1])] for one in SMALL.layers)


@pytest.mark.parametrize("than", [(8, 8), (4, 4), (4, 8)])
@pytest.mark.parametrize(("what", "cost"), [("gbitops", BitOps(pinned=True)), ("mib", WeightSize())])
def test_the_least_cost_at_no_more_importance_is_found_and_then_the_least_importance(
    what: str, cost: BitOps | WeightSize, than: tuple[int, int]
) -> None:
    bound = importance(dict.fromkeys("abc", than))
    asked = {"minimise": what, "no_worse_than": f"w{than[0]}a{than[1]}", **WITHOUT_OUTLIERS}
    found = search(SMALL, **asked)  # type: ignore[arg-type]
    admitted = [one for one in every() if importance(one) <= bound + 1e-9]
    least = min(total_cost(cost, SMALL, one) for one in admitted)
    best = min(importance(one) for one in admitted if total_cost(cost, SMALL, one) == least)
    assert total_cost(cost, SMALL, found.pairs()) == least
    assert importance(found.pairs()) == pytest.approx(best)
    assert found.objective == pytest.approx(best)
    assert found.minimised is not None
    assert (found.minimised.least, found.minimised.proved) == (least, True)
    assert [use.name for use in found.costs] == [cost.name]
    assert from_json(Policy, to_json(found), "policy") == found


def test_the_bytes_of_a_compilers_kernels_are_minimised_with_what_neighbours_add(tmp_path) -> None:  # type: ignore[no-untyped-def]
    table = tmp_path / "costs.json"
    write_record(TABLE, table)
    for what, figure in (("moved-mib", lambda moved: moved.bytes), ("kernels", lambda moved: 1000 * moved.kernels)):
        found = search(INDICATORS, minimise=what, cost_table=table, **WITHOUT_OUTLIERS)  # type: ignore[arg-type]
        least = min(figure(predicted(TABLE, one)) for one in policies())
        assert found.minimised is not None
        assert found.minimised.least == figure(predicted(TABLE, found.pairs())) == least
    assert set(found.pairs().values()) <= set(NATIVE)


@pytest.mark.parametrize("large", [9.0, 1e6, 1e12])
def test_the_bound_is_as_exact_beside_importance_of_another_size(large: float) -> None:
    a = replace(SMALL.layers[0], weight=(large, 1 + 1e-7, 1.0))  # 4 bits are a little worse than 8
    small = replace(SMALL, layers=(a, *SMALL.layers[1:]))
    found = search(small, minimise="mib", no_worse_than="w8a8", **WITHOUT_OUTLIERS)  # type: ignore[arg-type]
    assert [bits.weight for bits in found.bits.values()] == [8, 8, 8]


def test_costs_beyond_64_bits_are_minimised_too() -> None:
    huge = replace(SMALL, layers=tuple(replace(one, macs=one.macs * 10**16 + 1) for one in SMALL.layers))
    found = search(huge, minimise="gbitops", **WITHOUT_OUTLIERS)  # type: ignore[arg-type]
    assert set(found.pairs().values()) == {(2, 2)}
    assert found.minimised is not None
    assert found.minimised.least == total_cost(BitOps(pinned=True), huge, found.pairs())


def test_other_budgets_hold_where_a_cost_is_minimised() -> None:
    free = search(SMALL, minimise="mib", no_worse_than="w4a4", **WITHOUT_OUTLIERS)  # type: ignore[arg-type]
    limit = total_cost(BitOps(pinned=True), SMALL, free.pairs()) - 1
    found = search(SMALL, minimise="mib", no_worse_than="w4a4", max_gbitops=limit / 1e9, **WITHOUT_OUTLIERS)  # type: ignore[arg-type]
    assert total_cost(BitOps(pinned=True), SMALL, found.pairs()) <= limit
    within = [
        total_cost(WeightSize(), SMALL, one)
        for one in every()
        if importance(one) <= importance(dict.fromkeys("abc", (4, 4))) + 1e-9
        and total_cost(BitOps(pinned=True), SMALL, one) <= limit
    ]
    assert found.minimised is not None
    assert found.minimised.least == min(within)
    with pytest.raises(InfeasiblePolicy, match=r"--max-gbitops .* and --no-worse-than w8a8"):
        search(SMALL, minimise="mib", no_worse_than="w8a8", max_gbitops=3e-6, **WITHOUT_OUTLIERS)  # type: ignore[arg-type]


def test_what_makes_no_sense_beside_a_minimised_cost_is_refused() -> None:
    def refused(words: str, **options: object) -> None:
        with pytest.raises(SettingError, match=words):
            search(SMALL, **options)  # type: ignore[arg-type]

    refused("--minimise is 'time'; expected one of gbitops, mib", minimise="time")
    refused("--minimise mib and --compression-ratio are about one thing", minimise="mib", compression_ratio=8.0)
    refused("--minimise gbitops and --like are about one thing", minimise="gbitops", like="w4a4")
    for what in set(MINIMISED) - {"gbitops", "mib"}:
        refused(rf"--minimise {what} needs .*; give --(cost|latency)-table FILE.json", minimise=what)
    refused("--no-worse-than has no effect without --minimise", no_worse_than="w4a4", like="w4a4")
    refused("--preview has no effect beside --minimise", minimise="mib", preview="limpq-build")
    refused(
        "know no importance at 6 bits, but at 2, 4, 8; name one of these, or learn more",
        minimise="mib",
        no_worse_than="w6a6",
    )
    refused("expected wNaM, such as w8a8, or one of int8, fp8, fp16", minimise="mib", no_worse_than="best")
    refused("which layer 'a' may not take here", minimise="mib", no_worse_than="w2a2", min_bits=("a=4",))
