"""Figures with their intervals."""

import numpy as np
import pytest

from limpq_deploy.tasks.score import Z95, Measure, difference, scored

ERROR = Measure(name="error", unit="mm", higher=False)


def mean(values: object) -> float:
    return float(np.mean(values))  # type: ignore[call-overload]


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 1000)
    found = scored(Measure(name="mean"), list(values), mean).accuracy
    exact = Z95 * values.std(ddof=1) / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(exact, rel=0.25)  # 50 groups know it to a tenth


def test_few_images_are_left_out_one_by_one() -> None:
    values = [1.0, 2.0, 4.0]
    found = scored(Measure(name="mean"), values, mean)
    assert found.left_out == pytest.approx((3.0, 2.5, 1.5))
    half = (found.accuracy.high - found.accuracy.low) / 2
    assert half == pytest.approx(Z95 * np.std(values, ddof=1) / np.sqrt(3))


def test_one_image_has_no_interval() -> None:
    found = scored(ERROR, [3.0], mean).accuracy
    assert (found.low, found.value, found.high) == (3.0, 3.0, 3.0)
    assert ERROR.said(found.value) == "error 3.00 mm"


def test_a_difference_is_a_gain_whichever_way_is_better() -> None:
    small, large = scored(ERROR, [1.0, 2.0], mean), scored(ERROR, [2.0, 4.0], mean)
    better = difference(small, large)
    assert better.points == pytest.approx(1.5)
    assert difference(large, small).points == pytest.approx(-1.5)
    assert better.p_first_worse > 0.5 > difference(large, small).p_first_worse


def test_on_the_same_images_what_they_have_in_common_says_nothing() -> None:
    values = np.random.default_rng(0).normal(0.0, 100.0, 200)
    first, second = scored(ERROR, list(values), mean), scored(ERROR, list(values + 0.5), mean)
    found = difference(first, second)
    assert found.interval == pytest.approx((0.5, 0.5))


def test_more_images_decide_as_the_interval_narrows() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0.0, 1.0, 400)
    better = base + rng.normal(0.05, 1.0, 400)
    found = difference(scored(Measure(name="m"), list(better), mean), scored(Measure(name="m"), list(base), mean))
    half = (found.high - found.low) / 2
    needed = found.images_that_decide(found.points - half / 2)
    assert needed == pytest.approx(4 * 400, rel=0.01)
    assert found.images_that_decide(found.points) is None


def test_other_numbers_of_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="2 and 3 images"):
        difference(scored(ERROR, [1.0, 2.0], mean), scored(ERROR, [1.0, 2.0, 3.0], mean))


@pytest.mark.parametrize(("name", "title"), [("top-1", "Top-1"), ("mIoU", "mIoU"), ("recall at 1", "Recall at 1")])
def test_a_name_begins_a_sentence_as_it_is_written(name: str, title: str) -> None:
    assert Measure(name=name).title == title
