"""Each task's figure by hand, and what its distance and its drawn loss promise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

import torch
from torch import Tensor

from limpq_deploy.calibration.datasets import IGNORED
from limpq_deploy.calibration.errors import DataError, ModelError, SettingError
from limpq_deploy.tasks.agreement import LikeOutputs, SameClass, by_float
from limpq_deploy.tasks.base import Arrays, Task
from limpq_deploy.tasks.classification import Classification
from limpq_deploy.tasks.embedding import Embedding
from limpq_deploy.tasks.segmentation import Segmentation


class Own(Task):
    """What a user writes at least."""

    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        return list(np.square(outputs[0]).mean((1, 2)))

    def figure(self, statistics: Sequence[Any]) -> float:
        return float(np.mean(statistics))


SHAPES: dict[str, tuple[Task, tuple[tuple[int, ...], ...]]] = {
    "classes": (Classification(), ((4, 5),)),
    "pixels": (Segmentation(), ((4, 3, 2, 2),)),
    "vectors": (Embedding(), ((4, 6),)),
    "anything": (LikeOutputs(), ((4, 3), (4, 2, 2, 2))),
    "a number": (Own(), ((4, 3, 2), (4,))),
}


def some(shapes: tuple[tuple[int, ...], ...], seed: int) -> tuple[Tensor, ...]:
    drawn = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=drawn, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_distance_is_zero_for_the_same_outputs_and_counts_each_image_alone(kind: str) -> None:
    task, shapes = SHAPES[kind]
    outputs, reference = some(shapes, 0), some(shapes, 1)
    assert task.distances(reference, reference).abs().max() < 1e-12
    each = task.distances(outputs, reference)
    assert each.shape == (4,)
    assert (each > 0).all()
    alone = task.distances(tuple(one[2:3] for one in outputs), tuple(one[2:3] for one in reference))
    assert alone.item() == pytest.approx(each[2].item())
    assert task.teach(outputs, reference).item() == pytest.approx(each.mean().item())
    assert task.divergence(outputs, reference).item() == pytest.approx(each.sum().item())


@pytest.mark.parametrize("kind", SHAPES)
def test_squares_of_drawn_gradients_are_twice_the_distance_of_a_small_change(kind: str) -> None:
    task, shapes = SHAPES[kind]
    reference = some(shapes, 1)
    change = tuple(1e-3 * one for one in some(shapes, 2))
    away = task.distances(tuple(r + c for r, c in zip(reference, change, strict=True)), reference)
    generator, draws = torch.Generator().manual_seed(0), 4000
    total = torch.zeros(4, dtype=torch.float64)
    for _ in range(draws):
        outputs = tuple(one.clone().requires_grad_() for one in reference)
        gradients = torch.autograd.grad(task.drawn_loss(outputs, generator), outputs)
        product = sum((g * c).reshape(4, -1).sum(1) for g, c in zip(gradients, change, strict=True))
        assert isinstance(product, Tensor)
        total += product.square()
    assert (total / draws / 2 / away).tolist() == pytest.approx([1.0] * 4, rel=0.15)  # draws: about 3 % of spread


def test_miou_counts_pixels_over_all_images_and_leaves_unknown_ones_out() -> None:
    logits = np.zeros((2, 3, 2, 2), np.float32)
    found = np.array([[[0, 1], [1, 1]], [[0, 0], [1, 1]]])
    for image, row, column in np.ndindex(2, 2, 2):
        logits[image, found[image, row, column], row, column] = 1
    masks = np.array([[[0, 1], [0, 1]], [[0, 0], [IGNORED, 1]]])
    task = Segmentation()
    statistics = task.statistics((logits,), masks)
    # class 0: 3 of 4 pixels that either names; class 1: 3 of 4; class 2 does not occur
    assert task.figure(statistics) == pytest.approx(75.0)
    assert task.figure(statistics[1:]) == pytest.approx(100.0)


def test_coarse_logits_are_spread_to_the_masks() -> None:
    logits = np.zeros((1, 2, 1, 2), np.float32)
    logits[0, 1, 0, 1] = 1
    masks = np.array([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    task = Segmentation()
    assert task.figure(task.statistics((logits,), masks)) == 100.0
    loss = task.loss((torch.from_numpy(logits),), torch.from_numpy(masks))
    assert loss.item() == pytest.approx((np.log(2) + np.log(1 + np.exp(-1))) / 2)


def test_a_mask_of_a_class_that_the_model_does_not_have_is_told() -> None:
    with pytest.raises(DataError, match="class 2, and the model has 2 classes"):
        Segmentation().statistics((np.zeros((1, 2, 1, 1), np.float32),), np.array([[[2]]]))
    with pytest.raises(ModelError, match=r"shape \[1, 2\] .* expected logits"):
        Segmentation().statistics((np.zeros((1, 2), np.float32),), np.array([[[0]]]))


def test_recall_at_1_asks_those_that_have_another_of_their_label() -> None:
    vectors = np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 1], [-1, 0]], np.float32)
    task = Embedding()
    assert task.figure(task.statistics((vectors,), np.array([0, 0, 1, 1, 2]))) == 100.0
    assert task.figure(task.statistics((vectors,), np.array([0, 1, 1, 1, 2]))) == pytest.approx(200 / 3)
    assert task.figure(task.statistics((vectors,), np.arange(5))) == 0.0


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (((1, 10),), SameClass),
        (((1, 1),), LikeOutputs),
        (((1, 4, 8, 8),), LikeOutputs),
        (((1, 10), (1, 4)), LikeOutputs),
    ],
)
def test_without_labels_logits_are_judged_by_their_class_and_all_else_by_its_likeness(
    shapes: tuple[tuple[int, ...], ...], kind: type[Task]
) -> None:
    assert type(by_float(shapes)) is kind


def test_likeness_is_the_cosine_and_its_details_a_ratio_in_decibels() -> None:
    reference = (np.array([[3.0, 4.0]], np.float32),)
    task = LikeOutputs()
    same = task.statistics(reference, reference)
    assert task.figure(same) == pytest.approx(100.0)
    off = task.statistics((np.array([[3.3, 4.4]], np.float32),), reference)
    assert task.figure(off) == pytest.approx(100.0)  # only its length differs
    assert task.details(off)["sqnr_db"] == pytest.approx(20.0, abs=1e-4)


def test_labels_teach_nothing_where_there_are_none() -> None:
    for task in (SameClass(), LikeOutputs()):
        with pytest.raises(SettingError, match="no labels to learn from; give --weights"):
            task.loss((torch.zeros(1, 2),), torch.zeros(1))
