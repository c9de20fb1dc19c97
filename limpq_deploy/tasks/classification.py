"""One label a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import DataError, ModelError
from limpq_deploy.tasks.base import Arrays, Task
from limpq_deploy.tasks.score import TOP1

if TYPE_CHECKING:
    import torch

    from limpq_deploy.model.results import Outputs


class Classification(Task):
    """Logits [N, classes] and labels [N]; the figure is top-1."""

    name = "classification"
    measure = TOP1
    labels_teach = True
    one_label = True

    def require_data(self, dataset: DataSet, split: Split) -> None:
        if not dataset.one_label:
            raise DataError(
                f"data set {dataset.name!r} has no class for each image and the task is classification; give labelled "
                "data, or --task none to judge by the float model alone"
            )

    def loss(self, outputs: Outputs, targets: Any, *, label_smoothing: float = 0.0) -> torch.Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(_logits(outputs), targets, label_smoothing=label_smoothing)

    def loss_sum(self, outputs: Outputs, targets: Any) -> torch.Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(_logits(outputs), targets, reduction="sum")

    def distances(self, outputs: Outputs, reference: Outputs, *, temperature: float = 1.0) -> torch.Tensor:
        """``T^2 KL(softmax(reference / T) || softmax(outputs / T))``."""
        from torch.nn import functional as F

        student, target = _log_softmax(outputs, reference, temperature)
        return F.kl_div(student, target, reduction="none", log_target=True).sum(1) * temperature**2

    def teach(self, outputs: Outputs, reference: Outputs, *, temperature: float = 1.0) -> torch.Tensor:
        from torch.nn import functional as F

        student, target = _log_softmax(outputs, reference, temperature)
        return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2

    def divergence(self, outputs: Outputs, reference: Outputs) -> torch.Tensor:
        from torch.nn import functional as F

        student, target = _log_softmax(outputs, reference, 1.0)
        return F.kl_div(student, target, reduction="sum", log_target=True)

    def drawn_loss(self, outputs: Outputs, generator: torch.Generator) -> torch.Tensor:
        """``-log p[y]``, y drawn from the outputs' own p: its squared gradient is Fisher's information."""
        import torch
        from torch.nn import functional as F

        log_p = F.log_softmax(_logits(outputs), dim=1)
        drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(log_p.device)
        return -log_p.gather(1, drawn).sum()

    def correct(self, outputs: Outputs, targets: Any) -> torch.Tensor | None:
        right: torch.Tensor = (_logits(outputs).detach().argmax(1) == targets).sum()
        return right

    def statistics(self, outputs: Arrays, targets: Any) -> Sequence[Any]:
        return list(outputs[0].argmax(axis=1) == targets)

    def figure(self, statistics: Sequence[Any]) -> float:
        return 100 * sum(statistics) / len(statistics)


CLASSIFICATION = Classification()


def _logits(outputs: Outputs) -> torch.Tensor:
    if len(outputs) != 1:
        raise ModelError(
            f"the model gives {len(outputs)} tensors and the task is classification; expected one tensor of logits, "
            "name the task with --task"
        )
    return outputs[0]


def _log_softmax(outputs: Outputs, reference: Outputs, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    from torch.nn import functional as F

    student, teacher = _logits(outputs), _logits(reference)
    target = F.log_softmax(teacher.to(student.dtype) / temperature, dim=1)
    return F.log_softmax(student / temperature, dim=1), target
