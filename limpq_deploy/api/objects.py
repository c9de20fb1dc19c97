"""Models and data as the caller holds them, under names that a configuration can keep."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet, Preprocess
from limpq_deploy.calibration.datasets.items import dataset_of
from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.calibration.in_memory import Given, keep_given
from limpq_deploy.model.given_model import copied


def model_name(
    model: Any, *, name: str | None = None, preprocess: Preprocess | None = None, trained: bool = True
) -> str | None:
    """The name of a model for a configuration: a string (or None) as it is, else that under which the module is kept.

    The module itself is not touched: every use makes a copy, which carries its weights and ``preprocess``. Raises
    SettingError for what says something of a module where none is given.
    """
    if model is None or isinstance(model, str):
        said = {"name": name is not None, "preprocess": preprocess is not None, "trained": not trained}
        idle = [key for key, given in said.items() if given]
        if idle:
            raise SettingError(
                f"{' and '.join(idle)} {'is' if len(idle) == 1 else 'are'} of a module, and model is {model!r}; give "
                f"the module itself, or leave {'it' if len(idle) == 1 else 'them'} away"
            )
        return model
    made = model() if callable(model) and not isinstance(model, nn.Module) else model
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"model is a {type(model).__name__}; expected an nn.Module, a function that makes one, or a name such as "
            "torchvision/resnet18"
        )

    def make() -> nn.Module:
        fresh = copied(made)
        if preprocess is not None:
            fresh.preprocess = preprocess  # type: ignore[assignment]
        return fresh

    given = Given(make=make, digest=_digest(made, preprocess), trained=trained)
    return keep_given(name or type(made).__name__, given)


def data_name(data: Any, *, model: Any, classes: Sequence[str] | None = None) -> str:
    """The name of data for a configuration: a string as it is, else that under which they are kept."""
    if isinstance(data, str):
        return data

    def make(preprocess: Preprocess | None) -> DataSet:
        if isinstance(data, DataSet):
            return data
        return dataset_of(data, preprocess, classes=classes, outputs=_outputs(model, data, preprocess))

    name = type(getattr(data, "dataset", data)).__name__
    return keep_given(name, Given(make=make, digest=name))


def _digest(module: nn.Module, preprocess: Preprocess | None) -> str:
    """Of a module's values and structure."""
    digest = hashlib.sha256(f"{type(module).__qualname__} {module!r} {preprocess!r}".encode())
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def _outputs(model: Any, data: Any, preprocess: Preprocess | None) -> int | None:
    """How many logits a module gives for the first image; None where it is not one row of them."""
    if not isinstance(model, nn.Module):
        return None
    split = next(iter(dataset_of(data, preprocess).splits.values()))
    image, _ = split.load(split.order(None)[:1])
    try:
        with torch.no_grad():
            found = copied(model).eval().cpu()(torch.from_numpy(image))
    except Exception:  # tracing tells what it is, with its line
        return None
    return int(found.shape[1]) if isinstance(found, torch.Tensor) and found.ndim == 2 else None


def give_again(model: Any, data: Any) -> None:
    """Keep the objects that a build of another process was made of, under the names that it recorded."""
    if model is not None:
        model_name(model)
    if data is not None:
        data_name(data, model=model)
