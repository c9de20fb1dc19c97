"""What a pass over a batch is taught: labels, or the logits of a teacher as well."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits_NC, labels_N, images_NCHW) -> a 0-d loss, the mean over the images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and backward pass of a training step.

    ``choose`` settles bit-widths and is called right before the forward pass. ``loss`` None: cross entropy with the
    label smoothing of the settings. ``name``: for logs, such as ``4`` or ``random``.
    """

    name: str = "loss"
    choose: Callable[[], None] = lambda: None
    loss: Loss | None = None


class Teacher:
    """Logits that teach a batch, found once however many passes learn from them.

    ``model``: a network in evaluation mode that stays as it is, asked on the first pass over a batch (distillation from
    a float model). None: somebody calls `put` in an earlier pass over the same batch, such as that of the highest
    bit-width (in-place distillation; Yu and Huang, Universally Slimmable Networks, ICCV 2019).
    """

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self._model = model
        self._logits = WeakTensorKeyDictionary()  # forgets a batch with its images

    def put(self, images_NCHW: torch.Tensor, logits: torch.Tensor) -> None:
        """Teach this batch with these logits; their gradient is cut."""
        self._logits[images_NCHW] = logits.detach()

    def logits(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """The teacher's logits for a batch (this tensor, not its equal), without gradient."""
        if images_NCHW not in self._logits:
            assert self._model is not None, "the pass that teaches comes before those that learn"
            with torch.no_grad():
                self.put(images_NCHW, self._model(images_NCHW))
        logits: torch.Tensor = self._logits[images_NCHW]
        return logits


def cross_entropy(label_smoothing: float) -> Loss:
    """Labels alone teach."""

    def loss(logits: torch.Tensor, labels: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return loss


def teaching(teacher: Teacher, own: Loss) -> Loss:
    """``own``, after which the logits of this pass teach the passes that follow in the step."""

    def loss(logits: torch.Tensor, labels: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        teacher.put(images_NCHW, logits)
        return own(logits, labels, images_NCHW)

    return loss


def distilled(teacher: Teacher, own: Loss, *, weight: float, temperature: float) -> Loss:
    """``weight * T^2 * KL(softmax(teacher / T) || softmax(logits / T)) + (1 - weight) * own``, mean over the images.

    T^2 keeps the size of the gradients whatever the temperature T (Hinton et al., Distilling the Knowledge in a Neural
    Network, 2015). With ``weight`` 1 labels play no part.
    """

    def loss(logits: torch.Tensor, labels: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        target = F.log_softmax(teacher.logits(images_NCHW).to(logits.dtype) / temperature, dim=1)
        student = F.log_softmax(logits / temperature, dim=1)
        divergence = F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2
        if weight == 1:
            return divergence
        return weight * divergence + (1 - weight) * own(logits, labels, images_NCHW)

    return loss
