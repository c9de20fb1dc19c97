"""A policy's accuracy without fine-tuning: the network of all widths at its bits, BatchNorm estimated anew."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import fsum

import torch

from limpq_deploy.calibration.batchnorm import batchnorms
from limpq_deploy.calibration.datasets import Split
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.score import TOP1, Measure
from limpq_deploy.train.accuracy import judged_with_losses, settle_batchnorm
from limpq_deploy.train.device import on_device
from limpq_deploy.train.judge import CLASSES, Judge

BATCHNORM_IMAGES = 2000
"""Training images that give BatchNorm its statistics, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Of a policy on ``images`` images: ``top1`` in percent, or the figure that ``measure`` names, and ``loss``, the
    mean cross-entropy or distance to the float model's outputs, which tells near policies apart sooner than counting
    does. ``batchnorm_images`` gave the statistics (0: they are the network's own). ``losses``: of each image, in the
    data's order, by which previews are compared in pairs. ``low`` and ``high``: ends of the figure's 95 % interval,
    where it was asked for."""

    top1: float
    loss: float
    images: int
    batchnorm_images: int
    losses: tuple[float, ...] = field(default=(), repr=False)
    measure: Measure = TOP1
    low: float | None = None
    high: float | None = None


def preview(
    joint: QuantizedModel,
    policy: Mapping[str, BitPair],
    *,
    train: Split,
    held: Split,
    batchnorm_images: int = BATCHNORM_IMAGES,
    seed: int = 0,
    judge: Judge = CLASSES,
    interval: bool = False,
    trained: bool = True,
) -> Preview:
    """Preview of one policy; the joint model's BatchNorm statistics and modes are put back, its widths are not.

    ``train`` gives the statistics, ``held`` (images that joint training has not seen) is classified. Seconds where
    fine-tuning takes minutes or days; what fine-tuning would repair, it cannot know. ``interval``: of the figure too.
    ``trained`` False: the network has ranges alone, and the float model's statistics, which stay where they measure
    better, as in the calibration that follows: variances that few images make up shrink where quantizers cut those.
    """
    with on_device(joint, judge.reference), _statistics_kept(joint):
        joint.set_bits(policy)
        own = None
        if not trained and batchnorms(joint):
            own = judged_with_losses(joint, held, judge, interval=interval)
        settled = settle_batchnorm(joint, train, images=min(batchnorm_images, len(train)), seed=seed)
        found, losses = judged_with_losses(joint, held, judge, interval=interval)
        if own is not None and fsum(own[1]) <= fsum(losses):
            settled, (found, losses) = 0, own
    low, high = found.accuracy.interval if interval else (None, None)
    return Preview(
        top1=found.accuracy.value,
        loss=fsum(losses) / len(losses),
        images=len(held),
        batchnorm_images=settled,
        losses=losses,
        measure=judge.of(held).measure,
        low=low,
        high=high,
    )


@contextlib.contextmanager
def _statistics_kept(model: QuantizedModel) -> Iterator[None]:
    norms = batchnorms(model)
    kept = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for norm, (mean, var) in zip(norms, kept, strict=True):
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(var)
        for module, training in modes:
            module.training = training
