"""Which class each file gives each image, and the images whose answer is another than float's, small enough to look
at. No torch here."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.train.evaluate import Evaluation
from limpq_deploy.verdict.candidates import CandidateName

SHOWN = 12
"""Images of each direction, at most."""

SIDE = 64
"""Pixels of a picture's longer side, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flipped:
    """An image that one of the two models alone has right. ``image``: its place in the split; ``label``, ``by_float``
    and ``by_mixed``: classes by index; ``png``: the picture in base64, None where pixels cannot be had back."""

    image: int
    label: int
    by_float: int
    by_mixed: int
    png: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Of each image its ``labels`` entry, and each candidate's class, in the data's order; empty for tasks that are not
    classification. ``lost``: images that float alone has right, ``won``: the policy's file alone; of each the first
    `SHOWN`."""

    labels: tuple[int, ...] = ()
    classes: int = 0
    predictions: dict[CandidateName, tuple[int, ...]] = field(default_factory=dict)
    lost: tuple[Flipped, ...] = ()
    won: tuple[Flipped, ...] = ()
    format: Literal["limpq.answers/1"] = field(default="limpq.answers/1")

    def __post_init__(self) -> None:
        """Raises ValueError for answers that are not one for each label, or of no class."""
        if self.labels and not {"float", "mixed"} <= self.predictions.keys():
            raise ValueError("labels stand beside no answers of both float and mixed")
        for name, answers in (("labels", self.labels), *self.predictions.items()):
            if len(answers) != len(self.labels):
                raise ValueError(f"{name} has {len(answers)} answers for {len(self.labels)} labels")
            if answers and not 0 <= min(answers) <= max(answers) < self.classes:
                raise ValueError(f"{name} has {min(answers)} to {max(answers)}, beyond {self.classes} classes")


def answers_of(found: Mapping[CandidateName, object], split: Split) -> Answers:
    """What `evaluate` found of each file on a split; of other tasks nothing."""
    counted = {name: one for name, one in found.items() if isinstance(one, Evaluation)}
    if "float" not in counted or "mixed" not in counted:
        return Answers()
    plain, mixed = counted["float"], counted["mixed"]
    directions = (plain.correct & ~mixed.correct, mixed.correct & ~plain.correct)
    lost, won = (_flipped(np.flatnonzero(one)[:SHOWN], plain, mixed, split) for one in directions)
    return Answers(
        labels=tuple(plain.labels.tolist()),
        classes=plain.accuracy.classes,
        predictions={name: tuple(one.predictions.tolist()) for name, one in counted.items()},
        lost=lost,
        won=won,
    )


def _flipped(places: NDArray[np.int64], plain: Evaluation, mixed: Evaluation, split: Split) -> tuple[Flipped, ...]:
    if not len(places):
        return ()
    images, _ = next(split.subset(places).batches(len(places)))
    try:
        pixels = list(split.preprocess.pixels(images))
    except ValueError:
        pixels = []
    return tuple(
        Flipped(
            image=int(place),
            label=int(plain.labels[place]),
            by_float=int(plain.predictions[place]),
            by_mixed=int(mixed.predictions[place]),
            png=_png(pixels[number]) if pixels else None,
        )
        for number, place in enumerate(places)
    )


def _png(pixels_CHW: NDArray[np.uint8]) -> str | None:
    """A small picture in base64; None where these are no colours."""
    if pixels_CHW.shape[0] not in (1, 3):
        return None
    shown = pixels_CHW[0] if pixels_CHW.shape[0] == 1 else np.moveaxis(pixels_CHW, 0, 2)
    picture = Image.fromarray(np.ascontiguousarray(shown))
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
