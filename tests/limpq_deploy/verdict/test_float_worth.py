"""A float model that is of no use is told as such, in the verdict's first note and wherever notes are shown."""

import pytest

from limpq_deploy.tasks.score import Measure, Score
from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.verdict.checks import judge
from limpq_deploy.verdict.float_worth import float_notes
from limpq_deploy.verdict.record import AccuracyResult, Limits


def result(top1: float, classes: int) -> AccuracyResult:
    found = Accuracy(images=1000, classes=classes, correct=round(10 * top1), top1=top1)
    return AccuracyResult(float=found, mixed=found)


@pytest.mark.parametrize(
    ("top1", "classes", "useless"),
    [
        (19.5, 10, True),
        (29.9, 10, True),
        (30.0, 10, False),
        (0.2, 1000, True),
        (0.3, 1000, False),
        (51.0, 2, True),
        (62.5, 2, False),  # three times 50 % is none
        (90.0, 2, False),
        (100.0, 1, False),
    ],
)
def test_less_than_three_times_chance_is_of_no_use(top1: float, classes: int, useless: bool) -> None:
    notes = float_notes(result(top1, classes))
    assert len(notes) == useless
    if useless:
        shown = f"{top1:.2f} % of the test images where guessing gives {100 / classes:.4g} %: "
        assert notes[0].startswith(f"The float model itself is right on {shown}")


def test_other_tasks_and_builds_without_accuracy_have_no_chance_to_beat() -> None:
    score = Score(measure=Measure(name="mIoU"), images=10, value=1.0, low=0.0, high=2.0)
    assert float_notes(AccuracyResult(float=score, mixed=score)) == float_notes(None) == ()


def test_it_is_the_verdicts_first_note() -> None:
    found = judge(
        model="net", target="onnxruntime", budgets=(), bitops=(), limits=Limits(), accuracy=result(19.5, 10),
        notes=("Another one.",),
    )  # fmt: skip
    assert found.notes[:2] == (*float_notes(result(19.5, 10)), "Another one.")
