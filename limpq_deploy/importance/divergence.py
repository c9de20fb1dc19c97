"""``kl`` and ``loss``: what one tensor alone at b bits does to the outputs of the jointly trained network."""

from collections.abc import Sequence
from typing import Any

import torch

from limpq_deploy.importance.variants import TensorAt, Variants
from limpq_deploy.model.results import Outputs, tensors_of
from limpq_deploy.progress import tell_part
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.base import Task

Table = dict[tuple[TensorAt, int], float]
"""Importance by tensor and bit-width."""


def add_divergence(
    model: QuantizedModel,
    images_NCHW: torch.Tensor,
    labels: torch.Tensor | None,
    tensors: Sequence[TensorAt],
    bits: Sequence[int],
    *,
    kl: Table,
    loss: Table,
    task: Task,
) -> None:
    """Add one batch's sums over its images to the tables; the model's active widths are the reference, nothing is
    trained.

    kl(t, b)   = sum_images KL(softmax(z) || softmax(z_tb))        z: reference logits, z_tb: with tensor t at b bits
    loss(t, b) = sum_images CE(z_tb, label) - CE(z, label)

    where KL and CE are the task's distance between outputs and what its labels teach. ``labels`` None: there is no
    ``loss``.
    """
    with torch.no_grad():
        variants = Variants(model, images_NCHW)
        reference = _double(variants.outputs)
        before = task.loss_sum(reference, labels).item() if labels is not None else 0.0
        for number, (tensor, width, outputs) in enumerate(variants.each(tensors, bits), 1):
            done = len(tensors) + number  # fisher came before, a unit a tensor
            tell_part(done, len(tensors) * (len(bits) + 1), f"{tensor.name}, {width} bits")
            changed = _double(outputs)
            away = task.divergence(changed, reference).item()
            kl[tensor, width] = kl.get((tensor, width), 0.0) + max(away, 0.0)
            if labels is not None:
                more = task.loss_sum(changed, labels).item() - before
                loss[tensor, width] = loss.get((tensor, width), 0.0) + more


def _double(result: Any) -> Outputs:
    return tuple(output.double() for output in tensors_of(result))
