"""Small networks for CIFAR-10's 32 pixels whose layers differ (depthwise beside pointwise convolutions), and ResNet-20."""

from typing import Any

import torch
from torch import Tensor, nn
from trained_nets_made import CLASSES, small

from limpq_deploy.model.zoo import create_model
from limpq_deploy.model.zoo.torchvision import import_torchvision


class MobileNet(nn.Module):
    """MobileNetV2 of torchvision's own blocks, 32 pixels, a stem of stride 2: 17 blocks become 7."""

    SHAPES = (
        *((16, 16, 1, 1), (16, 24, 6, 1), (24, 24, 6, 1), (24, 32, 6, 2)),
        *((32, 32, 6, 1), (32, 48, 6, 2), (48, 48, 6, 1)),
    )
    """Channels in and out, expansion, stride of each block."""

    def __init__(self) -> None:
        super().__init__()
        import_torchvision()
        from torchvision.models.mobilenetv2 import InvertedResidual
        from torchvision.ops.misc import Conv2dNormActivation

        def plain(channels: int, out: int, kernel: int, stride: int) -> nn.Module:
            return Conv2dNormActivation(
                channels, out, kernel_size=kernel, stride=stride, norm_layer=nn.BatchNorm2d, activation_layer=nn.ReLU6
            )

        blocks = [InvertedResidual(i, o, stride, expand) for i, o, expand, stride in self.SHAPES]
        self.features = nn.Sequential(plain(3, 16, 3, 2), *blocks, plain(48, 160, 1, 1))
        self.classifier = nn.Linear(160, CLASSES)

    def forward(self, images_NCHW: Tensor) -> Any:
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(images_NCHW), 1), 1))


def mobilenet() -> nn.Module:
    """MobileNetV2-like, ReLU6."""
    return small(MobileNet())


def efficientnet() -> nn.Module:
    """EfficientNet of torchvision's own blocks: squeeze-and-excitation, SiLU, 3x3 and 5x5 depthwise convolutions."""
    import_torchvision()
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    shapes = [
        MBConvConfig(1, 3, 1, 16, 16, 1, 1.0, 1.0),
        MBConvConfig(4, 3, 1, 16, 24, 2, 1.0, 1.0),
        MBConvConfig(4, 5, 2, 24, 32, 2, 1.0, 1.0),
        MBConvConfig(4, 3, 2, 32, 48, 2, 1.0, 1.0),
    ]
    return small(EfficientNet(shapes, dropout=0.0, stochastic_depth_prob=0.0, num_classes=CLASSES, last_channel=160))


def convnext() -> nn.Module:
    """ConvNeXt of torchvision's own blocks: 7x7 depthwise convolutions, LayerNorm, GELU; a stem of 2x2 in place of 4x4."""
    import_torchvision()
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    blocks = [CNBlockConfig(24, 48, 2), CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 2)]
    net = ConvNeXt(blocks, stochastic_depth_prob=0.0, layer_scale=1.0, num_classes=CLASSES)
    net.features[0][0] = nn.Conv2d(3, 24, 2, 2)
    return small(net)


def resnet20() -> nn.Module:
    """ResNet-20 from fresh weights: the network whose layers hardly differ, here with images it has not seen."""
    return small(create_model("resnet20", CLASSES)[0])


NETS = {"mobilenet": mobilenet, "efficientnet": efficientnet, "convnext": convnext, "resnet20": resnet20}
EPOCHS = {"mobilenet": 30, "efficientnet": 25, "convnext": 30, "resnet20": 25}
