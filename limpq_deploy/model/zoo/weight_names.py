"""Which tensor of a file is which of a model: prefixes, bookkeeping, tensors of several names. Nothing is copied."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel, DistributedDataParallel, AveragedModel and torch.compile put into names, in front or within."""

HOLDERS = ("model.", "backbone.", "net.", "network.", "ema_model.", "student.", "encoder.")
"""What a class that holds the network puts in front."""

BOOKKEEPING = frozenset(("total_ops", "total_params", "num_batches_tracked", "n_averaged"))
"""Last parts of names of counters, of profilers, BatchNorm and averaged weights, that no inference reads."""


VARIANTS = 100
"""Ways to take prefixes off that are tried; names of wrappers within wrappers make a dozen."""


class ModelNames:
    """The tensors of a model by name. ``same``: all names of one tensor, for each name."""

    def __init__(self, model: nn.Module) -> None:
        self.kind = type(model).__name__
        state = model.state_dict(keep_vars=True)
        self.tensors: dict[str, Tensor] = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        shared: dict[int, list[str]] = {}
        for name, tensor in self.tensors.items():
            shared.setdefault(id(tensor), []).append(name)
        self.same = {name: tuple(names) for names in shared.values() for name in names}

    @property
    def required(self) -> Iterator[str]:
        """Names without which inference is another; BatchNorm's counters are not read by it."""
        return (name for name in self.tensors if _last(name) != "num_batches_tracked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How tensors of a file fit a model: ``tensors`` by the model's names, what was taken off in front
    (``stripped``), bookkeeping that is ignored, names that are ``missing``, ``foreign`` ones, and tensors of another
    shape."""

    tensors: Mapping[str, Tensor]
    stripped: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def named(self) -> bool:
        """Whether all names fit."""
        return not self.missing and not self.foreign

    @property
    def whole(self) -> bool:
        return self.named and not self.misshapen


def fit(found: Mapping[str, Tensor], names: ModelNames) -> Fit:
    """The tensors as they are named, or without prefixes where that makes all names fit; else the nearest to it."""
    best: Fit | None = None
    for stripped, renamed in islice(_variants(found), VARIANTS):
        tried = _compared(renamed, stripped, names)
        if tried.named:
            return tried
        if best is None or len(tried.tensors) > len(best.tensors):
            best = tried
    assert best is not None
    return best


def _variants(found: Mapping[str, Tensor]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The tensors under all names that come of taking prefixes off, the fewest first."""
    waiting: list[tuple[tuple[str, ...], dict[str, Tensor]]] = [((), dict(found))]
    seen = {frozenset(found)}
    while waiting:
        stripped, tensors = waiting.pop(0)
        yield stripped, tensors
        for prefix in (*WRAPPERS, *HOLDERS):
            renamed = {_without(name, prefix): tensor for name, tensor in tensors.items()}
            if len(renamed) == len(tensors) and frozenset(renamed) not in seen:
                seen.add(frozenset(renamed))
                waiting.append(((*stripped, prefix), renamed))


def _without(name: str, prefix: str) -> str:
    if prefix in WRAPPERS:
        return re.sub(rf"(^|\.){re.escape(prefix)}", r"\1", name) or name
    return name.removeprefix(prefix) or name


def _compared(found: Mapping[str, Tensor], stripped: tuple[str, ...], names: ModelNames) -> Fit:
    tensors = {name: tensor for name, tensor in found.items() if name in names.tensors}
    taken = {_memory(tensor) for tensor in tensors.values()}  # another name of a tensor that is taken says nothing new
    extra = [name for name, tensor in found.items() if name not in tensors and _memory(tensor) not in taken]
    return Fit(
        tensors=tensors,
        stripped=stripped,
        ignored=tuple(name for name in extra if _last(name) in BOOKKEEPING),
        missing=tuple(name for name in names.required if not any(same in tensors for same in names.same[name])),
        foreign=tuple(name for name in extra if _last(name) not in BOOKKEEPING),
        misshapen=tuple(name for name, tensor in tensors.items() if tensor.shape != names.tensors[name].shape),
    )


def _memory(tensor: Tensor) -> object:
    """What tensors that are one have in common."""
    if not tensor.numel() or tensor.layout != torch.strided or tensor.device.type == "meta":
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _last(name: str) -> str:
    return name.rpartition(".")[2]
