"""A vector for every image, near those of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import DataError, ModelError
from limpq_deploy.tasks.base import Arrays, Task, rows
from limpq_deploy.tasks.score import Measure

if TYPE_CHECKING:
    import torch

    from limpq_deploy.model.results import Outputs


class Embedding(Task):
    """Vectors [N, D] in the first output, labels [N]; the figure is recall at 1: for how many images that have another
    of their label, the nearest other image (by cosine) has it. Distances are ``1 - cosine``."""

    name = "embedding"
    measure = Measure(name="recall at 1")

    def require_data(self, dataset: DataSet, split: Split) -> None:
        if split.labelled and not dataset.one_label:
            raise DataError(
                f"data set {dataset.name!r} has no label for each image and the task is embedding; give labelled data, "
                "or --task none for the cosine with the float model"
            )

    def distances(self, outputs: Outputs, reference: Outputs, *, temperature: float = 1.0) -> torch.Tensor:
        import torch
        from torch.nn import functional as F

        pairs = zip(outputs, reference, strict=True)
        each = [1 - F.cosine_similarity(rows(one), rows(other.to(one.dtype))) for one, other in pairs]
        return torch.stack(each).mean(0).clamp_min(0)

    def drawn_loss(self, outputs: Outputs, generator: torch.Generator) -> torch.Tensor:
        """``e . o / |o|``, e normal and across o: a change along a vector moves no angle."""
        import torch

        total = outputs[0].new_zeros(())
        for one in outputs:
            flat = rows(one)
            size = flat.detach().norm(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
            unit = flat.detach() / size
            noise = torch.randn(flat.shape, generator=generator, dtype=flat.dtype).to(flat.device)
            across = noise - (noise * unit).sum(1, keepdim=True) * unit
            total = total + (across * flat / size).sum() / len(outputs) ** 0.5
        return total

    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        vectors = outputs[0]
        if vectors.ndim != 2:
            raise ModelError(
                f"the model's first output has shape {list(vectors.shape)} and the task is embedding; expected vectors "
                "[N, D]: flatten them in the forward"
            )
        sizes = np.linalg.norm(vectors, axis=1, keepdims=True)
        return list(zip(vectors / np.maximum(sizes, np.finfo(np.float32).tiny), targets, strict=True))

    def figure(self, statistics: Sequence[Any]) -> float:
        vectors = np.stack([vector for vector, _ in statistics])
        labels = np.array([label for _, label in statistics])
        counts = np.bincount(labels - labels.min())[labels - labels.min()]
        near = np.empty(len(labels), np.int64)
        for start in range(0, len(labels), 1024):
            likeness = vectors[start : start + 1024] @ vectors.T
            rows = np.arange(len(likeness))
            likeness[rows, start + rows] = -np.inf
            near[start : start + 1024] = likeness.argmax(1)
        asked = counts > 1
        return 100 * float((labels[near] == labels)[asked].mean()) if asked.any() else 0.0
