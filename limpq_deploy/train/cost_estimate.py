"""How long training would take here, from a network's MACs and a convolution that is timed."""

import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from limpq_deploy.train.settings import finetune_settings, float_settings, joint_settings

IMAGES = 10_000
"""Training images that the estimate is for."""
WIDTHS = 5
"""Candidate bit-widths of a build, 2 to 6: a joint step is a pass for each and one of random widths."""
FORWARD_AND_BACK = 3
"""Passes of the forward's MACs in a step: forward, gradients of inputs, gradients of weights."""
QUANTIZERS = 1.25
"""What fake quantization adds to a step (benchmarks/joint_step.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSeconds:
    """Seconds here for so many ``images``, at the rate of a 3x3 convolution in float32 on ``device``; depthwise layers
    and those with few channels take longer. ``float_model``: only where no weights are given."""

    images: int
    device: str
    gmacs_per_second: float
    float_model: float
    joint: float
    finetune: float


def estimate_training(macs: int, images: int = IMAGES) -> TrainingSeconds:
    """``macs`` of one image's forward."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = _macs_per_second(device)
    step = macs * FORWARD_AND_BACK / rate
    one, joint, fine = float_settings(images), joint_settings(images), finetune_settings(images)
    teacher = macs / rate
    return TrainingSeconds(
        images=images,
        device=device,
        gmacs_per_second=rate / 1e9,
        float_model=one.steps * one.batch_size * step,
        joint=joint.steps * joint.batch_size * ((WIDTHS + 1) * step * QUANTIZERS + teacher),
        finetune=fine.steps * fine.batch_size * (step * QUANTIZERS + teacher),
    )


def _macs_per_second(device: str) -> float:
    """Of the better of two passes over 8 images of 64 channels, 28x28."""
    images = torch.zeros(8, 64, 28, 28, device=device)
    weight = torch.zeros(64, 64, 3, 3, device=device)
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            F.conv2d(images, weight, padding=1)[0, 0, 0, 0].item()
            seconds.append(time.perf_counter() - start)
    return 8 * 28 * 28 * weight.numel() / min(seconds[1:])
