"""Published weights of torchvision's and timm's models, from the caches that those libraries keep on this machine.

Nothing here uses the network.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, hub, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.model.zoo.torchvision import import_timm, torchvision_weights
from limpq_deploy.model.zoo.weight_files import read_weights, tensors_in
from limpq_deploy.model.zoo.weight_names import ModelNames, fit
from limpq_deploy.model.zoo.weights import differences, fill, other_classes

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names that weights have in a repository of the Hugging Face hub, the first that is there counts."""

TRAINED_BESIDE = ("AuxLogits.", "aux1.", "aux2.")
"""Layers of GoogLeNet and Inception that help in training alone, and are not made here."""


def published_file(name: str) -> Path:
    """Where the weights of ``torchvision/NAME`` or ``timm/NAME`` lie. Raises ModelError with the places and names that
    were looked for where they lie nowhere."""
    library, _, model = name.partition("/")
    places = list(_torchvision_places(model) if library == "torchvision" else _timm_places(model))
    for place in places:
        if place.is_file():
            return place
    if not places:
        raise ModelError(f"{library} has published no weights of {name}; give --weights, or leave --pretrained away")
    raise ModelError(
        f"no published weights of {name} on this machine: looked for {', '.join(map(str, places))}; put the file there "
        "(no command here uses the network), or give --weights"
    )


def fill_published(model: nn.Module, name: str) -> tuple[bool, tuple[str, ...]]:
    """Copy published weights into a model of that name. Returns whether all were taken (else the last layer, which has
    other classes, is fresh), and sentences on what was done. Raises ModelError where they do not fit otherwise."""
    file = published_file(name)
    library, _, kind = name.partition("/")
    tensors: Mapping[str, Tensor] = max(
        (tensors for _, tensors in tensors_in(read_weights(file).content)), key=len, default={}
    )
    if library == "timm":
        tensors = _as_timm_takes(kind, tensors, file)
    names = ModelNames(model)
    found = fit({key: tensor for key, tensor in tensors.items() if not key.startswith(TRAINED_BESIDE)}, names)
    notes = [f"weights of {name} are the published ones, {file}"]
    stem = re.search(r"-([0-9a-f]{8,})\.\w+$", file.name)
    if stem is not None and not sha256_of(file).startswith(stem[1]):
        notes.append(f"{file} is not the file that was published: its SHA-256 does not begin with {stem[1]}")
    if found.whole:
        fill(model, found.tensors, str(file))
        return True, tuple(notes)
    classes = other_classes(found, names)
    if classes is None:
        raise ModelError(f"{file} {differences(found, names)}")
    kept = {key: tensor for key, tensor in found.tensors.items() if key not in found.misshapen}
    fill(model, kept, str(file))
    head = " and ".join(found.misshapen)
    notes.append(
        f"{head} start from random numbers and are trained here: the published weights are of {classes[0]} classes, "
        f"the data of {classes[1]}"
    )
    return False, tuple(notes)


def _torchvision_places(model: str) -> Iterator[Path]:
    """Those of the weights whose preprocessing the model gets (`torchvision_preprocess`)."""
    yield _checkpoints() / torchvision_weights(model).url.rpartition("/")[2]


def _timm_places(model: str) -> Iterator[Path]:
    published = _timm_published(model)
    if published.get("hf_hub_id"):
        from huggingface_hub import constants, try_to_load_from_cache

        repository = published["hf_hub_id"]
        for name in (published["hf_hub_filename"],) if published.get("hf_hub_filename") else HUB_FILES:
            found = try_to_load_from_cache(repository, name)
            folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
            yield Path(found) if isinstance(found, str) else folder / "snapshots" / "REVISION" / name
    if published.get("url"):
        yield _checkpoints() / published["url"].rpartition("/")[2]


def _as_timm_takes(model: str, tensors: Mapping[str, Tensor], file: Path) -> Mapping[str, Tensor]:
    """The tensors as timm itself reads the file into its model: it renames and reshapes those of some."""
    published = _timm_published(model)
    if published.get("custom_load"):
        raise ModelError(f"{file} is of a format that timm reads with code of its own; give --weights as a state_dict")
    nowhere = dict.fromkeys(("url", "file", "hf_hub_id"))
    overlay = {**nowhere, "source": "", "state_dict": dict(tensors)}
    classes = published.get("num_classes", 1000)
    try:
        whole: nn.Module = import_timm().create_model(
            model, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(
            f"{file} does not fit timm/{model}: {' '.join(str(error).split())[:200]}; fetch it again, or give --weights"
        ) from error
    return dict(whole.state_dict())


def _timm_published(model: str) -> dict[str, Any]:
    published: dict[str, Any] = import_timm().get_pretrained_cfg(model).to_dict()
    return published


def _checkpoints() -> Path:
    return Path(hub.get_dir()) / "checkpoints"
