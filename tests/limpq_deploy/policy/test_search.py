"""The search against brute force on small random instances, and its behaviour at the edges."""

import itertools
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import InfeasiblePolicy, ModelError, SettingError
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.policy.budgets import budgets_from_options, compression_budget, gbitops_budget, like_budget
from limpq_deploy.policy.costs import Budget, LayerShape, total_cost
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.outliers import OutlierMode, treat_outliers
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import PolicySearch, search_policy
from limpq_deploy.policy.solver.solvers import Solver


def layer(name: str, weight: tuple[float, ...], act: tuple[float, ...], **more: object) -> LayerIndicators:
    base = LayerIndicators(name=name, macs=1000, num_weights=10, weight=weight, act=act)
    return replace(base, **more)  # type: ignore[arg-type]


def model(*layers: LayerIndicators, bits: tuple[int, ...] = (2, 4)) -> Indicators:
    return Indicators(model="small", bits=bits, layers=layers)


@st.composite
def instances(draw: st.DrawFn) -> tuple[Indicators, tuple[Budget, ...], float, OutlierMode]:
    """Up to four layers with many equal numbers, zero costs, ties, pins, forbidden entries and one to three budgets."""
    bits = draw(st.sampled_from([(4,), (2, 4), (2, 3, 8), (2, 3, 5)]))
    importances = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 7.0]), min_size=len(bits), max_size=len(bits))
    layers: list[LayerIndicators] = []
    for index in range(draw(st.integers(1, 4))):
        act = tuple(draw(importances))
        group: str | None = None
        if len(layers) > 0 and draw(st.booleans()):
            group, act = "shared", layers[-1].act
            layers[-1] = replace(layers[-1], act_group=group)
            if any(other.act_group == group and other.act != act for other in layers[:-1]):
                layers[-1], group = replace(layers[-1], act_group=None), None
        layers.append(
            LayerIndicators(
                name=f"layer{index}",
                macs=draw(st.sampled_from([0, 1, 7, 10, 1_000_003])),
                num_weights=draw(st.sampled_from([0, 1, 9, 100])),
                weight=tuple(draw(importances)),
                act=act,
                act_group=group,
            )
        )
    pinned = (PinnedLayer(name="stem", macs=5, num_weights=3, weight_bits=8, act_bits=8),)
    indicators = Indicators(model="random", bits=bits, layers=tuple(layers), pinned=pinned)
    weight_bits, act_bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    bitops = like_budget(indicators, weight_bits, act_bits)
    size = compression_budget(indicators, draw(st.sampled_from(["4", "5", "6", "8", "9.5"])))
    limit = draw(st.integers(0, 500))
    waste = Budget(cost=Waste(), limit=limit, option="--waste", figure_unit="bits", multiplier=Fraction(1))
    choices: tuple[tuple[Budget, ...], ...] = (
        *((bitops,), (size,), (bitops, size), (size, bitops)),
        *((waste, bitops), (bitops, size, waste), (waste, size, bitops)),
    )
    modes: tuple[OutlierMode, ...] = ("forbid", "repair", "keep")
    return (
        indicators,
        draw(st.sampled_from(choices)),
        draw(st.sampled_from([0.0, 1.0, 2.0])),
        draw(st.sampled_from(modes)),
    )


def brute_force(
    indicators: Indicators, budgets: tuple[Budget, ...], alpha: float, mode: OutlierMode
) -> tuple[float, dict[str, tuple[int, int]]] | None:
    """The definition, word by word: every assignment, checked and priced."""
    importance = treat_outliers(indicators, mode)
    best = None
    both = [(weight, act) for weight in indicators.bits for act in indicators.bits]
    for pairs in itertools.product(both, repeat=len(indicators.layers)):
        policy = dict(zip((one.name for one in indicators.layers), pairs, strict=True))
        if any(total_cost(budget.cost, indicators, policy) > budget.limit for budget in budgets):
            continue
        value = 0.0
        groups: dict[str | None, int] = {}
        for one in indicators.layers:
            w = importance.weight[one.name][indicators.bits.index(policy[one.name][0])]
            a = importance.act[one.name][indicators.bits.index(policy[one.name][1])]
            new = one.act_group is None or one.act_group not in groups
            same = new or groups[one.act_group] == policy[one.name][1]
            if w is None or a is None or not same:
                break
            value += alpha * w + (a if new else 0.0)
            groups[one.act_group] = policy[one.name][1]
        else:
            if best is None or value < best[0]:
                best = value, policy
    return best


