"""What every task is: four questions to a network's outputs.

``outputs`` and ``reference`` are tuples of tensors [N, ...] in the order in which the network's forward returns them;
``targets`` is what the data set gives for these N images (`Split.load`), as a tensor in training and as an array in
`statistics`. A task that `judges_by_float` has no targets: there they are the float model's outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.tasks.score import TOP1, Measure

if TYPE_CHECKING:
    import torch

    from limpq_deploy.model.results import Outputs

Arrays = tuple[NDArray[np.float32], ...]


class Task(ABC):
    """A task of the user's own derives from this, and says at least `measure`, `statistics` and `figure`.

    What it does not say: distillation and importance go by the relative squared distance of the outputs, and labels
    teach nothing.
    """

    name = "task"
    measure = Measure(name="figure")
    judges_by_float = False
    """Whether the figure is one of agreement with the float model, so that no labels are needed."""
    labels_teach = False
    """Whether `loss` is there, so that labels can train and judge a policy's preview."""
    one_label = False
    """Whether labels are the classes of images, as many as the network has logits."""

    @property
    def named(self) -> Measure | None:
        """What a record says of its figures: the measure, None for top-1."""
        return self.measure if self.measure != TOP1 else None

    def require_data(self, dataset: DataSet, split: Split) -> None:  # noqa: B027 - most tasks ask for nothing more
        """Raise DataError where a split does not hold what the task asks for."""

    def loss(self, outputs: Outputs, targets: Any, *, label_smoothing: float = 0.0) -> torch.Tensor:
        """What labels teach: the mean over the images, 0-d."""
        raise SettingError(
            f"the task {self.name} learns nothing from labels; give --weights of a trained network, and leave "
            "training.distill at 1"
        )

    def loss_sum(self, outputs: Outputs, targets: Any) -> torch.Tensor:
        """The same, without smoothing, added up over the images."""
        return self.loss(outputs, targets) * len(outputs[0])

    def distances(self, outputs: Outputs, reference: Outputs, *, temperature: float = 1.0) -> torch.Tensor:
        """How far each image's outputs are from the reference's [N]; 0 for the same outputs, never below."""
        import torch

        each = [_relative(one, other) for one, other in zip(outputs, reference, strict=True)]
        return torch.stack(each).mean(0)

    def teach(self, outputs: Outputs, reference: Outputs, *, temperature: float = 1.0) -> torch.Tensor:
        """What a teacher's outputs teach: the mean over the images, 0-d."""
        return self.distances(outputs, reference, temperature=temperature).mean()

    def divergence(self, outputs: Outputs, reference: Outputs) -> torch.Tensor:
        """The distance as a measure of importance, added up over the images."""
        return self.distances(outputs, reference).sum()

    def drawn_loss(self, outputs: Outputs, generator: torch.Generator) -> torch.Tensor:
        """A sum over the images whose gradient g, drawn anew for every image, has ``E[(g . d)^2]`` twice the second
        order of `distances` for a small change d of the outputs.

        Here ``e . o / sqrt(|r|^2 / 2)``, e normal: outputs with Gaussian noise.
        """
        import torch

        total = outputs[0].new_zeros(())
        for one in outputs:
            flat = rows(one)
            noise = torch.randn(flat.shape, generator=generator, dtype=flat.dtype).to(flat.device)
            scale = (flat.detach().square().sum(1).clamp_min(torch.finfo(flat.dtype).tiny) * len(outputs) / 2).sqrt()
            total = total + ((noise * flat).sum(1) / scale).sum()
        return total

    def correct(self, outputs: Outputs, targets: Any) -> torch.Tensor | None:
        """How many images of a batch are right, 0-d; None where that is no question."""
        return None

    @abstractmethod
    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        """What is kept of every image to make a figure of."""

    def hits(self, statistics: Sequence[Any]) -> Sequence[bool]:
        """Whether each image is right, where the figure is their share; empty otherwise."""
        return ()

    @abstractmethod
    def figure(self, statistics: Sequence[Any]) -> float:
        """The figure of any images, in the measure's unit."""

    def details(self, statistics: Sequence[Any]) -> dict[str, float]:
        """Further figures of all images, by name."""
        return {}


def rows(output: torch.Tensor) -> torch.Tensor:
    """All numbers of each image [N, numbers], one number an image [N] among them."""
    return output.reshape(len(output), -1)


def _relative(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``|one - other|^2 / |other|^2`` of every image: the inverse of the signal-to-noise ratio."""
    import torch

    first, second = rows(one), rows(other.to(one.dtype))
    tiny = torch.finfo(first.dtype).tiny
    return (first - second).square().sum(1) / second.square().sum(1).clamp_min(tiny)
