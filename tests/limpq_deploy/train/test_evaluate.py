import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import DataError, ModelError
from limpq_deploy.train.evaluate import (
    Evaluation,
    PairedComparison,
    binomial_tail,
    compare_paired,
    evaluate,
    paired_interval,
)


def lookup(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """A "model" whose logits are the image itself."""
    return images.reshape(len(images), -1)


def batch(logits: list[list[float]], labels: list[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    array = np.array(logits, np.float32)
    return array.reshape(len(labels), 1, 1, -1), np.array(labels)


def test_top1_counts_the_largest_logit_and_equal_ones_go_to_the_first() -> None:
    batches = [batch([[1, 5, 2], [9, 0, 0]], [1, 2]), batch([[3, 3, 3]], [0])]
    result = evaluate(lookup, batches)
    assert list(result.predictions) == [1, 0, 0]
    assert (result.accuracy.images, result.accuracy.correct, result.accuracy.classes) == (3, 2, 3)
    assert result.accuracy.top1 == pytest.approx(66.6666667)
    assert result.accuracy.top5 is None  # three classes


def test_top5_counts_labels_among_the_five_largest() -> None:
    logits = [[float(value) for value in range(10)]] * 10
    result = evaluate(lookup, [batch(logits, list(range(10)))])
    assert (result.accuracy.correct, result.accuracy.correct_top5) == (1, 5)
    assert (result.accuracy.top1, result.accuracy.top5) == (10.0, 50.0)


def test_top5_of_all_equal_logits_is_the_first_five_classes() -> None:
    result = evaluate(lookup, [batch([[1.0] * 8] * 8, list(range(8)))])
    assert (result.accuracy.correct, result.accuracy.correct_top5) == (1, 5)


def test_a_torch_model_is_evaluated_the_same_way() -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    batches = [batch([[1, 5, 2], [9, 0, 0]], [1, 2])]

    def predict(images: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return torch.from_numpy(images).flatten(1)

    assert list(evaluate(predict, batches).predictions) == list(evaluate(lookup, batches).predictions)


def test_progress_gets_the_images_done() -> None:
    seen: list[int] = []
    evaluate(lookup, [batch([[1, 0]] * 3, [0] * 3), batch([[1, 0]] * 2, [0] * 2)], progress=seen.append)
    assert seen == [3, 5]


def test_a_label_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(DataError, match=r"label 7, but the model has 3 classes \(0 to 2\).*--classes"):
        evaluate(lookup, [batch([[1, 2, 3]] * 2, [0, 7])])


def test_no_images_is_an_error_and_no_accuracy() -> None:
    with pytest.raises(DataError, match="no images"):
        evaluate(lookup, [])


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ModelError, match="not finite"):
        evaluate(lookup, [batch([[1, float("nan")]], [0])])


def of(correct: list[bool]) -> Evaluation:
    images = [[0.0, 1.0] if right else [1.0, 0.0] for right in correct]
    return evaluate(lookup, [batch(images, [1] * len(correct))])


def test_known_answer_of_the_paired_comparison() -> None:
    first = of([True] * 90 + [True] * 2 + [False] * 8)
    second = of([True] * 90 + [False] * 2 + [True] * 8)
    pair = compare_paired(first, second)
    assert (pair.only_first, pair.only_second, pair.points) == (2, 8, -6.0)
    assert pair.p_first_worse == pytest.approx((45 + 10 + 1) / 1024)  # P(X >= 8), X ~ Binomial(10, 1/2)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_points_are_the_difference_of_top1_and_one_of_two_is_no_better_than_chance(
    pairs: list[tuple[bool, bool]],
) -> None:
    first, second = of([one for one, _ in pairs]), of([other for _, other in pairs])
    there, back = compare_paired(first, second), compare_paired(second, first)
    assert there.points == pytest.approx(first.accuracy.top1 - second.accuracy.top1)
    assert max(there.p_first_worse, back.p_first_worse) > 0.5


@given(st.integers(0, 12).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_binomial_tail_equals_counting_all_outcomes(case: tuple[int, int]) -> None:
    successes, trials = case
    outcomes = list(itertools.product((0, 1), repeat=trials))
    assert binomial_tail(successes, trials) == sum(sum(one) >= successes for one in outcomes) / len(outcomes)


def test_binomial_tail_of_many_trials_is_exact_and_quick() -> None:
    assert binomial_tail(5001, 10001) == 0.5
    assert binomial_tail(1000, 1000) == 2.0**-1000


def test_different_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same images"):
        compare_paired(of([True]), of([True, True]))


@pytest.mark.parametrize(("only_first", "only_second", "images"), [(20, 30, 1000), (0, 4, 400), (2, 1, 300)])
def test_the_interval_of_a_paired_difference_holds_the_truth_in_95_of_100_samples(
    only_first: int, only_second: int, images: int
) -> None:
    first, second = only_first / images, only_second / images
    draws = np.random.default_rng(0).multinomial(images, (first, second, 1 - first - second), size=2000)
    truth = 100 * (first - second)
    held = [low <= truth <= high for low, high in (paired_interval(one, two, images) for one, two, _ in draws)]
    assert np.mean(held) >= 0.935  # a standard error of 0.005 below 0.95, and a little


def test_as_many_images_as_asked_for_decide_and_a_tenth_fewer_do_not() -> None:
    pair = PairedComparison(images=1000, only_first=20, only_second=26, p_first_worse=0.2)
    needed = pair.images_that_decide(-1.0)
    assert needed is not None

    def decides(images: int) -> bool:
        low, high = paired_interval(0.02 * images, 0.026 * images, images)
        return not low <= -1.0 <= high

    assert decides(needed)
    assert not decides(int(0.9 * needed))
    assert replace(pair, only_second=30).images_that_decide(-1.0) is None
