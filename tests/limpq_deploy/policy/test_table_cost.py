"""What a compiler's kernels move as a budget: the sum of prices, of neighbours and of groups together."""

from dataclasses import replace
from itertools import product

import pytest

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.timing.cost_table import (
    CostTable,
    GroupCost,
    GroupPrice,
    Moved,
    NeighbourCost,
    PartCost,
    network_digest,
)
from limpq_deploy.export.timing.predictions import predicted
from limpq_deploy.policy.budgets import budgets_of
from limpq_deploy.policy.costs import LayerShape, handover_range, total_cost
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.table_cost import Planned, kernel_cost, moved_cost

NATIVE = ((8, 8), (16, 16))


def layer(name: str, macs: int = 100, group: str | None = None) -> LayerIndicators:
    return LayerIndicators(
        name=name, macs=macs, num_weights=10, weight=(0.3, 0.0), act=(0.4, 0.0), pairs=NATIVE, act_group=group
    )


INDICATORS = Indicators(
    model="net",
    bits=(8, 16),
    layers=(layer("a"), layer("b"), layer("c", group="t"), layer("d", group="t")),
    pinned=(PinnedLayer(name="stem", macs=5, num_weights=3, weight_bits=8, act_bits=8),),
)


def part(name: str, pair: tuple[int, int], size: float) -> PartCost:
    moved = Moved(activations=size, weights=10, kernels=2 if pair == (8, 8) else 1)
    return PartCost(layer=name, weight_bits=pair[0], act_bits=pair[1], moved=moved)


def beside(first: str, second: str, before: tuple[int, int], after: tuple[int, int], size: float) -> NeighbourCost:
    moved = Moved(activations=size, kernels=0.5)
    return NeighbourCost(first=first, second=second, before=before, after=after, moved=moved)


LAYERS: list[LayerShape] = [*INDICATORS.layers, *INDICATORS.pinned]

TABLE = CostTable(
    model="net",
    target="tensorrt_rtx",
    compiler="TensorRT-RTX 1.7",
    capabilities=("sm89",),
    batch=8,
    network=network_digest((one.name, one.macs, one.num_weights) for one in LAYERS),
    model_sha256="",
    macs={"stem": 5} | dict.fromkeys("abcd", 100),
    units={"stem": "stem", "a": "a", "b": "b", "c": "c", "d": "c"},
    parts=(
        part("stem", (8, 8), 70),
        *(part(name, pair, size) for name in "abcd" for pair, size in (((8, 8), 500), ((16, 16), 300))),
    ),
    neighbours=(
        beside("stem", "a", (8, 8), (16, 16), 40),
        beside("a", "b", (8, 8), (16, 16), 90),
        beside("a", "b", (16, 16), (8, 8), -60),
        beside("b", "c", (8, 8), (16, 16), 25),
    ),
    groups=(
        GroupCost(
            units=("stem", "a", "b", "c"),
            prices=(
                GroupPrice(pairs=((8, 8), (8, 8), (16, 16), (8, 8)), moved=Moved(activations=-170, kernels=0.125)),
                GroupPrice(pairs=((8, 8), (16, 16), (16, 16), (8, 8)), moved=Moved(activations=33, kernels=-0.25)),
            ),
        ),
        GroupCost(units=("stem", "b"), prices=(GroupPrice(pairs=((8, 8), (8, 8)), moved=Moved(activations=7)),)),
        GroupCost(units=("stem",), prices=(GroupPrice(pairs=((8, 8),), moved=Moved(activations=3)),)),
    ),
)


def policies() -> list[dict[str, tuple[int, int]]]:
    return [{"a": a, "b": b, "c": c, "d": c} for a, b, c in product(NATIVE, repeat=3)]


def test_a_policys_cost_is_what_the_table_predicts_below_0_too() -> None:
    for policy in policies():
        found = predicted(TABLE, policy)
        assert total_cost(moved_cost(INDICATORS, TABLE), INDICATORS, policy) == found.bytes
        assert total_cost(kernel_cost(INDICATORS, TABLE), INDICATORS, policy) == 1000 * found.kernels


@pytest.mark.parametrize("limit", [1400, 1500, 1700, 1900, 2100])
def test_the_search_finds_the_best_policy_within_the_bytes(limit: int) -> None:
    indicators = INDICATORS
    turned = tuple(
        LayerIndicators(
            name=one.name, macs=one.macs, num_weights=one.num_weights, weight=(0.1 * at, 1.0), act=(0.0, 0.5),
            pairs=NATIVE, act_group=one.act_group,
        )
        for at, one in enumerate(INDICATORS.layers)
    )  # fmt: skip
    indicators = Indicators(model="net", bits=(8, 16), layers=turned, pinned=INDICATORS.pinned)
    budgets = budgets_of("max_moved_mib", indicators, str(limit / 2**20), TABLE)

    def worth(policy: dict[str, tuple[int, int]]) -> float:
        at = {bits: place for place, bits in enumerate(indicators.bits)}
        weights = sum(one.weight[at[policy[one.name][0]]] for one in turned)
        return weights + sum(turned["abc".index(name)].act[at[policy[name][1]]] for name in "abc")

    found = search_policy(indicators, budgets, alpha=1.0, outliers="keep")
    within = [policy for policy in policies() if predicted(TABLE, policy).bytes <= budgets[0].limit]
    assert worth(found.pairs()) == pytest.approx(min(map(worth, within)))
    assert predicted(TABLE, found.pairs()).bytes <= limit
    assert found.costs[0].name == "moved"