@settings(max_examples=200, deadline=None)
@given(instance=instances())
def test_the_search_equals_brute_force(
    instance: tuple[Indicators, tuple[Budget, ...], float, OutlierMode],
) -> None:
    indicators, budgets, alpha, mode = instance
    best = brute_force(indicators, budgets, alpha, mode)
    if best is None:
        with pytest.raises(InfeasiblePolicy, match=r"reachable|with the rest kept|nor all but one"):
            search_policy(indicators, budgets, alpha=alpha, outliers=mode)
        return
    policy = search_policy(indicators, budgets, alpha=alpha, outliers=mode)
    assert policy.objective == pytest.approx(best[0], rel=1e-11, abs=1e-11)  # sums of a few doubles
    assert policy.solver is not None
    assert policy.solver.status == "optimal"
    assert policy.solver.bound <= policy.objective
    assert policy.objective - policy.solver.bound <= 1e-8  # rounding allowance, at prices up to some thousand
    for budget, use in zip(budgets, policy.costs, strict=True):
        assert use.used == total_cost(budget.cost, indicators, policy.pairs()) <= budget.limit == use.limit
    groups = {one.act_group: policy.bits[one.name].act for one in indicators.layers if one.act_group}
    assert all(policy.bits[one.name].act == groups[one.act_group] for one in indicators.layers if one.act_group)


def test_a_policy_survives_json() -> None:
    indicators = model(layer("a", (2.0, 1.0), (1.0, 2.0)), layer("b", (2.0, 1.0), (3.0, 1.0)))
    policy = search_policy(indicators, [like_budget(indicators, 4, 4)])
    assert from_json(Policy, to_json(policy), "here") == policy


def test_the_same_input_gives_the_same_policy() -> None:
    indicators = model(*(layer(f"l{i}", (3.0, 1.0), (3.0, 1.0)) for i in range(9)))  # every layer alike: many optima
    found = [search_policy(indicators, [like_budget(indicators, 3, 3)]).bits for _ in range(3)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("solver", ["own", "highs", "cbc", "auto"])
def test_of_equal_policies_the_one_of_wider_weights_is_taken(solver: Solver) -> None:
    """With weights and activations of one worth, (4, 2) and (2, 4) cost the same and are worth the same; (8, 2) and
    (4, 4) too, where the larger of the smaller widths comes first."""
    one = layer("a", (2.0, 1.0), (2.0, 1.0))
    budget = replace(like_budget(model(one), 2, 2), limit=1000 * 2 * 4)
    assert search_policy(model(one), [budget], alpha=1.0, solver=solver).pairs() == {"a": (4, 2)}
    three = model(layer("a", (3.0, 2.0, 1.0), (3.0, 2.0, 1.0)), bits=(2, 4, 8))
    assert search_policy(three, [replace(budget, limit=16_000)], alpha=1.0, solver=solver).pairs() == {"a": (4, 4)}


def test_tied_layers_take_one_activation_width_whose_indicator_counts_once() -> None:
    free = model(layer("a", (1.0, 1.0), (5.0, 1.0)), layer("b", (1.0, 1.0), (5.0, 1.0)))
    budget = replace(like_budget(free, 2, 2), limit=1000 * 2 * (2 + 4))
    assert sorted(bits.act for bits in search_policy(free, [budget]).bits.values()) == [2, 4]
    tied = replace(free, layers=tuple(replace(one, act_group="x") for one in free.layers))
    policy = search_policy(tied, [budget])
    assert [bits.act for bits in policy.bits.values()] == [2, 2]
    assert policy.objective == 2 * (1.0 + 1.0) + 5.0


def test_a_budget_missed_by_one_unit_is_missed_however_large_it_is() -> None:
    """A solver's tolerance of 1e-7 would let 4-bit weights everywhere pass: the limit lacks one BitOp in 5e10."""
    indicators = model(
        layer("a", (9.0, 1.0), (1.0, 1.0), macs=1_000_000_007),
        layer("b", (9.0, 1.0), (1.0, 1.0), macs=1_000_000_009),
        layer("c", (9.0, 1.0), (1.0, 1.0), macs=1_000_000_021),
        bits=(3, 4),
    )
    exact = like_budget(indicators, 4, 3)
    assert search_policy(indicators, [exact]).objective == 2 * 3 * 1.0 + 3 * 1.0
    short = replace(exact, limit=exact.limit - 1)
    policy = search_policy(indicators, [short])
    assert policy.objective == 2 * (1.0 + 1.0 + 9.0) + 3 * 1.0
    assert policy.costs[0].used <= short.limit
    assert policy.solver is not None
    assert policy.solver.status == "optimal"


def test_equal_indicators_take_the_cheapest_bits() -> None:
    indicators = model(layer("a", (1.0, 1.0), (1.0, 1.0)))
    policy = search_policy(indicators, [like_budget(indicators, 4, 4)])
    assert policy.pairs() == {"a": (2, 2)}


def test_layers_without_macs_take_what_matters_most() -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0), macs=0))
    assert search_policy(indicators, [gbitops_budget(indicators, "0.001")]).pairs() == {"a": (4, 4)}


