"""A model takes trained weights from a file, or refuses it in one sentence and stays as it was."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.own_versions import of_own_versions
from limpq_deploy.model.zoo.weight_files import Held, read_weights, tensors_in
from limpq_deploy.model.zoo.weight_names import BOOKKEEPING, Fit, ModelNames, fit

ITSELF = "."
"""The name of a file's own tensors, where nested dictionaries hold some too."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

IN_PARTS = {
    r"\.weight_(g|v)$|\.parametrizations\.weight\.original[01]$": "weight_norm",
    r"\.weight_(orig|u)$|\.parametrizations\.weight\.(original|0\._[uv])$": "spectral_norm or pruning",
    r"\.weight_mask$": "pruning",
}
"""Names of what makes up a weight where it is computed anew in every call."""


def load_weights(model: nn.Module, path: Path, key: str | None = None) -> tuple[str, ...]:
    """Copy the weights of a file into ``model``; returns sentences on what was done to them.

    safetensors, or what torch.save wrote (`weight_files`). Weights in nested dictionaries are found; ``key`` (such as
    ``model_ema``) says which where several fit. Names may carry prefixes of wrappers, and bookkeeping is ignored
    (`weight_names`). Every other parameter and buffer must be there with its shape and as floats where the model has
    floats, and nothing else. Raises ModelError with the first differences otherwise, and leaves the model as it was.
    """
    path = Path(path)
    names = ModelNames(model)
    chosen, found = _choose(path, read_weights(path), names, key)
    if not found.whole:
        raise ModelError(f"{path} {differences(found, names)}")
    fill(model, found.tensors, str(path))
    notes = []
    if chosen:
        notes.append(f"Weights are those of {chosen!r} in {path.name}.")
    if found.stripped:
        notes.append(f"Names in {path.name} were taken without {' and '.join(map(repr, found.stripped))}.")
    kinds = {name.rpartition(".")[2] for name in found.ignored} - {"num_batches_tracked"}
    if kinds:
        notes.append(f"Bookkeeping in {path.name} was ignored: {', '.join(sorted(kinds))}.")
    given = {str(tensor.dtype).removeprefix("torch.") for tensor in found.tensors.values() if tensor.dtype in FLOATS}
    if given - {"float32"}:
        notes.append(f"Weights in {path.name} are {' and '.join(sorted(given))}; they became float32.")
    return tuple(notes)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors by the model's names, of its shapes, into it. Raises ModelError, and leaves the model as it was, for
    values that are no floats where the model has floats, are not finite, or differ under two names of one tensor."""
    names = ModelNames(model)
    _require_kinds(tensors, names, origin)
    ready = {name: tensor.to(names.tensors[name].dtype) for name, tensor in tensors.items()}
    damaged = [name for name, tensor in ready.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if damaged:
        raise ModelError(
            f"{origin} has values that are not finite: {_listed('damaged', damaged)}; train the model again"
        )
    for name, tensor in ready.items():
        other = next(other for other in names.same[name] if other in ready)
        if not torch.equal(tensor, ready[other]):
            raise ModelError(
                f"{origin} has different values for {other} and {name}, which are one tensor of the model; name the "
                "model that they belong to"
            )
    before = {name: tensor.detach().clone() for name, tensor in names.tensors.items()}
    model.load_state_dict(of_own_versions(model, ready), strict=False)
    taken = ModelNames(model).tensors
    changed = [name for name, tensor in ready.items() if not torch.equal(taken[name].detach(), tensor)]
    if changed:
        model.load_state_dict(of_own_versions(model, before), strict=False)
        raise ModelError(
            f"the model changes weights when it loads them ({_listed('changed', changed)}), so that {origin} would not "
            "be what runs; load them in a factory of yours"
        )


def _choose(path: Path, held: Held, names: ModelNames, key: str | None) -> tuple[str, Fit]:
    """The tensors that are meant: under ``key``, or those that fit the model; and where they stand."""
    all_found = dict(tensors_in(held.content))
    if not all_found:
        raise ModelError(f"{path} holds no tensors by name; expected a state_dict, by itself or in dictionaries")
    if key is not None:
        return "" if key == ITSELF else key, fit(_under(path, all_found, key), names)
    tried = {where: fit(tensors, names) for where, tensors in all_found.items()}
    if held.same and not tried[""].named:
        left_out = {name: all_found[""][kept] for name, kept in held.same.items()}
        tried[""] = fit({**all_found[""], **left_out}, names)
    fitting = {where: found for where, found in tried.items() if found.whole}
    fitting = fitting or {where: found for where, found in tried.items() if found.named}
    if not fitting:
        where = max(tried, key=lambda where: len(tried[where].tensors))
        return where, tried[where]
    where, found = next(iter(fitting.items()))
    if any(not _equal(found, other) for other in fitting.values() if other is not found):
        shown = ", ".join(where or ITSELF for where in fitting)
        raise ModelError(
            f"{path} holds weights for this model more than once: {shown}; say which, such as --weights-key "
            f"{where or ITSELF}"
        )
    return where, found


def _under(path: Path, all_found: Mapping[str, dict[str, Tensor]], key: str) -> dict[str, Tensor]:
    """Tensors of the dictionary that ``key`` names, or of the one dictionary within it, or whose names begin so."""
    if key == ITSELF and "" in all_found:
        return all_found[""]
    if key in all_found:
        return all_found[key]
    within = [tensors for where, tensors in all_found.items() if where.startswith(f"{key}.")]
    if len(within) == 1:
        return within[0]
    named = {
        name[len(key) + 1 :]: tensor for name, tensor in all_found.get("", {}).items() if name.startswith(f"{key}.")
    }
    if named:
        return named
    shown = ", ".join(where or ITSELF for where in all_found)
    raise ModelError(f"{path} holds no weights under --weights-key {key}; expected one of {shown}")


def _equal(one: Fit, other: Fit) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        _has_values(tensor) and tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])
        for name, tensor in one.tensors.items()
    )


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor lists all its numbers: is neither sparse nor on the meta device."""
    return tensor.layout == torch.strided and tensor.device.type != "meta"


