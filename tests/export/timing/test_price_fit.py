"""Prices fitted to what engines moved, told apart by layer."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from limpq_deploy.export.timing import price_fit
from limpq_deploy.export.timing.cost_table import Moved
from limpq_deploy.export.timing.price_fit import Built, Prices, Surroundings, fit

NAMES = tuple("abcdef")
CHAIN = Surroundings(units={name: name for name in NAMES}, edges=tuple(pairwise(NAMES)))
INTEGER, HALF = (8, 8), (16, 16)


def engine(pairs: dict[str, tuple[int, int]]) -> Built:
    """A chain in which a layer moves 10 bytes for each bit, and whoever hands integers to a half writes both."""
    moved = {name: Moved(activations=10.0 * pairs[name][0], kernels=1) for name in NAMES}
    for one, other in CHAIN.edges:
        if (pairs[one], pairs[other]) == (INTEGER, HALF):
            moved[one] += Moved(activations=35, kernels=1)
    return Built(pairs=pairs, moved=moved)


def some(count: int, seed: int) -> list[Built]:
    generator = random.Random(seed)
    return [engine({name: generator.choice((INTEGER, HALF)) for name in NAMES}) for _ in range(count)]


def odd(one: Built) -> Built:
    """Where three layers are integers at once, one of them moves more."""
    more = Moved(activations=60.0 * all(one.pairs[name] == INTEGER for name in "bcd"))
    return Built(pairs=one.pairs, moved={**one.moved, "c": one.moved["c"] + more})


@pytest.fixture(params=["groups", "sums over two"])
def tuples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With prices of groups, and without, as where they have too many tuples."""
    if request.param != "groups":
        monkeypatch.setattr(price_fit, "MOST_TUPLES", 1)
    return str(request.param)


def test_an_engine_that_no_price_comes_from_is_predicted(tuples: str) -> None:
    uniform = {pair: engine(dict.fromkeys(NAMES, pair)) for pair in (INTEGER, HALF)}
    prices = fit(CHAIN, uniform, some(24, 0))
    assert (bool(prices.groups), bool(prices.together)) == (tuples == "groups", tuples != "groups")
    for one in (*uniform.values(), *some(20, 1)):
        found = prices.of(one.pairs)
        assert found.activations == pytest.approx(one.total.activations, rel=0.01)  # drawn a little towards nothing
        assert found.kernels == pytest.approx(one.total.kernels, rel=0.01)


def test_three_layers_that_count_at_once_are_predicted_by_groups_alone(tuples: str) -> None:
    uniform = {pair: odd(engine(dict.fromkeys(NAMES, pair))) for pair in (INTEGER, HALF)}
    prices = fit(CHAIN, uniform, list(map(odd, some(40, 0))))
    worst = max(abs(prices.of(one.pairs).bytes / one.total.bytes - 1) for one in map(odd, some(40, 1)))
    assert worst < 0.005 if tuples == "groups" else worst > 0.01


def test_what_is_predicted_where_a_layer_sees_further_is_what_its_engines_moved() -> None:
    """``a`` moves more where ``e`` is an integer, three layers on; no edge says so."""

    def far(one: Built) -> Built:
        more = Moved(activations=80.0 * (one.pairs["e"] == INTEGER != one.pairs["b"]))
        return Built(pairs=one.pairs, moved={**one.moved, "a": one.moved["a"] + more})

    uniform = {pair: far(engine(dict.fromkeys(NAMES, pair))) for pair in (INTEGER, HALF)}
    errors = []
    for around in (CHAIN, replace(CHAIN, further={"a": ("e",)})):
        prices = fit(around, uniform, list(map(far, some(40, 0))))
        errors.append(max(abs(prices.of(one.pairs).bytes / one.total.bytes - 1) for one in map(far, some(40, 1))))
    assert errors[1] < 0.005 < 0.02 < errors[0]


def test_three_formats_are_told_apart() -> None:
    pairs = (INTEGER, (9, 9), HALF)
    generator = random.Random(0)
    made = [engine({name: generator.choice(pairs) for name in NAMES}) for _ in range(80)]
    prices = fit(CHAIN, {pair: engine(dict.fromkeys(NAMES, pair)) for pair in pairs}, made[:60])
    for one in made[60:]:
        assert prices.of(one.pairs).bytes == pytest.approx(one.total.bytes, rel=0.01)


def test_a_layer_whose_pair_is_given_has_one_price_and_pays_for_its_neighbours(tuples: str) -> None:
    def given(one: Built) -> Built:
        return engine({**one.pairs, "a": INTEGER})

    uniform = {pair: given(engine(dict.fromkeys(NAMES, pair))) for pair in (INTEGER, HALF)}
    prices = fit(CHAIN, uniform, [given(one) for one in some(24, 0)])
    assert [pair for layer, pair in prices.own if layer == "a"] == [INTEGER]
    assert all("a" not in units for units in prices.groups), tuples
    for one in map(given, some(20, 1)):
        assert prices.of(one.pairs).activations == pytest.approx(one.total.activations, rel=0.01)


def test_layers_see_those_beside_them_and_those_that_read_the_same() -> None:
    around = Surroundings(
        units={name: name for name in NAMES}, edges=(("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("e", "f"))
    )
    assert around.of("b") == ("a", "b", "c")
    assert around.of("c") == ("a", "b", "c", "d")
    assert around.of("e") == ("e", "f")
    assert CHAIN.like("b") == CHAIN.like("c") != CHAIN.like("a")


def test_what_is_certain_is_given_again_where_three_layers_count_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three that have to be alike are more than prices of two can say; around a policy that was built they need not."""
    monkeypatch.setattr(price_fit, "MOST_TUPLES", 1)
    uniform = {pair: odd(engine(dict.fromkeys(NAMES, pair))) for pair in (INTEGER, HALF)}
    mixed = [odd(one) for one in some(24, 0)]
    policy = {**dict.fromkeys(NAMES, HALF), **dict.fromkeys("bc", INTEGER)}
    built = [odd(engine(policy))]
    built += [odd(engine({**policy, name: HALF if policy[name] == INTEGER else INTEGER})) for name in NAMES]
    without, mended = fit(CHAIN, uniform, mixed), fit(CHAIN, uniform, mixed, built)

    def worst(prices: Prices) -> float:
        return max(abs(prices.of(one.pairs).bytes / one.total.bytes - 1) for one in built)

    assert worst(without) > 0.02
    assert worst(mended) < 0.005
