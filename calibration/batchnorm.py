"""Re-estimate BatchNorm statistics after weights or bit-widths changed."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def reestimate_batchnorm(model: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Replace running statistics by those of ``batches`` of images_NCHW; returns the number of images.

    They become the average of the batches' means and (unbiased) variances, each weighted with its number of images.
    One image alone has no variance where a BatchNorm reads vectors: a batch of one is passed over.
    The rest of the model stays in evaluation mode; all modes and momenta are put back.
    """
    norms = batchnorms(model)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    images = 0
    try:
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for batch in batches:
                if len(batch) == 1:
                    continue
                images += len(batch)
                for norm in norms:
                    norm.momentum = len(batch) / images
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return images


def batchnorms(model: nn.Module) -> list[Any]:
    """Every module with ``running_mean`` and ``momentum`` counts as BatchNorm; one that keeps no statistics (most
    InstanceNorms) has None there."""
    return [
        module
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None and hasattr(module, "momentum")
    ]
