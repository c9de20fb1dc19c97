"""What a pass over a batch is taught: labels, or the outputs of a teacher as well."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from limpq_deploy.model.results import mapped, tensors_of
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import CLASSIFICATION

Loss = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""(what the model gives, targets, images_NCHW) -> a 0-d loss, the mean over the images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and backward pass of a training step.

    ``choose`` settles bit-widths and is called right before the forward pass. ``loss`` None: what the task's labels
    teach, with the label smoothing of the settings. ``name``: for logs, such as ``4`` or ``random``.
    """

    name: str = "loss"
    choose: Callable[[], None] = lambda: None
    loss: Loss | None = None


class Teacher:
    """Outputs that teach a batch, found once however many passes learn from them.

    ``model``: a network in evaluation mode that stays as it is, asked on the first pass over a batch (distillation from
    a float model). None: somebody calls `put` in an earlier pass over the same batch, such as that of the highest
    bit-width (in-place distillation; Yu and Huang, Universally Slimmable Networks, ICCV 2019).
    """

    def __init__(self, model: Callable[[torch.Tensor], Any] | None = None) -> None:
        self._model = model
        self._outputs = WeakTensorKeyDictionary()  # forgets a batch with its images

    def put(self, images_NCHW: torch.Tensor, outputs: Any) -> None:
        """Teach this batch with these outputs; their gradient is cut."""
        self._outputs[images_NCHW] = mapped(outputs, torch.Tensor.detach)

    def outputs(self, images_NCHW: torch.Tensor) -> Any:
        """The teacher's outputs for a batch (this tensor, not its equal), without gradient."""
        if images_NCHW not in self._outputs:
            assert self._model is not None, "the pass that teaches comes before those that learn"
            with torch.no_grad():
                self.put(images_NCHW, self._model(images_NCHW))
        return self._outputs[images_NCHW]


def cross_entropy(label_smoothing: float) -> Loss:
    """The labels of images alone teach."""
    return taught_by_labels(CLASSIFICATION, label_smoothing)


def taught_by_labels(task: Task, label_smoothing: float) -> Loss:
    """A task's labels alone teach."""

    def loss(outputs: Any, targets: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        return task.loss(tensors_of(outputs), targets, label_smoothing=label_smoothing)

    return loss


def teaching(teacher: Teacher, own: Loss) -> Loss:
    """``own``, after which the outputs of this pass teach the passes that follow in the step."""

    def loss(outputs: Any, targets: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        teacher.put(images_NCHW, outputs)
        return own(outputs, targets, images_NCHW)

    return loss


def distilled(teacher: Teacher, own: Loss, *, weight: float, temperature: float, task: Task = CLASSIFICATION) -> Loss:
    """``weight * distance to the teacher's outputs + (1 - weight) * own``, mean over the images.

    The distance is the task's; of classes ``T^2 * KL(softmax(teacher / T) || softmax(logits / T))``: T^2 keeps the size
    of the gradients whatever the temperature T (Hinton et al., Distilling the Knowledge in a Neural Network, 2015).
    With ``weight`` 1 labels play no part.
    """

    def loss(outputs: Any, targets: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        wanted = tensors_of(teacher.outputs(images_NCHW))
        divergence = task.teach(tensors_of(outputs), wanted, temperature=temperature)
        if weight == 1:
            return divergence
        return weight * divergence + (1 - weight) * own(outputs, targets, images_NCHW)

    return loss
