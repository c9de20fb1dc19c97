"""Model families: a new one is one file and one line of `MODELS`. The table is read without torch."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.datasets.cifar10 import PREPROCESS as CIFAR_PREPROCESS
from limpq_deploy.calibration.datasets.digits import PREPROCESS as DIGITS_PREPROCESS
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import MissingExtra, ModelError
from limpq_deploy.calibration.factories import call_factory, is_factory_name, load_factory
from limpq_deploy.calibration.suggestions import did_you_mean
from limpq_deploy.model.names import BUILT_IN, FORMS, LIBRARIES

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a model before it is made.

    ``num_classes``: outputs; None for a user's model, whose traced graph tells them. ``preprocess``: how its input is
    made from an image; None where a user's model does not say, then the data set's own is used. ``factory``:
    ``module:function`` of the function that makes it.
    """

    name: str
    num_classes: int | None
    preprocess: Preprocess | None
    factory: str


IMAGENET_PREPROCESS = Preprocess(
    height=224, width=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def _builtin(name: str, module: str, preprocess: Preprocess, num_classes: int = 10) -> ModelInfo:
    factory = f"limpq_deploy.model.zoo.{module}:{name}"
    return ModelInfo(name=name, num_classes=num_classes, preprocess=preprocess, factory=factory)


MODELS = {
    "resnet8": _builtin("resnet8", "resnet8", DIGITS_PREPROCESS),
    "resnet20": _builtin("resnet20", "resnet_cifar", CIFAR_PREPROCESS),
    "resnet32": _builtin("resnet32", "resnet_cifar", CIFAR_PREPROCESS),
    "resnet44": _builtin("resnet44", "resnet_cifar", CIFAR_PREPROCESS),
    "resnet56": _builtin("resnet56", "resnet_cifar", CIFAR_PREPROCESS),
    "mobilenet_v1": _builtin("mobilenet_v1", "mobilenet_v1", IMAGENET_PREPROCESS, 1000),
}

assert tuple(MODELS) == BUILT_IN, "model/names.py lists the built-in models for those who read no table"


def known_info(name: str) -> ModelInfo | None:
    """What is known of a model by its name alone: of the built-in ones and of the libraries' (1000 classes, and the
    preprocessing of the published weights); None for a user's factory. Raises ModelError for a name that the library
    does not know, MissingExtra where the library is not installed."""
    if name in MODELS or not in_library(name):
        return MODELS.get(name)
    from limpq_deploy.model.zoo import torchvision

    library, _, model = name.partition("/")
    preprocess = torchvision.timm_preprocess if library == "timm" else torchvision.torchvision_preprocess
    factory = f"limpq_deploy.model.zoo.torchvision:{library}_model"
    return ModelInfo(name=name, num_classes=1000, preprocess=preprocess(model), factory=factory)


def create_model(name: str, num_classes: int | None = None) -> tuple[nn.Module, ModelInfo]:
    """A model with fresh weights (torch's global generator seeds them), and what is known of it.

    ``num_classes`` changes the number of outputs of a built-in model and of ``torchvision/NAME`` and ``timm/NAME``.
    ``package.module:factory`` is a function of the user's without arguments that returns an nn.Module; the module may
    carry a ``preprocess`` (a `Preprocess`). ModelError where that is not what it returns.
    """
    if name not in MODELS and not in_library(name) and not is_factory_name(name):
        meant = [":".join(name.rsplit(".", 1))] if _is_dotted(name) else []
        hint = f"; did you mean {meant[0]!r}?" if meant else did_you_mean(name, MODELS)
        raise ModelError(f"unknown model {name!r}; expected {FORMS} (which may return a model of any library){hint}")
    try:
        import torch  # noqa: F401  its absence is another error than a broken module of the user's
    except ImportError as error:
        raise MissingExtra(
            "models are made with torch, which is not installed; run: pip install 'limpq-deploy[train]'"
        ) from error
    info = known_info(name)
    if info is None:
        return _custom(name)
    if num_classes is not None:
        info = replace(info, num_classes=num_classes)
    module, _, function = info.factory.partition(":")
    make = getattr(importlib.import_module(module), function)
    named = (name.partition("/")[2],) if in_library(name) else ()
    return make(*named, num_classes=info.num_classes), info


def _custom(name: str) -> tuple[nn.Module, ModelInfo]:
    from torch import nn

    from limpq_deploy.model.given_model import settings_kept, unwrap

    with settings_kept():
        factory = load_factory(name, ModelError)
    needed = _needed_arguments(factory)
    if needed:
        raise ModelError(
            f"{name!r} cannot be called without {', '.join(needed)}; expected a function without arguments: write one "
            "that fills them in"
        )
    with settings_kept():
        model = call_factory(name, factory, ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} returned a {type(model).__name__}; expected a torch.nn.Module")
    model = unwrap(model)
    preprocess = getattr(model, "preprocess", None)
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise ModelError(
            f"the model of {name!r} has a 'preprocess' of type {type(preprocess).__name__}; expected a "
            "limpq_deploy.calibration.datasets.Preprocess"
        )
    return model, ModelInfo(name=name, num_classes=None, preprocess=preprocess, factory=name)


def in_library(name: str) -> bool:
    """Whether torchvision or timm makes the model."""
    return name.partition("/")[0] in LIBRARIES and "/" in name


def _is_dotted(name: str) -> bool:
    return "." in name and all(part.isidentifier() for part in name.split("."))


def _needed_arguments(factory: Callable[..., Any]) -> list[str]:
    """Names of the arguments without a default; none where Python cannot tell."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
