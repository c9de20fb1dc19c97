"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets import IGNORED, DataSet, Split
from limpq_deploy.calibration.errors import DataError, ModelError
from limpq_deploy.tasks.base import Arrays, Task
from limpq_deploy.tasks.score import Measure

if TYPE_CHECKING:
    import torch

    from limpq_deploy.model.results import Outputs


class Segmentation(Task):
    """Logits [N, classes, h, w] in the first output, masks [N, H, W] of class indices, `IGNORED` where nobody knows.

    The figure is mIoU: the mean, over the classes that occur, of true pixels / (true + missed + wrong pixels), counted
    over all images. Logits of another size are spread to the masks' (their nearest pixel).
    """

    name = "segmentation"
    measure = Measure(name="mIoU")
    labels_teach = True

    def require_data(self, dataset: DataSet, split: Split) -> None:
        masks = split.load(np.arange(1))[1]
        if split.labelled and masks.ndim != 3:
            raise DataError(
                f"data set {dataset.name!r} has no masks and the task is segmentation; give masks:PATH, or a data set "
                "of your own whose targets are masks [N, H, W]"
            )

    def loss(self, outputs: Outputs, targets: Any, *, label_smoothing: float = 0.0) -> torch.Tensor:
        from torch.nn import functional as F

        spread = F.interpolate(_logits(outputs), size=targets.shape[1:], mode="nearest")
        loss = F.cross_entropy(
            spread, targets.long(), ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="none"
        )
        return loss.flatten(1).mean(1).mean()

    def distances(self, outputs: Outputs, reference: Outputs, *, temperature: float = 1.0) -> torch.Tensor:
        """``T^2 KL(softmax(reference / T) || softmax(outputs / T))``, mean over the pixels of all outputs."""
        from torch.nn import functional as F

        total = outputs[0].new_zeros(len(outputs[0]))
        for one, other in zip(outputs, reference, strict=True):
            student, target = F.log_softmax(one / temperature, 1), F.log_softmax(other.to(one.dtype) / temperature, 1)
            away = F.kl_div(student, target, reduction="none", log_target=True).sum(1)
            total = total + away.flatten(1).mean(1) * temperature**2
        return total / len(outputs)

    def drawn_loss(self, outputs: Outputs, generator: torch.Generator) -> torch.Tensor:
        """``-log p[y] / sqrt(pixels)``, y drawn for every pixel."""
        import torch
        from torch.nn import functional as F

        total = outputs[0].new_zeros(())
        for one in outputs:
            log_p = F.log_softmax(one.flatten(2), 1).transpose(1, 2)
            flat = log_p.reshape(-1, log_p.shape[2])
            drawn = torch.multinomial(flat.detach().exp().cpu(), 1, generator=generator).to(flat.device)
            total = total - flat.gather(1, drawn).sum() / (log_p.shape[1] * len(outputs)) ** 0.5
        return total

    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        """Of each image and class [classes, 2]: pixels that are of it in both, and in either."""
        logits = outputs[0]
        if logits.ndim != 4 or logits.shape[1] < 2:
            raise ModelError(_shape(logits.shape))
        found, truth = _spread(logits.argmax(1), targets.shape[1:]), np.asarray(targets)
        classes, known = logits.shape[1], truth != IGNORED
        if known.any() and truth[known].max() >= classes:
            raise DataError(
                f"a mask has class {truth[known].max()}, and the model has {classes} classes (0 to {classes - 1}); "
                f"give masks of the same classes, {IGNORED} where nothing is known"
            )
        return [
            _overlap(one[where], other[where], classes) for one, other, where in zip(found, truth, known, strict=True)
        ]

    def figure(self, statistics: Sequence[Any]) -> float:
        return 100 * float(np.mean(_of_classes(statistics)))

    def details(self, statistics: Sequence[Any]) -> dict[str, float]:
        return {"worst_class_iou": 100 * float(np.min(_of_classes(statistics)))}


def _of_classes(statistics: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """IoU of the classes that occur."""
    both, either = np.sum(np.stack(statistics), axis=0).T
    there = either > 0
    return both[there] / either[there] if there.any() else np.zeros(1)


def _overlap(found: NDArray[np.integer], truth: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    both = np.bincount(truth[found == truth], minlength=classes)
    return np.stack([both, np.bincount(found, minlength=classes) + np.bincount(truth, minlength=classes) - both], 1)


def _spread(found: NDArray[np.integer], size: tuple[int, ...]) -> NDArray[np.integer]:
    rows, columns = (np.arange(wide) * have // wide for wide, have in zip(size, found.shape[1:], strict=True))
    return found[:, rows[:, None], columns]


def _logits(outputs: Outputs) -> torch.Tensor:
    if outputs[0].dim() != 4 or outputs[0].shape[1] < 2:
        raise ModelError(_shape(tuple(outputs[0].shape)))
    return outputs[0]


def _shape(shape: tuple[int, ...]) -> str:
    return (
        f"the model's first output has shape {list(shape)} and the task is segmentation; expected logits "
        "[N, classes, h, w] of at least two classes"
    )
