"""Re-estimate BatchNorm statistics after weights or bit-widths changed."""

from collections.abc import Iterable

import torch
from torch import nn


def reestimate_batchnorm(model: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Replace running statistics by the plain average over ``batches`` of images_NCHW; returns the number of images.

    Every module with ``running_mean`` and ``momentum`` counts as BatchNorm. The rest of the model stays in evaluation
    mode; all modes and momenta are put back.
    """
    norms = [module for module in model.modules() if hasattr(module, "running_mean") and hasattr(module, "momentum")]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    images = 0
    try:
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for count, batch in enumerate(batches, start=1):
                for norm in norms:
                    norm.momentum = 1 / count
                model(batch)
                images += len(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return images
