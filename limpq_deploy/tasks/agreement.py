"""No labels: the float model is the judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.tasks.base import Arrays, Task
from limpq_deploy.tasks.classification import Classification
from limpq_deploy.tasks.score import Measure

if TYPE_CHECKING:
    import torch

    from limpq_deploy.model.results import Outputs

NO_LABELS = (
    "the task none has no labels to learn from; give --weights of a trained network (or --pretrained), and leave "
    "training.distill at 1 and training.inplace_distill away"
)

EVEN_DB = 200.0
"""What a signal-to-noise ratio is called beyond which float32 tells nothing apart."""


class _ByFloat(Task):
    """``targets`` are the float model's outputs."""

    name = "none"
    judges_by_float = True

    def loss(self, outputs: Outputs, targets: Any, *, label_smoothing: float = 0.0) -> torch.Tensor:
        raise SettingError(NO_LABELS)

    def details(self, statistics: Sequence[Any]) -> dict[str, float]:
        """Mean cosine, and signal-to-noise ratio in dB, of all outputs with the float model's."""
        return {
            "cosine": float(np.mean([one.cosine for one in statistics])),
            "sqnr_db": _decibels(sum(one.signal for one in statistics), sum(one.noise for one in statistics)),
        }


class Compared:
    """One image's outputs beside the float model's: ``same_class``, ``cosine``, squares of ``signal`` and ``noise``,
    mean over the outputs, each in units of its own size."""

    __slots__ = ("cosine", "noise", "same_class", "signal")

    def __init__(self, *, same_class: bool, cosine: float, signal: float, noise: float) -> None:
        self.same_class, self.cosine, self.signal, self.noise = same_class, cosine, signal, noise


class LikeOutputs(_ByFloat):
    """Any outputs: the figure is their cosine with the float model's, in percent."""

    measure = Measure(name="cosine with float")

    def loss_sum(self, outputs: Outputs, targets: Any) -> torch.Tensor:
        return self.divergence(outputs, targets)

    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        return compared(outputs, targets, classes=False)

    def figure(self, statistics: Sequence[Any]) -> float:
        return 100 * float(np.mean([one.cosine for one in statistics]))


class SameClass(_ByFloat, Classification):
    """One tensor of logits: the figure is on how many images the first class is the float model's."""

    name = "none"
    measure = Measure(name="top-1 agreement")
    labels_teach = False
    one_label = False

    def require_data(self, dataset: DataSet, split: Split) -> None:
        """Any images will do."""

    def loss_sum(self, outputs: Outputs, targets: Any) -> torch.Tensor:
        return self.divergence(outputs, targets)

    def correct(self, outputs: Outputs, targets: Any) -> torch.Tensor | None:
        return None

    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        return compared(outputs, targets, classes=True)

    def hits(self, statistics: Sequence[Any]) -> Sequence[bool]:
        return [one.same_class for one in statistics]

    def figure(self, statistics: Sequence[Any]) -> float:
        return 100 * sum(one.same_class for one in statistics) / len(statistics)


LOGITS_BY_FLOAT = SameClass()


def by_float(shapes: Sequence[tuple[int, ...]]) -> Task:
    """The task ``none`` for outputs of these shapes, N first."""
    logits = len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] > 1
    return LOGITS_BY_FLOAT if logits else LikeOutputs()


def compared(outputs: Arrays, reference: Arrays, *, classes: bool) -> list[Compared]:
    """Every image's outputs beside the reference's."""
    found = []
    for index in range(len(outputs[0])):
        pairs = [(_flat(one[index]), _flat(other[index])) for one, other in zip(outputs, reference, strict=True)]
        same = classes and outputs[0][index].argmax() == reference[0][index].argmax()
        found.append(
            Compared(
                same_class=bool(same),
                cosine=float(np.mean([cosine(one, other) for one, other in pairs])),
                signal=1.0,
                noise=float(np.mean([_noise(one, other) for one, other in pairs])),
            )
        )
    return found


def cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """1 for two vectors of zeros, 0 for one."""
    sizes = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if 0.0 in sizes:
        return float(sizes[0] == sizes[1])
    return float(one @ other) / (sizes[0] * sizes[1])


def _noise(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    off, size = float(np.square(one - other).sum()), float(np.square(other).sum())
    return 0.0 if off == 0 else off / max(size, np.finfo(np.float64).tiny)


def _flat(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return values.reshape(-1).astype(np.float64)


def _decibels(signal: float, noise: float) -> float:
    return EVEN_DB if noise <= signal * 10 ** (-EVEN_DB / 10) else 10 * math.log10(signal / noise)
