"""torchvision and timm: every use of torchvision goes through this module, which repairs its import.

A torchvision built for CUDA, beside a torch for CPUs, fails at import because two of its compiled operators are not
there. Models, transforms and datasets do not need them: with their schemas defined, they work. Compiled operators and
`torchvision.io` stay unusable then (images are read with Pillow here).
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    from torch import nn

MISSING_OPERATOR = "operator torchvision::nms does not exist"
SCHEMAS = ("nms", "qnms")
SCHEMA = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
RENORMALISED = ("googlenet", "inception_v3")
"""Models whose published weights want mean and deviation 0.5: torchvision's normalise their input again, with weights
(``transform_input``); the models made here do not."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_repairs: list[Any] = []
"""Operator libraries of the repair: torch forgets the schemas when they are collected."""


def import_torchvision() -> ModuleType:
    """torchvision, repaired where its import fails for want of compiled operators, and only then.

    Raises MissingExtra where it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "models named torchvision/... need torchvision, which is not installed; "
            "run: pip install 'limpq-deploy[train]'"
        ) from error
    except RuntimeError as error:
        if MISSING_OPERATOR not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in SCHEMAS:
        library.define(SCHEMA.format(name=name))
    _repairs.append(library)
    return importlib.import_module("torchvision")


def torchvision_preprocess(name: str) -> Preprocess:
    """How torchvision's published weights of a model take images. Raises ModelError for an unknown name."""
    models = import_torchvision_models()
    _require_known(name, models.list_models(module=models), "torchvision")
    transforms = torchvision_weights(name).transforms()
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if name in RENORMALISED:
        mean = std = (0.5, 0.5, 0.5)
    return Preprocess(height=crop, width=crop, resize=resize, mean=mean, std=std)


def torchvision_weights(name: str) -> Any:
    """The first of torchvision's published weights of a model, of those for the smallest images: a fresh ``vit_h_14``
    takes 224 pixels, as its second ones do."""
    published = list(import_torchvision_models().get_model_weights(name))
    return min(published, key=lambda weights: weights.meta["min_size"])


def torchvision_model(name: str, num_classes: int) -> "nn.Module":
    """A torchvision classifier with fresh weights."""
    models = import_torchvision_models()
    _require_known(name, models.list_models(module=models), "torchvision")
    extra = {"aux_logits": False, "init_weights": True} if name in RENORMALISED else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **extra)
    return model


def timm_preprocess(name: str) -> Preprocess:
    """How timm's weights of a model take images. Raises ModelError for an unknown name."""
    timm = import_timm()
    _require_known(name, timm.list_models(), "timm")
    found = timm.get_pretrained_cfg(name).to_dict()
    _, height, width = found.get("input_size", (3, 224, 224))
    return Preprocess(
        height=height,
        width=width,
        resize=round(min(height, width) / found.get("crop_pct", 0.875)),
        mean=tuple(found.get("mean", IMAGENET_MEAN)),
        std=tuple(found.get("std", IMAGENET_STD)),
    )


def timm_model(name: str, num_classes: int) -> "nn.Module":
    """A timm classifier with fresh weights."""
    timm = import_timm()
    _require_known(name, timm.list_models(), "timm")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return model


def import_torchvision_models() -> Any:
    """torchvision's models."""
    import_torchvision()
    return importlib.import_module("torchvision.models")


def import_timm() -> Any:
    """timm. Raises MissingExtra where it is not installed."""
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "models named timm/... need timm, which is not installed; run: pip install 'limpq-deploy[timm]'"
        ) from error


def _require_known(name: str, known: list[str], library: str) -> None:
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(f'{library}/{match}' for match in near)}?" if near else ""
        raise ModelError(f"{library} has no model {name!r}{hint}")