@pytest.mark.parametrize("limit", [1450, 1700, 1900, 2200])
def test_layers_of_a_group_that_share_their_bits_are_priced_at_those(limit: int) -> None:
    tied = tuple(replace(one, tie="t") if one.name in "ab" else one for one in INDICATORS.layers)
    indicators = replace(INDICATORS, layers=tied)
    budgets = budgets_of("max_moved_mib", indicators, str(limit / 2**20), TABLE)
    found = search_policy(indicators, budgets, alpha=1.0, outliers="keep")
    assert found.costs[0].used == predicted(TABLE, found.pairs()).bytes <= limit
    narrow = {"a": 0.7, "b": 0.7, "c": 1.0, "d": 0.0}  # c and d read one tensor
    within = [one for one in policies() if one["a"] == one["b"] and predicted(TABLE, one).bytes <= limit]
    best = min(sum(narrow[name] for name, pair in one.items() if pair == (8, 8)) for one in within)
    assert found.objective == pytest.approx(best)


def test_what_a_policy_pays_in_a_group_is_told_with_all_its_layers() -> None:
    cost = moved_cost(INDICATORS, TABLE)
    (group,) = [one for one in cost.handovers if len(one.layers) > 2]
    assert group.layers == ("a", "b", "c")
    assert handover_range(group, NATIVE) == (0, 203)  # 33 above the least, which is part of the constant
    assert group.between((8, 8), (16, 16), (8, 8)) == 0


def test_a_table_of_another_network_is_refused_in_a_sentence() -> None:
    other = Indicators(model="other", bits=(8, 16), layers=(*INDICATORS.layers, layer("e")), pinned=INDICATORS.pinned)
    with pytest.raises(ModelError, match=r"cost table is of another network \('net'\).*'other'.*'e' is in one"):
        moved_cost(other, TABLE)
    larger = Indicators(
        model="net", bits=(8, 16), layers=(layer("a", 900), *INDICATORS.layers[1:]), pinned=INDICATORS.pinned
    )
    with pytest.raises(ModelError, match="their layers differ in size; price this one"):
        moved_cost(larger, TABLE)


def test_bits_that_are_not_priced_are_beyond_every_budget_and_a_layer_without_others_is_refused() -> None:
    def wide(pairs: tuple[tuple[int, int], ...]) -> Indicators:
        layers = tuple(
            LayerIndicators(
                name=one.name,
                macs=one.macs,
                num_weights=10,
                weight=(2, 1, 0),
                act=(2, 1, 0),
                act_group=one.act_group,
                pairs=pairs,
            )
            for one in INDICATORS.layers
        )
        return Indicators(model="net", bits=(8, 16, 32), layers=layers, pinned=INDICATORS.pinned)

    some = wide((*NATIVE, (32, 32)))
    found = search_policy(some, budgets_of("max_moved_mib", some, 1000, TABLE), alpha=1.0)
    assert set(found.pairs().values()) == {(16, 16)}
    with pytest.raises(ModelError, match="prices nothing for layer 'a' at the bits that it may take, w32a32"):
        moved_cost(wide(((32, 32),)), TABLE)


def test_integers_are_never_priced_as_fp8_and_fp8_without_a_price_runs_in_float() -> None:
    floats = tuple(one for one in TABLE.parts if (one.weight_bits, one.act_bits) == (16, 16))
    in_fp8 = tuple(replace(one, weight_bits=FP8, act_bits=FP8, moved=Moved(activations=1)) for one in floats)
    model = replace(
        INDICATORS,
        bits=(8, FP8, 16),
        layers=tuple(
            replace(one, weight=(0.3, 0.2, 0.0), act=(0.4, 0.2, 0.0), pairs=None) for one in INDICATORS.layers
        ),
    )
    table = replace(TABLE, parts=(TABLE.parts[0], *floats, *in_fp8), neighbours=(), groups=())
    cost, names = moved_cost(model, table), [one.name for one in model.layers]

    def moved(pair: tuple[int, int], cost: Planned = cost) -> int:
        return cost.constant + sum(cost.of_layer(one, *pair) for one in model.layers)

    assert moved((8, 8)) == moved((16, 16)) == predicted(table, dict.fromkeys(names, (8, 8))).bytes == 80 + 4 * 310
    assert moved((FP8, FP8)) == predicted(table, dict.fromkeys(names, (FP8, FP8))).bytes == 80 + 4
    unpriced = moved_cost(model, replace(table, parts=(TABLE.parts[0], *floats)))
    assert moved((FP8, FP8), unpriced) == 80 + 4 * 310


def test_what_is_priced_for_bounds_alone_is_read_by_no_budget() -> None:
    int8 = [one for one in TABLE.parts[1:] if one.weight_bits == 8]
    bounded = replace(TABLE, bounds=tuple(replace(one, weight_bits=FP8, act_bits=FP8, moved=Moved()) for one in int8))
    assert bounded.bounds
    policy = {layer.name: (8, 8) for layer in INDICATORS.layers}
    assert moved_cost(INDICATORS, bounded) == moved_cost(INDICATORS, TABLE)
    assert predicted(bounded, policy) == predicted(TABLE, policy)
