"""Modules that are plain ones but for their type become plain.

timm's fused BatchNorm comes apart into a BatchNorm2d and an activation, its Linear and classes that change nothing of
torch's are torch's; SyncBatchNorm, on one device, and everybody's FrozenBatchNorm2d, whose numbers are buffers, are a
BatchNorm2d.
"""

import copy

import torch
from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.model.operations import MODULE_KINDS

HARMLESS = {
    *("__init__", "__module__", "__doc__", "__repr__", "__constants__", "__annotations__", "__qualname__"),
    *("__firstlineno__", "__static_attributes__", "extra_repr", "reset_parameters", "__jit_unused_properties__"),
}
"""What a class may define and still compute what its base class does."""
STATISTICS = ("weight", "bias", "running_mean", "running_var")


class AnyBatchNorm(nn.BatchNorm2d):
    """A SyncBatchNorm on one device, which takes vectors and signals, too."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


def plain_kind(module: nn.Module) -> type[nn.Module] | None:
    """Which supported module of torch's this is by inheritance, where no class in between changes what it does."""
    kind = type(module)
    if kind in MODULE_KINDS or isinstance(module, nn.Sequential):
        return None
    if kind in (nn.SyncBatchNorm, AnyBatchNorm) or _is_frozen_batchnorm(module):
        return nn.BatchNorm2d
    if kind.__module__ == "timm.layers.linear" and isinstance(module, nn.Linear):
        return nn.Linear
    own = {*module._parameters, *module._buffers}
    for base in kind.__mro__:
        if base in MODULE_KINDS:
            added = {name for one in kind.__mro__[: kind.__mro__.index(base)] for name in vars(one)}
            changed = {
                name
                for name in added - HARMLESS
                if hasattr(base, name)
                or name in own
                or name.startswith("__get")
                or isinstance(getattr(kind, name), property)
            }
            return None if changed else base
    return None


def is_fused(module: nn.Module) -> bool:
    """timm's BatchNormAct2d: a BatchNorm2d by inheritance that calls a ``drop`` and an ``act`` behind it."""
    parts = (getattr(module, "drop", None), getattr(module, "act", None))
    return (
        isinstance(module, nn.BatchNorm2d)
        and type(module).__module__.startswith("timm.layers.")
        and all(isinstance(part, nn.Module) for part in parts)
    )


def take_apart(graph_module: fx.GraphModule, name: str) -> None:
    """A plain BatchNorm2d in place of a fused module, whose parts move beside it: ``bn1.act`` becomes ``bn1_act``."""
    fused = graph_module.get_submodule(name)
    for part, module in fused.named_children():
        for node in graph_module.graph.nodes:
            if node.op == "call_module" and node.target == f"{name}.{part}":
                graph_module.add_submodule(f"{name}_{part}", module)
                node.target = f"{name}_{part}"
    graph_module.set_submodule(name, as_plain(fused, nn.BatchNorm2d))


def as_plain(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """``module`` as one of its base class ``kind``, with the same parameters and buffers."""
    if _is_frozen_batchnorm(module):
        return _thawed(module)
    plain = copy.copy(module)
    plain.__class__ = kind
    plain._modules = {}
    return plain


def _is_frozen_batchnorm(module: nn.Module) -> bool:
    """A FrozenBatchNorm2d, of torchvision's or written after it, that computes what a BatchNorm2d of its numbers
    does."""
    if type(module).__name__ != "FrozenBatchNorm2d" or set(module._buffers) < set(STATISTICS) or module._parameters:
        return False
    norm = _thawed(module)
    images = torch.linspace(-1, 1, 4 * len(norm.weight)).reshape(1, -1, 2, 2)
    with torch.no_grad():
        expected = F.batch_norm(images, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return torch.allclose(type(module).forward(module, images), expected, rtol=1e-4, atol=1e-5)


def _thawed(frozen: nn.Module) -> nn.BatchNorm2d:
    """A BatchNorm2d of the same numbers, in the same memory. Without an ``eps`` of its own it is 1e-5, as in DETR."""
    weight, bias, mean, var = (frozen._buffers[name] for name in STATISTICS)
    assert weight is not None
    assert bias is not None
    norm = nn.BatchNorm2d(len(weight), eps=getattr(frozen, "eps", 1e-5))
    norm.weight, norm.bias = nn.Parameter(weight), nn.Parameter(bias)
    norm.running_mean, norm.running_var = mean, var
    return norm.eval()