def test_one_bit_width_leaves_no_choice() -> None:
    indicators = model(layer("a", (1.0,), (1.0,)), bits=(4,))
    assert search_policy(indicators, [like_budget(indicators, 4, 4)]).pairs() == {"a": (4, 4)}


def test_an_indicator_of_a_hundred_million_does_not_blind_the_solver() -> None:
    layers = [layer(f"l{i}", (1e8, 0.01 + i * 1e-5, 0.005), (0.4, 0.2, 0.1)) for i in range(4)]
    indicators = model(*layers, bits=(2, 3, 4))
    budgets = (like_budget(indicators, 3, 3),)
    best = brute_force(indicators, budgets, 2.0, "keep")
    assert best is not None
    assert best[0] < 10
    assert search_policy(indicators, budgets, outliers="keep").objective == pytest.approx(best[0], rel=1e-12)


def test_an_unreachable_budget_names_the_smallest_figure_and_typing_it_works() -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0), macs=123_456_789))
    with pytest.raises(InfeasiblePolicy, match=r"--max-gbitops 0\.1 allows 0\.1 G BitOps.*reachable is 0\.493828 G"):
        search_policy(indicators, budgets_from_options(indicators, max_gbitops="0.1"))
    reachable = budgets_from_options(indicators, max_gbitops="0.493828")
    assert search_policy(indicators, reachable).pairs() == {"a": (2, 2)}


def test_an_unreachable_ratio_names_the_largest_and_typing_it_works() -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0)))
    with pytest.raises(InfeasiblePolicy, match=r"the largest reachable is 16 times smaller"):
        search_policy(indicators, budgets_from_options(indicators, compression_ratio=17))
    assert search_policy(indicators, budgets_from_options(indicators, compression_ratio=16)).pairs()["a"][0] == 2


def test_every_budget_that_cannot_be_met_is_named() -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0)))
    with pytest.raises(InfeasiblePolicy, match=r"--like w1a1 allows.*; --compression-ratio 20 allows"):
        search_policy(indicators, budgets_from_options(indicators, like="w1a1", compression_ratio=20))


def test_forbidden_entries_are_named_where_they_may_be_the_reason() -> None:
    indicators = model(layer("a", (1.0, 2.0), (2.0, 1.0)))
    budgets = [like_budget(indicators, 2, 2)]
    with pytest.raises(InfeasiblePolicy, match=r"1 outlier entry is forbidden; --outliers repair admits"):
        search_policy(indicators, budgets)
    assert search_policy(indicators, budgets, outliers="repair").pairs() == {"a": (2, 2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """A cost that falls with the bit-width, so that it fights with BitOps."""

    name: str = "waste"
    unit: str = "bits"
    pinned: bool = False

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return layer.num_weights * (8 - weight_bits)


def test_budgets_that_only_conflict_together_tell_how_far_each_would_have_to_go() -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0)), layer("b", (2.0, 1.0), (2.0, 1.0)))
    waste = Budget(cost=Waste(), limit=100, option="--waste 100", figure_unit="bits", multiplier=Fraction(1))
    with pytest.raises(InfeasiblePolicy) as raised:
        search_policy(indicators, [like_budget(indicators, 2, 2), waste])
    # 8 - w is 6 at 2 bits and 4 at 4 bits, for 10 weights: a limit of 100 needs one layer at 4 bits
    assert "smallest for --like w2a2 is 0.000012 G BitOps" in str(raised.value)
    assert "smallest for --waste 100 is 120 bits" in str(raised.value)


def test_a_search_without_a_budget_is_refused() -> None:
    with pytest.raises(SettingError, match="no budget"):
        search_policy(model(layer("a", (2.0, 1.0), (2.0, 1.0))), [])


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_a_useless_alpha_is_refused(alpha: float) -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0)))
    with pytest.raises(SettingError, match="--alpha"):
        search_policy(indicators, [like_budget(indicators, 4, 4)], alpha=alpha)


def test_a_model_without_searched_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to search"):
        search_policy(model(), [gbitops_budget(model(), 1)])


