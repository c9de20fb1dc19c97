"""Files of trained weights: safetensors, and what torch.save writes, opened without running anything that they hold."""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limpq_deploy.calibration.errors import MissingExtra, ModelError

SAVE = "save its weights alone where it was trained: torch.save(model.state_dict(), FILE)"


class Ignored:
    """Stands for what lies beside the weights and is no tensor (epochs as NumPy numbers, arguments of the training):
    made from anything, and keeps nothing of it."""

    def __new__(cls, *arguments: object) -> "Ignored":
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


BESIDE = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Object", "Str", "Bytes")),
    *(f"numpy.dtypes.{kind}{bits}DType" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)),
    *(f"numpy.dtypes.Float{bits}DType" for bits in (16, 32, 64)),
    *("argparse.Namespace", "types.SimpleNamespace"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning_fabric.utilities.data.AttributeDict"),
    "lightning.fabric.utilities.data.AttributeDict",
)
"""What checkpoints name beside weights. Each is read as `Ignored`, so that not even NumPy's own reader runs."""


MOST = 10_000
"""Dictionaries that are looked at; a file that nests one of them in others many times over has no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a file holds. ``content``: tensors by name, perhaps in nested dictionaries and beside other things.
    ``same``: names that were left out, as they are other names of a tensor that is there (the second)."""

    content: Any
    same: Mapping[str, str] = field(default_factory=dict)


def read_weights(path: Path) -> Held:
    """What a file holds, on the CPU, and mapped rather than read where the format allows.

    Raises ModelError for a file that holds code or is damaged, MissingExtra without safetensors.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise ModelError(
            f"cannot read weights {path}: {error.strerror}; expected a safetensors file, or what torch.save wrote"
        ) from error
    if path.suffix.lower() == ".safetensors" or head[8:] == b"{":
        return _read_safetensors(path)
    return Held(content=_read_saved(path))


def tensors_in(found: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dictionaries that hold tensors by name, outermost first: where (``model.ema``; empty for the file itself) and
    which tensors."""
    waiting: list[tuple[str, Any, frozenset[int]]] = [("", found, frozenset())]
    for _ in range(MOST):
        if not waiting:
            return
        key, held, around = waiting.pop(0)
        if not isinstance(held, Mapping) or id(held) in around:
            continue
        named = {name: value for name, value in held.items() if isinstance(name, str)}
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        if tensors:
            yield key, tensors
        within = around | {id(held)}
        waiting += [
            (f"{key}.{name}" if key else name, value, within)
            for name, value in named.items()
            if isinstance(value, Mapping)
        ]


def _read_safetensors(path: Path) -> Held:
    """``safetensors.torch.save_model`` says in the file's metadata which names it left out."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtra(
            "weights are read with safetensors, which is not installed; run: pip install 'limpq-deploy[train]'"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a whole safetensors file ({error}); make or copy it again") from error
    same = {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}
    return Held(content=tensors, same=same)


def _read_saved(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    if zipped and _is_torchscript(path):
        raise ModelError(f"{path} is a TorchScript archive, which holds code beside weights; {SAVE}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(Ignored, name) for name in BESIDE]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} {_why_refused(path, str(error))}; {SAVE}") from error
    except Exception as error:  # whatever a damaged file makes of a reader; nothing of it ran
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        reason = reason if " " in reason else type(error).__name__
        raise ModelError(
            f"{path} is neither a safetensors file nor whole weights of torch.save ({reason}); make or copy it again"
        ) from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _why_refused(path: Path, message: str) -> str:
    """What the file names that no weights need, found without loading it."""
    try:
        named = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive, or one that is damaged: torch has said what it met first
        named = []
    met = message.partition("GLOBAL ")[2].split(" ")[0]
    named = [name for name in named or [met] if name and name not in BESIDE]
    if any(name.startswith(("torch.nn.modules.", "torch.fx.")) for name in named):
        own = [name for name in named if not name.startswith("torch.")] or named
        return f"holds a whole pickled module (of {_few(own)}), and loading one runs code"
    if named:
        return f"names {_few(named)}, which weights do not need and which could run code, so it is not opened"
    return "is a pickle that torch.load(weights_only=True) refuses, as it may run code or is damaged"


def _few(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
