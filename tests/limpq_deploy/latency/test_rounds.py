"""Measuring a machine whose true times are known: the table is corrected until the limit holds."""

from collections.abc import Callable, Mapping

import pytest

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.model import Key, Skeleton, predict, to_table
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.latency.rounds import Rounds, Timed, go_round
from limpq_deploy.policy.budgets import latency_budget
from limpq_deploy.policy.costs import total_cost
from limpq_deploy.policy.indicators import Indicators, LayerEdge, LayerIndicators, PinnedLayer
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import search_policy

INT8, FLOAT32 = (8, 8), (32, 32)
NAMES = ("a", "b", "c", "d")
EDGES = (("stem", "a", 1000), ("a", "b", 500), ("b", "c", 2000), ("c", "d", 800))

BONES = Skeleton(searched=NAMES, pinned={"stem": INT8}, measured=(INT8, FLOAT32), edges=EDGES)

INDICATORS = Indicators(
    model="small",
    bits=(8, 32),
    layers=tuple(
        LayerIndicators(
            name=name, macs=100, num_weights=10, weight=(loss, 0.0), act=(loss, 0.0), pairs=(INT8, FLOAT32), kind="conv"
        )
        for name, loss in zip(NAMES, (4.0, 3.0, 2.0, 1.0), strict=True)
    ),
    pinned=(PinnedLayer(name="stem", macs=5, num_weights=10, weight_bits=8, act_bits=8),),
    edges=tuple(LayerEdge(producer=first, consumer=last, elements=size) for first, last, size in EDGES),
)


def figures(float_ms: float = 1.0, conversion_ns: float = 10.0) -> dict[Key, float]:
    """Every layer takes 0.25 ms in integers and ``float_ms`` in float."""
    return {
        ("other",): 0.1,
        ("part", "stem", INT8): 0.25,
        **{("part", name, INT8): 0.25 for name in NAMES},
        **{("part", name, FLOAT32): float_ms for name in NAMES},
        ("fixed", "integer", 32): 0.01,
        ("element", "integer", 32): conversion_ns / 1e6,
        ("fixed", 32, "integer"): 0.01,
        ("element", 32, "integer"): conversion_ns / 1e6,
    }


TABLE = to_table(BONES, figures(), (), LatencyTable(model="small", device="d", times=()))


def solve(table: LatencyTable, limit_ms: float) -> Policy:
    return search_policy(INDICATORS, [latency_budget(INDICATORS, table, limit_ms)], alpha=1.0, outliers="keep")


def machine(truth: Mapping[Key, float], *, speed: float = 1.0) -> Callable[[Mapping[str, BitPair]], Timed]:
    def time(pairs: Mapping[str, BitPair]) -> Timed:
        ms = speed * predict(truth, BONES.row(pairs))
        return Timed(measured_ms=ms, low_ms=0.99 * ms, high_ms=1.01 * ms, speed=speed)

    return time


def test_the_table_and_the_budget_of_the_search_give_one_prediction() -> None:
    budget = latency_budget(INDICATORS, TABLE, 10)
    for pairs in ({"a": INT8, "b": FLOAT32, "c": INT8, "d": INT8}, dict.fromkeys(NAMES, FLOAT32)):
        assert total_cost(budget.cost, INDICATORS, pairs) / 1e6 == pytest.approx(predict(figures(), BONES.row(pairs)))


def test_a_true_table_needs_one_round_and_leaves_the_least_important_layers_in_integers() -> None:
    policy, rounds = go_round(TABLE, BONES, limit_ms=3.2, solve=solve, time=machine(figures()))
    assert rounds.converged
    assert len(rounds.rounds) == 1
    assert policy.pairs()["a"] == FLOAT32
    assert policy.pairs()["d"] == INT8
    assert rounds.why.endswith("within 3.2 ms after 1 round")


def test_floats_that_are_slower_than_the_table_said_are_learned() -> None:
    truth = figures(float_ms=1.5)
    policy, rounds = go_round(TABLE, BONES, limit_ms=3.2, solve=solve, time=machine(truth))
    assert not rounds.rounds[0].holds
    assert rounds.converged
    assert predict(truth, BONES.row(policy.pairs())) <= 3.2
    assert abs(rounds.last.error) <= 0.05
    learned = {(time.layers[0], time.weight_bits): time.ms for time in rounds.table.times}
    assert learned["a", 32] > 1.2


def test_a_machine_that_became_slower_is_no_error_of_the_table() -> None:
    _, rounds = go_round(TABLE, BONES, limit_ms=4.0, solve=solve, time=machine(figures(), speed=1.2))
    assert abs(rounds.rounds[0].error) < 0.001
    assert rounds.last.speed == 1.2
    assert rounds.last.measured_ms <= 4.0
    assert sum(time.ms for time in rounds.table.times) == pytest.approx(1.2 * sum(time.ms for time in TABLE.times))


def test_a_limit_below_the_fastest_policy_is_refused_with_the_smallest_figure() -> None:
    with pytest.raises(InfeasiblePolicy, match=r"allows 1 ms, and the smallest reachable is 1\.35 ms"):
        go_round(TABLE, BONES, limit_ms=1.0, solve=solve, time=machine(figures()))


def test_a_machine_that_never_agrees_ends_after_the_last_round_and_says_why() -> None:
    calls: list[int] = []

    def moody(pairs: Mapping[str, BitPair]) -> Timed:
        calls.append(1)
        ms = 9.0 * len(calls)
        return Timed(measured_ms=ms, low_ms=ms, high_ms=ms, doubts=("busy machine",))

    policy, rounds = go_round(TABLE, BONES, limit_ms=3.2, solve=solve, time=moody, most=2)
    assert not rounds.converged
    assert rounds.last.number == 1  # the fastest that was seen
    assert "no policy that was timed keeps 3.2 ms" in rounds.why
    assert "doubtful: busy machine" in rounds.why
    assert policy.pairs() == rounds.last.pairs


def test_a_machine_that_became_too_slow_for_the_limit_is_told_as_the_reason() -> None:
    _, rounds = go_round(TABLE, BONES, limit_ms=2.0, solve=solve, time=machine(figures(), speed=2.0))
    assert not rounds.converged
    assert "knows no policy within" in rounds.why
    assert "takes 2.00 times as long as at its profile" in rounds.why


def test_rounds_survive_json() -> None:
    _, rounds = go_round(TABLE, BONES, limit_ms=3.2, solve=solve, time=machine(figures(float_ms=1.5)))
    assert from_json(Rounds, to_json(rounds), "rounds") == rounds


def test_no_round_at_all_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        go_round(TABLE, BONES, limit_ms=3.2, solve=solve, time=machine(figures()), most=0)
