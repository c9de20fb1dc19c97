"""Joining two lists of labels against trying every pair."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.policy.solver.join import join
from limpq_deploy.policy.solver.labels import Labels, superior


def labels(reduced: list[float], costs: list[tuple[int, ...]], rows: int) -> Labels:
    count = len(reduced)
    none = np.zeros(0, np.int64)
    return Labels(
        reduced_L=np.array(reduced, np.float64),
        cost_ML=np.array(costs, np.int64).reshape(count, rows).T,
        rank_L=np.arange(count),
        room=np.inf,
        node_L=none,
        parents=none,
        departures=none,
    )


@st.composite
def lists(draw: st.DrawFn, rows: int) -> Labels:
    size = draw(st.integers(0, 12))
    reduced = draw(st.lists(st.integers(0, 40).map(lambda value: value / 8), min_size=size, max_size=size))
    cost = st.tuples(*[st.integers(-50, 50)] * rows)
    return labels(reduced, draw(st.lists(cost, min_size=size, max_size=size)), rows)


@settings(deadline=None, max_examples=400)
@given(data=st.data(), rows=st.integers(1, 3))
def test_the_best_pair_below_the_ceiling_is_found(data: st.DataObject, rows: int) -> None:
    left, right = data.draw(lists(rows)), data.draw(lists(rows))
    prices_M = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.125, 1.0, 4.0]), min_size=rows, max_size=rows)))
    slack_M = np.array(data.draw(st.lists(st.integers(-40, 60), min_size=rows, max_size=rows)))
    ceiling = data.draw(st.sampled_from([0.5, 2.0, 8.0, 100.0, np.inf]))
    tried = {}
    for a in range(len(left.reduced_L)):
        for b in range(len(right.reduced_L)):
            over_M = slack_M - left.cost_ML[:, a] - right.cost_ML[:, b]
            added = float(left.reduced_L[a] + right.reduced_L[b] + prices_M @ over_M)
            if (over_M >= 0).all() and added < ceiling:
                tried[a, b] = (added, tuple((left.cost_ML[:, a] + right.cost_ML[:, b]).tolist()), a, b)
    joined = join(left, right, prices_M, slack_M, ceiling=ceiling, tie=1e-9, max_pairs=10**6)
    assert joined.finished
    if not tried:
        assert joined.pair is None
        return
    best = min(tried, key=lambda pair: tried[pair])
    assert joined.pair == best
    assert joined.added == tried[best][0]


def test_a_join_that_may_look_at_few_pairs_says_that_it_did_not_finish() -> None:
    many = labels([0.0] * 2000, [(0,)] * 2000, 1)
    prices_M, slack_M = np.zeros(1), np.zeros(1, np.int64)
    assert not join(many, many, prices_M, slack_M, ceiling=1.0, tie=0.0, max_pairs=1000).finished
    assert join(many, many, prices_M, slack_M, ceiling=1.0, tie=0.0, max_pairs=10**7).finished


def test_of_labels_that_cost_the_same_the_best_stays_and_among_equals_the_preferred() -> None:
    reduced_L, rank_L = np.array([3.0, 1.0, 1.0, 0.5]), np.array([0, 2, 1, 3])
    cost_ML = np.array([[5, 5, 5, 6], [1, 1, 1, 1]])
    assert superior(reduced_L, cost_ML, rank_L, np.zeros(2), 1e-9).tolist() == [2, 3]
    assert superior(reduced_L, cost_ML[:1], rank_L, np.array([0.1]), 1e-9).tolist() == [2, 3]
    assert superior(reduced_L, cost_ML[:1], rank_L, np.array([1.0]), 1e-9).tolist() == [2, 3]  # values -4, -5.5
    assert superior(np.array([3.0, 1.0, 1.0, 1.0]), cost_ML[:1], rank_L, np.zeros(1), 1e-9).tolist() == [2]
