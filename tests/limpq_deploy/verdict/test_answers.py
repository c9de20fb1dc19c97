"""Answers of every file: which images flip, in both directions, with pictures that can be looked at."""

import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limpq_deploy.calibration.datasets import Preprocess, Split
from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.records import from_json, to_dict
from limpq_deploy.tasks.score import TOP1, Score, Scored
from limpq_deploy.train.evaluate import Accuracy, Evaluation
from limpq_deploy.verdict.answers import SHOWN, SIDE, Answers, answers_of


def evaluation(predictions: list[int], labels: list[int]) -> Evaluation:
    correct = sum(one == other for one, other in zip(predictions, labels, strict=True))
    accuracy = Accuracy(images=len(labels), classes=3, correct=correct, top1=100 * correct / len(labels))
    return Evaluation(accuracy=accuracy, predictions=np.array(predictions), labels=np.array(labels))


def split_of(labels: list[int], *, size: int = 8, channels: int = 3) -> Split:
    """Images whose pixels are all their index."""
    preprocess = Preprocess(channels=channels, height=size, width=size, mean=(0.5,) * channels, std=(0.25,) * channels)
    return Split(labels=labels, read=lambda at: np.full((size, size, channels), at, np.uint8), preprocess=preprocess)


def test_both_directions_are_told_apart_and_wrong_both_times_is_neither() -> None:
    labels = [0, 1, 2, 0, 1]
    found = answers_of(
        {"float": evaluation([0, 1, 0, 0, 2], labels), "mixed": evaluation([1, 1, 2, 0, 0], labels)}, split_of(labels)
    )
    assert [(one.image, one.label, one.by_float, one.by_mixed) for one in found.lost] == [(0, 0, 0, 1)]
    assert [(one.image, one.label, one.by_float, one.by_mixed) for one in found.won] == [(2, 2, 0, 2)]
    assert found.labels == tuple(labels)
    assert found.predictions == {"float": (0, 1, 0, 0, 2), "mixed": (1, 1, 2, 0, 0)}


def test_pictures_show_the_pixels_and_are_small() -> None:
    labels = [0, 1]
    for channels, size in ((3, 8), (1, 8), (3, 200)):
        answers = {"float": evaluation([0, 1], labels), "mixed": evaluation([0, 2], labels)}
        [flipped] = answers_of(answers, split_of(labels, size=size, channels=channels)).lost  # type: ignore[arg-type]
        assert flipped.png is not None
        picture = Image.open(io.BytesIO(base64.b64decode(flipped.png)))
        assert picture.size == (min(size, SIDE),) * 2
        assert np.asarray(picture).reshape(-1, channels)[0].tolist() == [1] * channels  # the second image


def test_only_the_first_images_of_each_direction_are_kept() -> None:
    labels = [0] * 40
    answers = {"float": evaluation([0] * 40, labels), "mixed": evaluation([1] * 40, labels)}
    found = answers_of(answers, split_of(labels))  # type: ignore[arg-type]
    assert len(found.lost) == SHOWN
    assert not found.won


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"predictions": {"float": (0, 1), "mixed": (0,)}}, "mixed has 1 answers for 2 labels"),
        ({"predictions": {"float": (0, 1)}}, "no answers of both float and mixed"),
        ({"predictions": {"float": (0, 1), "mixed": (0, 3)}}, "mixed has 0 to 3, beyond 3 classes"),
        ({"labels": (0, -1)}, "labels has -1 to 0, beyond 3 classes"),
    ],
)
def test_answers_that_do_not_fit_their_labels_are_refused(change: dict[str, Any], words: str) -> None:
    found = Answers(labels=(0, 1), classes=3, predictions={"float": (0, 1), "mixed": (0, 2)})
    with pytest.raises(ValueError, match=words):
        replace(found, **change)
    broken = {**to_dict(found), **change}
    with pytest.raises(RecordError, match=words):
        from_json(Answers, json.dumps(broken), "answers.json")


def test_other_tasks_have_no_answers() -> None:
    score = Scored(accuracy=Score(measure=TOP1, images=1, value=0.0, low=0.0, high=0.0), left_out=())
    assert answers_of({"float": score, "mixed": score}, split_of([0])) == Answers()
