"""MobileNetV1 for 224x224 images (Howard et al., MobileNets, 2017): 3x3 depthwise and 1x1 convolutions in turn."""

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Output channels of the 13 blocks."""

HALVING = (1, 3, 5, 11)
"""Blocks that halve the image, from 0."""


def mobilenet_v1(num_classes: int = 1000) -> nn.Module:
    """28 layers, 4.2 M parameters, 569 M multiply-accumulates."""
    return MobileNetV1(num_classes=num_classes)


class MobileNetV1(nn.Module):
    """A strided stem, 13 blocks, a global pool and a linear layer."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        before = (32, *WIDTHS)
        self.blocks = nn.Sequential(
            *(Block(before[i], width, 2 if i in HALVING else 1) for i, width in enumerate(WIDTHS))
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Tensor:
        out = self.blocks(self.relu(self.bn1(self.conv1(images_NCHW))))
        return self.linear(torch.flatten(self.avgpool(out), 1))


class Block(nn.Module):
    """A depthwise 3x3 convolution, one filter for each channel, and a pointwise 1x1 convolution that mixes them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.depthwise(x)))
        return self.relu2(self.bn2(self.pointwise(x)))
