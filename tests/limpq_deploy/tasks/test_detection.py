"""Boxes: what the user's function gives, and COCO's mAP of it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pycocotools", reason="needs the extra limpq-deploy[detection]")

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.tasks.detection import Detection, open_detection

TRUE = np.array(
    [[[0, 0, 10, 10, 0, 0], [20, 20, 30, 40, 1, 0]], [[5, 5, 15, 15, 1, 0], [0, 0, 0, 0, -1, 0]]], np.float32
)


def found_as_true(shift: float = 0.0) -> list[NDArray[np.float64]]:
    boxes = []
    for image in TRUE.astype(np.float64):
        real = image[image[:, 4] >= 0]
        corners = real[:, :4] + [shift, 0, shift, 0]
        boxes.append(np.concatenate([corners, np.full((len(real), 1), 0.9), real[:, 4:5]], axis=1))
    return boxes


def score(boxes: list[NDArray[np.float64]]) -> tuple[float, float]:
    task = Detection(lambda outputs: boxes, "mine:decode")
    statistics = task.statistics((np.zeros((2, 1), np.float32),), TRUE)
    return task.figure(statistics), task.details(statistics)["mAP_50"]


def test_boxes_that_are_the_true_ones_have_all_of_it() -> None:
    assert score(found_as_true()) == (100.0, 100.0)


def test_boxes_that_lie_beside_lose_the_strict_thresholds_only() -> None:
    # shifted by 2 of 10 pixels: IoU 8 / 12, above 0.50 to 0.65, four of ten thresholds
    figure, at_half = score(found_as_true(2.0))
    assert at_half == pytest.approx(100.0)
    assert figure == pytest.approx(40.0)


def test_nothing_found_is_nothing() -> None:
    assert score([np.zeros((0, 6)), np.zeros((0, 6))]) == (0.0, 0.0)


def test_a_wrong_result_of_the_users_function_is_told() -> None:
    with pytest.raises(SettingError, match=r"'mine:decode' gave a ndarray for 2 images"):
        Detection(lambda outputs: np.zeros((2, 6)), "mine:decode").statistics((), TRUE)  # type: ignore[arg-type, return-value]
    with pytest.raises(SettingError, match=r"boxes of shape \[3, 5\]; expected finite numbers \[boxes, 6\]"):
        Detection(lambda outputs: [np.zeros((3, 5))] * 2, "mine:decode").statistics((), TRUE)


def test_the_name_is_of_the_function_or_of_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_boxes.py").write_text(
        "def decode(outputs):\n    return [outputs[0]]\n\ndef make():\n    return decode\n\ndef bad():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    given = np.array([[0, 0, 10, 10, 0.5, 0]], np.float64)
    for name in ("own_boxes:decode", "own_boxes:make"):
        [matches] = open_detection(name).statistics((given,), TRUE[:1])  # type: ignore[arg-type]
        assert matches[0]["dtScores"] == [0.5]
    with pytest.raises(SettingError, match="returned a int; expected a function"):
        open_detection("own_boxes:bad")


def test_images_that_are_matched_batch_by_batch_count_as_at_once_and_classes_without_true_boxes_do_not() -> None:
    boxes = found_as_true(2.0)
    boxes[0] = np.concatenate([boxes[0], [[0, 0, 5, 5, 0.95, 7]]])
    task = Detection(lambda outputs: [boxes[int(index)] for index in outputs[0][:, 0]], "mine:decode")
    numbers = np.arange(2, dtype=np.float32)[:, None]
    at_once = task.statistics((numbers,), TRUE)
    in_turn = [one for at in (0, 1) for one in task.statistics((numbers[at : at + 1],), TRUE[at : at + 1])]
    assert task.figure(in_turn) == task.figure(at_once) == pytest.approx(40.0)
