"""What is measured on a sample fails only where its interval says so."""

import numpy as np
import pytest

from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries
from limpq_deploy.export.timing.timing_statistics import latency_stats
from limpq_deploy.train.evaluate import Accuracy, PairedComparison, binomial_tail
from limpq_deploy.verdict.checks import judge
from limpq_deploy.verdict.record import AccuracyResult, BitOpsCount, Limits, Verdict

TURNS, CALLS = 30, 20
"""About what 1.5 s of calls of 2.5 ms come to."""


def noisy(name: str, ms: float, generator: np.random.Generator) -> LatencySeries:
    """Calls of one engine on a noisy machine: every turn is 5 % slower or faster than the next, every call 2 %."""
    turns = 1 + 0.05 * generator.standard_normal((TURNS, 1))
    samples = tuple((ms * turns * (1 + 0.02 * generator.standard_normal((TURNS, CALLS)))).ravel().tolist())
    return LatencySeries(
        name=name,
        threads="default",
        batch=1,
        samples_ms=samples,
        turns=(CALLS,) * TURNS,
        warm_up_calls=3,
        settle_calls=5,
        stats=latency_stats(samples, (CALLS,) * TURNS, seed=0),
    )


def bitops(name: str, count: int) -> BitOpsCount:
    return BitOpsCount(
        name=name, nominal_searched=count, nominal_all=count, realised_searched=count, realised_all=count * 10**9
    )


def timed(seed: int, limits: Limits | None = None, **ms: float) -> Verdict:
    generator = np.random.default_rng(seed)
    report = LatencyReport(
        environment=read_environment(()),
        protocols=(LatencyProtocol(),),
        series=tuple(noisy(name, one, generator) for name, one in ms.items()),
    )
    return judge(
        model="m",
        target="onnxruntime",
        budgets=(),
        bitops=(bitops("mixed", 5), bitops("uniform8", 9)),
        limits=limits or Limits(),
        latency=report,
    )


def states(verdict: Verdict) -> dict[str, str]:
    """Every check's state by name."""
    decided = {check.name: "passed" if check.passed else "failed" for check in verdict.checks}
    return {**decided, **{one.name: "undecided" for one in verdict.undecided}}


def test_two_equal_engines_on_a_noisy_machine_are_not_told_apart() -> None:
    found = [states(timed(seed, mixed=2.0, uniform8=2.0))["faster_than_uniform8"] for seed in range(40)]
    assert found.count("undecided") >= 34  # a 95 % interval leaves 1 out once in 20 runs
    assert found.count("failed") <= 3  # and below it once in 40


def test_engines_that_differ_by_more_than_the_noise_pass_or_fail() -> None:
    assert states(timed(0, mixed=1.5, uniform8=2.0))["faster_than_uniform8"] == "passed"
    slower = timed(0, mixed=2.5, uniform8=2.0)
    assert states(slower)["faster_than_uniform8"] == "failed"
    assert slower.outcome == "failed"


@pytest.mark.parametrize(("limit", "state"), [(1.8, "failed"), (2.0, "undecided"), (2.2, "passed")])
def test_a_latency_limit_within_the_interval_is_not_decided(limit: float, state: str) -> None:
    found = timed(1, Limits(max_latency_ms=limit), mixed=2.0, float=4.0)
    assert states(found)["latency"] == state


@pytest.mark.parametrize(("limit", "state"), [(1.8, "passed"), (2.0, "undecided"), (2.2, "failed")])
def test_a_speed_up_within_the_interval_is_not_decided(limit: float, state: str) -> None:
    found = timed(2, Limits(min_speedup=limit), mixed=2.0, float=4.0)
    assert states(found)["speedup"] == state


def test_what_would_decide_is_said_and_grows_with_the_square_of_the_distance() -> None:
    def calls(limit: float) -> float:
        [left] = timed(1, Limits(max_latency_ms=limit), mixed=2.0).undecided
        assert "not decided by these calls" in left.detail
        return float(left.needs.split()[1])

    figure = float(timed(1, Limits(max_latency_ms=2.0), mixed=2.0).undecided[0].detail.split()[1])
    near, far = calls(figure + 0.004), calls(figure + 0.012)
    assert near == pytest.approx(9 * far, rel=0.3)  # rounded to whole numbers, of a figure with three decimals


def evaluated(only_mixed: int, only_float: int, *, images: int = 5000, limit: float = 1.0) -> Verdict:
    both = images // 2

    def accuracy(correct: int) -> Accuracy:
        return Accuracy(images=images, classes=10, correct=correct, top1=100 * correct / images)

    pair = PairedComparison(
        images=images,
        only_first=only_mixed,
        only_second=only_float,
        p_first_worse=binomial_tail(only_float, only_mixed + only_float),
    )
    result = AccuracyResult(float=accuracy(both + only_float), mixed=accuracy(both + only_mixed), against_float=pair)
    return judge(
        model="m",
        target="onnxruntime",
        budgets=(),
        bitops=(),
        limits=Limits(max_accuracy_drop=limit),
        accuracy=result,
    )


@pytest.mark.parametrize(("only_mixed", "only_float"), [(175, 226), (181, 219)])
def test_a_drop_near_the_limit_is_not_decided_on_either_side_of_it(only_mixed: int, only_float: int) -> None:
    """1.02 points below float on one machine and 0.76 on another, with a standard error of 0.4, is one result."""
    found = evaluated(only_mixed, only_float)
    [left] = found.undecided
    assert left.name == "accuracy_against_float"
    assert "95 % interval" in left.detail
    assert "not decided by these images" in left.detail
    assert "images, if the difference stays" in left.needs
    assert (found.outcome, found.passed) == ("undecided", False)


def test_a_drop_beyond_the_interval_fails_and_one_well_within_the_limit_passes() -> None:
    assert states(evaluated(100, 250))["accuracy_against_float"] == "failed"
    assert states(evaluated(100, 110))["accuracy_against_float"] == "passed"
    assert states(evaluated(250, 100))["accuracy_against_float"] == "passed"


def test_few_images_decide_nothing_even_where_the_models_agree_on_all_of_them() -> None:
    assert states(evaluated(0, 0, images=100))["accuracy_against_float"] == "undecided"
    assert states(evaluated(0, 0, images=1000))["accuracy_against_float"] == "passed"


def test_models_that_were_not_compared_image_by_image_are_not_judged_by_their_means() -> None:
    whole = Accuracy(images=100, classes=10, correct=90, top1=90.0)
    less = Accuracy(images=100, classes=10, correct=80, top1=80.0)
    found = judge(
        model="m",
        target="onnxruntime",
        budgets=(),
        bitops=(),
        limits=Limits(),
        accuracy=AccuracyResult(float=whole, mixed=less),
    )
    assert "accuracy_against_float" not in states(found)
    assert "accuracy_against_float" in {one.name for one in found.not_measured}


def test_a_failed_check_beats_one_that_is_not_decided_and_that_beats_what_was_not_measured() -> None:
    open_one = timed(1, Limits(max_latency_ms=2.0), mixed=2.0)
    assert (open_one.outcome, open_one.passed) == ("undecided", False)
    assert open_one.not_measured
    failing = timed(1, Limits(max_latency_ms=2.0), mixed=2.0, uniform8=1.0)
    assert failing.undecided
    assert failing.outcome == "failed"
