"""From what a user's factory returns to a module that can be traced: wrappers off, float32, state that no type shows
folded into weights.

    factory -> unwrap -> in_float32 -> weights are loaded -> plain
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.foreign import sentence_of
from limpq_deploy.model.copies import whole_copy
from limpq_deploy.model.hidden_state import require_nothing_hidden
from limpq_deploy.model.plain_modules import AnyBatchNorm

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
PREPROCESS = "preprocess"
"""What a factory may say of its model, on the wrapper too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainModel:
    """``model``: nothing but modules and weights, to be traced and trained. ``given``: the user's module computing as
    it was written; ``model`` itself where nothing was folded. ``notes``: what was changed, a sentence each."""

    model: nn.Module
    given: nn.Module
    notes: tuple[str, ...]


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Within it foreign code may set torch's default type and device, and switch gradients off; afterwards all are as
    they were."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(grad)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel, DistributedDataParallel and AveragedModel, however they are
    nested; those of its submodules come off, too. SyncBatchNorm becomes the BatchNorm that it is on one device.

    Raises ModelError for what is no Python module any more (TorchScript, torch.export) and for one without values (meta
    tensors, lazy modules).
    """
    model = _inside(model)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _inside(child)
    for name, module in model.named_modules():
        module._compiled_call_impl = None  # what Module.compile() sets
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = AnyBatchNorm  # type: ignore[assignment]
        if isinstance(module, fx.GraphModule) and "eval" in vars(module):
            raise ModelError(
                f"{_named(name, module)} comes from torch.export, and its graph is fixed; expected the nn.Module that "
                "was exported"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{_named(name, module)} is TorchScript, which cannot be traced; expected the nn.Module that it was "
                "scripted or traced from"
            )
    _require_values(model)
    _leave_inference_mode(model)
    return model


def in_float32(model: nn.Module) -> tuple[str, ...]:
    """Bring all tensors of a model to float32 and the CPU, before weights are loaded, which its own format would round.
    Returns a sentence where that changed something."""
    kinds = Counter(
        str(tensor.dtype).removeprefix("torch.")
        for _, tensor in _tensors(model)
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    )
    model.float().cpu()
    for module in model.modules():
        for name, value in list(vars(module).items()):  # tensors that are neither parameters nor buffers
            if isinstance(value, Tensor):
                value = value.detach() if value.grad_fn is not None else value
                setattr(module, name, value.float() if value.is_floating_point() else value)
    if not kinds:
        return ()
    counted = " and ".join(f"{count} tensors in {kind}" for kind, count in sorted(kinds.items()))
    return (f"The model has {counted}; it is traced, trained and compared in float32.",)


def plain(model: nn.Module) -> PlainModel:
    """An unwrapped model on the CPU, in float32 and evaluation mode, with pruning masks, weight_norm, spectral_norm and
    other parametrizations folded into the weights.

    Raises ModelError, which names it, for any other hook, and for a forward that is set on one module.
    """
    model.eval()
    notes = [*in_float32(model), *_unfreeze(model)]
    folds = list(_folds(model))
    given = copied(model) if folds else model
    for name, _, fold in reversed(folds):  # the last hook runs last, on what those before it made
        try:
            with torch.no_grad():
                fold()
        except Exception as error:
            raise ModelError(
                f"{name} cannot be folded into the weights: {sentence_of(error)}; fold it in the factory"
            ) from error
    require_nothing_hidden(model)
    if folds:
        notes.append(_told_folds([(name, kind) for name, kind, _ in folds]))
    return PlainModel(model=model, given=given, notes=tuple(notes))


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the model. Raises ModelError where there is none."""
    try:
        found = whole_copy(model)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied: {sentence_of(error)}; expected modules that copy.deepcopy takes"
        ) from error
    for module in found.modules():
        if parametrize.is_parametrized(module):  # its class, which folding changes, is that of the original as well
            kind = type(module)
            own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, own)
    return found


def _inside(model: nn.Module) -> nn.Module:
    inner = None
    if "_orig_mod" in model._modules:  # torch.compile's OptimizedModule, without importing its compiler
        inner = model._modules["_orig_mod"]
    elif isinstance(model, WRAPPERS):
        inner = model.module
    if inner is None:
        return model
    if PREPROCESS in vars(model) and not hasattr(inner, PREPROCESS):
        setattr(inner, PREPROCESS, vars(model)[PREPROCESS])
    return _inside(inner)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _require_values(model: nn.Module) -> None:
    for name, tensor in _tensors(model):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise ModelError(
                f"{name!r} belongs to a lazy module that has not seen an image yet; run the model on one in the factory"
            )
        if tensor.is_meta:
            raise ModelError(
                f"{name!r} is a meta tensor, which has a shape and no values; make the model on the CPU, without "
                "torch.device('meta') or init_empty_weights"
            )


def _leave_inference_mode(model: nn.Module) -> None:
    """Parameters and buffers made under ``torch.inference_mode`` become ordinary ones, which can be trained."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for owned in (module._parameters, module._buffers):
            for name, tensor in owned.items():
                if tensor is None or not tensor.is_inference():
                    continue
                if id(tensor) not in made:
                    copied = tensor.detach().clone()
                    trained = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(copied, requires_grad=tensor.requires_grad) if trained else copied
                owned[name] = made[id(tensor)]  # type: ignore[assignment]


def _unfreeze(model: nn.Module) -> Iterator[str]:
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    if frozen:
        yield f"The model has {len(frozen)} frozen parameters (requires_grad=False); training moves all of them here."


def _folds(model: nn.Module) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """What torch can fold: the tensor's name, what changes it, and the call that folds it."""
    for name, module in model.named_modules():
        path = f"{name}." if name else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                own = hook._tensor_name
                yield f"{path}{own}", "pruning", partial(prune.remove, module, own)
            elif isinstance(hook, WeightNorm):
                yield f"{path}{hook.name}", "weight_norm", partial(remove_weight_norm, module, hook.name)
            elif isinstance(hook, SpectralNorm):
                yield f"{path}{hook.name}", "spectral_norm", partial(remove_spectral_norm, module, hook.name)
        if parametrize.is_parametrized(module):
            for own, functions in module.parametrizations.items():
                kinds = ", ".join(type(function).__name__.strip("_") for function in functions)
                yield f"{path}{own}", kinds, partial(parametrize.remove_parametrizations, module, own)


def _told_folds(folds: Iterable[tuple[str, str]]) -> str:
    kinds: dict[str, list[str]] = {}
    for name, kind in folds:
        kinds.setdefault(kind, []).append(name)
    told_kinds = [
        f"{kind} of {', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}"
        for kind, names in kinds.items()
    ]
    kept = "; training does not keep zeros" if "pruning" in kinds else ""
    return f"Folded into the weights: {'; '.join(told_kinds)}{kept}."


def _named(name: str, module: nn.Module) -> str:
    return f"module {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