def _require_kinds(tensors: Mapping[str, Tensor], names: ModelNames, origin: str) -> None:
    wrong = []
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] in BOOKKEEPING:  # which a cast of all tensors made floats, and nobody reads
            continue
        expected = names.tensors[name]
        counted = not expected.is_floating_point() and not expected.is_complex()
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        fits = whole if counted else tensor.dtype in FLOATS
        if not fits or not _has_values(tensor):
            kind = tensor.dtype if _has_values(tensor) else f"{tensor.layout} on {tensor.device}"
            wrong.append(
                f"{name} is {str(kind).removeprefix('torch.')}, {str(expected.dtype).removeprefix('torch.')} here"
            )
    if wrong:
        raise ModelError(
            f"{origin} holds numbers of another kind than the model's: {_several(wrong)}; expected float32, "
            "float16, bfloat16 or float64 weights: save those of the float model, before quantization"
        )


def differences(found: Fit, names: ModelNames) -> str:
    """What keeps the tensors from the model, and what to do about it."""
    for pattern, what in IN_PARTS.items():
        parts = [name for name in found.foreign if re.search(pattern, f".{name}")]
        if parts and any(name.endswith("weight") for name in found.missing):
            return (
                f"holds weights in parts, of {what} ({_listed('parts', parts)}), and {names.kind} has them whole; "
                "call remove_weight_norm, prune.remove or parametrize.remove_parametrizations where it was trained, "
                "and save its state_dict again"
            )
    if found.named and (classes := other_classes(found, names)) is not None:
        theirs, mine = classes
        heads = ", ".join(found.misshapen)
        return (
            f"is trained for {theirs} classes and {names.kind} is made for {mine} here ({heads}); give a model and "
            f"--data of {theirs} classes, or, to train a new last layer, a factory of yours that loads all the others"
        )
    faults = (
        _listed("missing", found.missing),
        _listed("not in the model", found.foreign),
        _listed(
            "of another shape",
            [
                f"{name} ({_shape(found.tensors[name])} in the file, {_shape(names.tensors[name])} in the model)"
                for name in found.misshapen
            ],
        ),
    )
    return (
        f"holds weights of another model than {names.kind}: {'; '.join(one for one in faults if one)}; name the "
        "model that they belong to, or rename the tensors"
    )


def other_classes(found: Fit, names: ModelNames) -> tuple[int, int] | None:
    """Outputs of the file's last layer and of the model's, where nothing but those differ."""
    sizes = set()
    for name in found.misshapen:
        theirs, mine = found.tensors[name].shape, names.tensors[name].shape
        if len(theirs) != len(mine) or not len(theirs) or theirs[1:] != mine[1:]:
            return None
        sizes.add((theirs[0], mine[0]))
    layers = {name.rpartition(".")[0] for name in found.misshapen}
    return sizes.pop() if len(sizes) == 1 and len(layers) == 1 else None


def _listed(what: str, names: Iterable[str], limit: int = 3) -> str:
    every = sorted(names)
    if not every:
        return ""
    return f"{len(every)} {what} ({_several(every, limit)})"


def _several(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
