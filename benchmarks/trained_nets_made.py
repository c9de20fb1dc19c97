"""Narrow networks of the libraries' own blocks for CIFAR-10's 32 pixels, and the minutes of training that they get."""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.calibration.batchnorm import batchnorms, reestimate_batchnorm
from limpq_deploy.calibration.datasets import Preprocess, Split
from limpq_deploy.model.zoo.torchvision import import_torchvision

PREPROCESS = Preprocess(height=32, width=32, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
CLASSES, BATCH = 10, 128


def regnet() -> nn.Module:
    """RegNetY: grouped bottlenecks with squeeze and excitation."""
    import_torchvision()
    from torchvision.models.regnet import BlockParams, RegNet

    blocks = BlockParams.from_init_params(depth=8, w_0=24, w_a=16.0, w_m=2.2, group_width=8, se_ratio=0.25)
    return small(RegNet(blocks, num_classes=CLASSES, stem_width=16))


def selecsls() -> nn.Module:
    """SelecSLS: six convolutions in a row, of which four are concatenated, with the stage's skip."""
    import_torchvision()
    from timm.models.selecsls import SelecSls, SelecSlsBlock

    features = [
        (32, 0, 32, 32, True, 1),
        (32, 32, 32, 64, False, 1),
        (64, 0, 48, 48, True, 2),
        (48, 48, 48, 96, False, 1),
        (96, 0, 64, 64, True, 2),
        (64, 64, 64, 128, False, 1),
    ]
    head = [(128, 160, 3, 2), (160, 256, 1, 1)]
    shape = {"block": SelecSlsBlock, "features": features, "head": head, "num_features": 256, "feature_info": []}
    return small(SelecSls(shape, num_classes=CLASSES))


def mnasnet() -> nn.Module:
    """MNASNet at half width: inverted residuals, whose last convolution no ReLU follows."""
    import_torchvision()
    from torchvision.models import MNASNet

    net = MNASNet(0.5, num_classes=CLASSES)
    net.layers[12][0].layers[3].stride = (1, 1)
    for norm in batchnorms(net):
        norm.momentum = 0.1  # its own, 0.0003, is for weeks of training
    return small(net)


def convnext() -> nn.Module:
    """ConvNeXt: 7x7 depthwise convolutions, LayerNorm, GELU, layer scale."""
    import_torchvision()
    from timm.models.convnext import ConvNeXt

    return small(ConvNeXt(num_classes=CLASSES, patch_size=2, depths=(2, 2, 2, 1), dims=(32, 64, 96, 128)))


def vit() -> nn.Module:
    """ViT: 64 patches and a class token, attention, GELU."""
    import_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    return small(VisionTransformer(img_size=32, patch_size=4, num_classes=CLASSES, embed_dim=64, depth=4, num_heads=2))


def small(net: nn.Module) -> nn.Module:
    """A network with the preprocessing of CIFAR-10's images."""
    net.preprocess = PREPROCESS  # type: ignore[assignment]
    return net


NETS: dict[str, tuple[Callable[[], nn.Module], float, int]] = {
    "convnext": (convnext, 4e-3, 10),
    "vit": (vit, 2e-3, 5),
    "regnet": (regnet, 4e-3, 8),
    "selecsls": (selecsls, 4e-3, 2),
    "mnasnet": (mnasnet, 4e-3, 6),
}
"""Each with its highest learning rate and epochs."""


def trained(name: str, train: Split, *, seed: int, epochs: int) -> nn.Module:
    """A net of `NETS` after a plain loop (AdamW, one cycle; mirrored, moved by at most 4 pixels), evaluating."""
    make, lr, _ = NETS[name]
    torch.manual_seed(seed)
    net = make()
    pixels, classes = (torch.from_numpy(array) for array in train.load(np.arange(len(train))))
    order = torch.Generator().manual_seed(seed)
    rounds = max(1, len(pixels) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=rounds * epochs, pct_start=0.2)
    net.train()
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(pixels), generator=order)[: rounds * BATCH].split(BATCH):
            loss = F.cross_entropy(net(_moved(pixels[chosen], order)), classes[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        took = time.perf_counter() - start
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {total / rounds:.3f}, {took:.0f} s", file=sys.stderr)
    if batchnorms(net):
        some = torch.randperm(len(pixels), generator=order)[:4000]
        reestimate_batchnorm(net, [pixels[chosen] for chosen in some.split(200)])
    return net.eval()


def _moved(images_NCHW: Tensor, order: torch.Generator) -> Tensor:
    """All images of a batch moved alike, half of them mirrored."""
    dx, dy = torch.randint(9, (2,), generator=order).tolist()
    moved = F.pad(images_NCHW, (4, 4, 4, 4))[:, :, dy : dy + 32, dx : dx + 32]
    mirrored = torch.rand(len(moved), generator=order) < 0.5
    return torch.where(mirrored[:, None, None, None], moved.flip(3), moved)
