"""``kl`` and ``loss``: what one tensor alone at b bits does to the logits of the jointly trained network."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from limpq_deploy.importance.variants import TensorAt, Variants
from limpq_deploy.quant.quantized_model import QuantizedModel

Table = dict[tuple[TensorAt, int], float]
"""Importance by tensor and bit-width."""


def add_divergence(
    model: QuantizedModel,
    images_NCHW: torch.Tensor,
    labels: torch.Tensor,
    tensors: Sequence[TensorAt],
    bits: Sequence[int],
    *,
    kl: Table,
    loss: Table,
) -> None:
    """Add one batch's sums over its images to the tables; the model's active widths are the reference, nothing is
    trained.

    kl(t, b)   = sum_images KL(softmax(z) || softmax(z_tb))        z: reference logits, z_tb: with tensor t at b bits
    loss(t, b) = sum_images CE(z_tb, label) - CE(z, label)
    """
    with torch.no_grad():
        variants = Variants(model, images_NCHW)
        reference = F.log_softmax(variants.logits.double(), dim=1)
        before = F.nll_loss(reference, labels, reduction="sum").item()
        for tensor in tensors:
            for width in bits:
                changed = F.log_softmax(variants.logits_with(tensor, width).double(), dim=1)
                away = F.kl_div(changed, reference, reduction="sum", log_target=True).item()
                more = F.nll_loss(changed, labels, reduction="sum").item() - before
                kl[tensor, width] = kl.get((tensor, width), 0.0) + max(away, 0.0)
                loss[tensor, width] = loss.get((tensor, width), 0.0) + more
