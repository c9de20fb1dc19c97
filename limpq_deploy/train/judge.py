"""Who judges outputs: a task, by its labels where there are some, else by the float model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.model.results import tensors_of
from limpq_deploy.tasks.agreement import LOGITS_BY_FLOAT
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import CLASSIFICATION

if TYPE_CHECKING:
    from limpq_deploy.model.results import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """``task`` judges images with labels, ``without_labels`` those that have none, by ``reference``: the float model in
    evaluation mode, which stays as it is (None: there are labels everywhere)."""

    task: Task = CLASSIFICATION
    without_labels: Task = LOGITS_BY_FLOAT
    reference: nn.Module | None = None

    def beside(self, reference: nn.Module) -> Judge:
        """The same judge, with a float model."""
        return replace(self, reference=reference)

    def of(self, split: Split) -> Task:
        """Which of the two tasks judges the images of a split."""
        return self.task if split.labelled else self.without_labels

    def targets(self, split: Split, images_NCHW: torch.Tensor, targets: Any) -> Any:
        """What outputs for a batch are held against: its labels on the images' device, or the float model's outputs."""
        if not self.of(split).judges_by_float:
            return torch.as_tensor(targets).to(images_NCHW.device)
        return self.by_float(images_NCHW)

    def by_float(self, images_NCHW: torch.Tensor) -> Outputs:
        """The float model's outputs."""
        assert self.reference is not None, "images without labels are judged beside a float model"
        with torch.no_grad():
            return tensors_of(self.reference.to(images_NCHW.device)(images_NCHW))


CLASSES = Judge()
"""Judges top-1 by labels."""