def test_a_limit_beyond_every_policy_is_no_trouble() -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0)))
    assert search_policy(indicators, [gbitops_budget(indicators, 10**25)]).pairs() == {"a": (4, 4)}


def test_the_search_leaves_nothing_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.0)))
    search_policy(indicators, [like_budget(indicators, 4, 4)])
    assert list(tmp_path.iterdir()) == []


def test_importing_the_search_loads_no_torch_no_runtime_and_no_solver() -> None:
    heavy = "('torch', 'onnxruntime', 'pulp')"
    script = f"import sys, limpq_deploy.policy.search; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("solver", ["auto", "own", "cbc", "highs"])
def test_equal_optima_are_told_apart_alike_by_every_solver(solver: Solver) -> None:
    """Nine layers alike: which of them get 4 bits is the documented rule's choice, not the solver's."""
    if solver == "highs":
        pytest.importorskip("highspy", reason="HiGHS is an optional extra")
    indicators = model(*(layer(f"l{i}", (3.0, 1.0), (3.0, 1.0)) for i in range(9)))
    policy = search_policy(indicators, [like_budget(indicators, 3, 3)], solver=solver)
    # of 81 units, 2x2 takes 4, 4x2 (gains 4) takes 8, 4x4 (gains 6) takes 16: one 4x4 beside eight 4x2 takes 80
    assert list(policy.pairs().values()) == [(4, 4)] + [(4, 2)] * 8


def test_three_budgets_at_once_are_kept_exactly() -> None:
    layers = [layer(f"l{i}", (9.0 - i, 3.0, 1.0), (5.0, 2.0 + i / 7, 1.0), macs=1009 + 31 * i) for i in range(4)]
    indicators = model(*layers, bits=(2, 3, 4))
    waste = Budget(cost=Waste(), limit=200, option="--waste 200", figure_unit="bits", multiplier=Fraction(1))
    budgets = (like_budget(indicators, 3, 3), compression_budget(indicators, 10), waste)
    best = brute_force(indicators, budgets, 2.0, "forbid")
    assert best is not None
    policy = search_policy(indicators, budgets)
    assert policy.objective == pytest.approx(best[0], rel=1e-12)
    assert len(policy.costs) == 3


def test_searches_that_share_their_blocks_are_the_searches_of_each_budget() -> None:
    layers = [layer(f"l{i}", (9.0 - i, 3.0, 1.0), (5.0, 2.0 + i / 7, 1.0), macs=1009 + 31 * i) for i in range(6)]
    indicators = model(*layers, bits=(2, 3, 4))
    shared = PolicySearch()
    for gbitops in ("10000e-9", "40000e-9", "60000e-9", "90000e-9", "200000e-9"):
        budgets = [gbitops_budget(indicators, gbitops)]
        if gbitops == "10000e-9":
            with pytest.raises(InfeasiblePolicy, match="--max-gbitops 10000e-9 allows"):
                shared(indicators, budgets)
            continue
        found, alone = shared(indicators, budgets), search_policy(indicators, budgets)
        assert (found.bits, found.objective, found.costs) == (alone.bits, alone.objective, alone.costs)


def test_searches_that_differ_in_more_than_limits_share_nothing() -> None:
    indicators = model(layer("a", (2.0, 1.0), (2.0, 1.5)), layer("b", (3.0, 1.0), (2.0, 1.0)))
    shared = PolicySearch()
    budgets = (
        [like_budget(indicators, 3, 3)],
        [compression_budget(indicators, 10)],
        [gbitops_budget(indicators, "18000e-9")],
    )
    for alpha in (2.0, 0.0):
        for some in budgets:
            assert shared(indicators, some, alpha=alpha).bits == search_policy(indicators, some, alpha=alpha).bits
    other = model(layer("a", (7.0, 1.0), (2.0, 1.0)))
    assert shared(other, budgets[2]).bits == search_policy(other, budgets[2]).bits


def test_the_search_needs_no_library_of_solvers() -> None:
    script = (
        "import sys; sys.modules['pulp'] = None\n"
        "from limpq_deploy.policy.budgets import like_budget\n"
        "from limpq_deploy.policy.indicators import Indicators, LayerIndicators\n"
        "from limpq_deploy.policy.search import search_policy\n"
        "layer = LayerIndicators(name='a', macs=1, num_weights=1, weight=(2.0, 1.0), act=(2.0, 1.0))\n"
        "indicators = Indicators(model='m', bits=(2, 4), layers=(layer,))\n"
        "print(search_policy(indicators, [like_budget(indicators, 4, 4)]).solver.status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "optimal"
