"""ResNet-20, 32, 44 and 56 for 32x32 images (He et al., CVPR 2016, section 4.2), with option-A shortcuts.

The parameter names are those of the widely used checkpoints: conv1, bn1, layerS.B.conv1, ..., linear.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resnet20(num_classes: int = 10) -> nn.Module:
    """20 layers, 0.27 M parameters, 40.6 M multiply-accumulates."""
    return CifarResNet(blocks=3, num_classes=num_classes)


def resnet32(num_classes: int = 10) -> nn.Module:
    """32 layers, 0.46 M parameters."""
    return CifarResNet(blocks=5, num_classes=num_classes)


def resnet44(num_classes: int = 10) -> nn.Module:
    """44 layers, 0.66 M parameters."""
    return CifarResNet(blocks=7, num_classes=num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """56 layers, 0.85 M parameters."""
    return CifarResNet(blocks=9, num_classes=num_classes)


class CifarResNet(nn.Module):
    """Three stages of ``blocks`` basic blocks with 16, 32 and 64 channels; 6 * blocks + 2 layers."""

    def __init__(self, *, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, 16, 16)
        self.layer2 = _stage(blocks, 16, 32)
        self.layer3 = _stage(blocks, 32, 64)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(images_NCHW)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(torch.flatten(self.avgpool(out), 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters; the first halves the image where channels grow."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        stride = 1 if in_channels == channels else 2
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = None if stride == 1 else PadShortcut(channels - in_channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + (x if self.shortcut is None else self.shortcut(x)))


class PadShortcut(nn.Module):
    """Option A: every second pixel, and channels of zeros, half of them before and half behind."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.behind = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))


def _stage(blocks: int, in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, channels), *(BasicBlock(channels, channels) for _ in range(blocks - 1))
    )
