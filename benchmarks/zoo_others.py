"""torchvision's networks that are no classifiers, with fresh weights, as factories without arguments: segmentation,
and the bodies and heads of detectors (decoding and NMS are no network)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from limpq_deploy.calibration.datasets import Preprocess
from limpq_deploy.model.zoo.torchvision import import_torchvision_models

SIZE = {"ssdlite320_mobilenet_v3_large": 320, "ssd300_vgg16": 300}
SEGMENTATION = (*("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large"),)
DETECTION = (
    *("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn", *SIZE),
    *("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn"),
)


class Heads(nn.Module):
    """A detector's backbone with its dense heads: raw outputs by name."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head if hasattr(detector, "head") else detector.rpn.head

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))


def _segmentation(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = import_torchvision_models()
        return _for(getattr(models.segmentation, name)(weights=None, weights_backbone=None, num_classes=21), 256)

    return make


def _detection(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = import_torchvision_models()
        detector = getattr(models.detection, name)(weights=None, weights_backbone=None, num_classes=21)
        return _for(Heads(detector), SIZE.get(name, 256))

    return make


def _for(module: nn.Module, side: int) -> nn.Module:
    module.preprocess = Preprocess(  # type: ignore[assignment]
        height=side, width=side, resize=side, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    return module


OTHERS = {
    **{name: _segmentation(name) for name in SEGMENTATION},
    **{name: _detection(name) for name in DETECTION},
}
globals().update(OTHERS)
