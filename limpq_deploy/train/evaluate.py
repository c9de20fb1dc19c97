"""Top-1 and top-5 of anything that predicts, and whether one model is worse than another on the same images."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import DataError, ModelError
from limpq_deploy.tasks.score import MOST_IMAGES, TOP1, Z95, Measure

TOP5 = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """``top1`` and ``top5`` in percent of ``images``; the counts are exact. Top-5 is None with five classes or fewer,
    where it says nothing."""

    images: int
    classes: int
    correct: int
    top1: float
    correct_top5: int | None = None
    top5: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.images or self.images < 1:
            raise ValueError(f"{self.correct} correct of {self.images} images is no accuracy")

    @property
    def measure(self) -> Measure:
        return TOP1

    @property
    def value(self) -> float:
        return self.top1

    @property
    def shown(self) -> str:
        return TOP1.shown(self.top1)

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of its 95 % interval, in percent."""
        low, high = wilson_interval(self.correct, self.images)
        return 100 * low, 100 * high


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Accuracy with what it was counted from: ``predictions`` and ``labels``, int64 [images], in the data's order."""

    accuracy: Accuracy
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        return self.predictions == self.labels


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two models on the same images.

    ``only_first`` and ``only_second``: images that one alone classifies rightly. ``p_first_worse``: one-sided exact
    binomial (McNemar) probability that the first loses at least so many of the discordant images by chance.
    """

    images: int
    only_first: int
    only_second: int
    p_first_worse: float

    @property
    def points(self) -> float:
        """Top-1 of the first minus the second, in points of percent."""
        return 100 * (self.only_first - self.only_second) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `points`, over images that might have been drawn instead of these."""
        return paired_interval(self.only_first, self.only_second, self.images)

    def images_that_decide(self, limit: float) -> int | None:
        """About how many images leave ``limit`` (points) outside the interval, if the shares of these stay; None where
        no number does."""
        if self.points == limit:
            return None

        def decides(images: int) -> bool:
            more = images / self.images
            low, high = paired_interval(more * self.only_first, more * self.only_second, images)
            return not low <= limit <= high

        least, most = self.images, self.images
        while not decides(most):
            least, most = most, 2 * most
            if most > MOST_IMAGES:
                return None
        while most - least > max(1, most // 100):
            middle = (least + most) // 2
            least, most = (least, middle) if decides(middle) else (middle, most)
        return most


def evaluate(
    predict: Callable[[NDArray[np.float32]], Any],
    batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]],
    *,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run ``predict`` (images NCHW -> logits [N, classes], anything NumPy can read) over batches of (images, labels).

    The first class is the largest logit, the lowest index among equals. ``progress`` gets the number of images done.
    Raises DataError when there are no images or a label is not one of the model's classes; ModelError when the logits
    are not finite or not one row per image.
    """
    predictions: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64]] = []
    top5 = classes = images = 0
    for images_NCHW, batch_labels in batches:
        truth = np.asarray(batch_labels, np.int64)
        logits = np.asarray(predict(images_NCHW))
        _require_logits(logits, len(truth))
        classes = logits.shape[1]
        _require_labels(truth, classes)
        predictions.append(logits.argmax(axis=1).astype(np.int64))
        labels.append(truth)
        top5 += int((_rank(logits, truth) < TOP5).sum())
        images += len(truth)
        if progress is not None:
            progress(images)
    if not images:
        raise DataError("there are no images to evaluate; expected at least one in this split")
    found, truth = np.concatenate(predictions), np.concatenate(labels)
    correct = int((found == truth).sum())
    many = classes > TOP5
    accuracy = Accuracy(
        images=images,
        classes=classes,
        correct=correct,
        top1=100 * correct / images,
        correct_top5=top5 if many else None,
        top5=100 * top5 / images if many else None,
    )
    return Evaluation(accuracy=accuracy, predictions=found, labels=truth)


def compare_paired(first: Evaluation, second: Evaluation) -> PairedComparison:
    """Compare two models image by image. Raises ValueError when they did not see the same images."""
    if not np.array_equal(first.labels, second.labels):
        raise ValueError("the two evaluations have different labels; compare models on the same images")
    return compare_hits(first.correct, second.correct)


def compare_hits(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedComparison:
    """Compare two models by which images each has right."""
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    return PairedComparison(
        images=len(first),
        only_first=only_first,
        only_second=only_second,
        p_first_worse=binomial_tail(only_second, only_first + only_second),
    )


def paired_interval(only_first: float, only_second: float, images: int) -> tuple[float, float]:
    """95 % interval of the first model's top-1 minus the second's on the same images, in points of percent.

    With p1, p2 = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2), n images:
    p1 - p2 -+ z sqrt((p1 + p2 - (p1 - p2)^2) / (n + 2))   (the adjusted Wald interval of Bonett and Price, 2012)

    It is never of width 0: models that agree on every image may still differ on the next.
    """
    first, second = (only_first + 1) / (images + 2), (only_second + 1) / (images + 2)
    half = Z95 * math.sqrt((first + second - (first - second) ** 2) / (images + 2))
    return 100 * (first - second - half), 100 * (first - second + half)


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson, 1927), as shares of 1.

    centre = (p + z^2/2n) / (1 + z^2/n);  half = z / (1 + z^2/n) * sqrt(p (1-p) / n + z^2 / 4n^2)
    """
    p, n, z2 = correct / images, images, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def binomial_tail(successes: int, trials: int) -> float:
    """P(X >= successes) for X ~ Binomial(trials, 1/2), summed in exact integers."""
    term, tail = math.comb(trials, successes), 0
    for k in range(successes, trials + 1):
        tail += term
        term = term * (trials - k) // (k + 1)
    return tail / 2**trials


def _rank(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes stand before the label's; equal logits are ordered by index."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return ((logits > own) | before).sum(axis=1)


def _require_logits(logits: NDArray[Any], images: int) -> None:
    if logits.ndim != 2 or len(logits) != images:
        raise ModelError(
            f"the model gave logits of shape {list(logits.shape)} for {images} images; expected one row each"
        )
    if not np.isfinite(logits).all():
        raise ModelError("the model gave logits that are not finite; its weights or scales are damaged")


def _require_labels(labels: NDArray[np.int64], classes: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        wrong = labels.max() if labels.max() >= classes else labels.min()
        raise DataError(
            f"an image has label {wrong}, but the model has {classes} classes (0 to {classes - 1}); "
            "give data of the same classes, or map its folders with --classes"
        )
