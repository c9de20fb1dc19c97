"""Modules and pools of signals [N, C, L], as those of images of one row [N, C, 1, L]."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.model.transposed_convolutions import is_convolution

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function, and its arguments behind the image."""

POOLS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((nn.MaxPool1d, F.max_pool1d, torch.max_pool1d), F.max_pool2d),
    **dict.fromkeys((nn.AvgPool1d, F.avg_pool1d), F.avg_pool2d),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d), F.adaptive_avg_pool2d),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, F.adaptive_max_pool1d), F.adaptive_max_pool2d),
}
MODULES = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.Dropout1d)
"""Those of one axis that have a counterpart of two."""

_WINDOWS = inspect.signature(
    lambda input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False: None
)
_AVERAGES = inspect.signature(
    lambda input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True: None
)
_ADAPTIVE = inspect.signature(lambda input, output_size, return_indices=False: None)


def image_module(module: nn.Module) -> nn.Module:
    """One of `MODULES` with a second axis, its numbers in the same memory."""
    if isinstance(module, nn.BatchNorm1d | nn.Dropout1d):
        found: Any = copy.copy(module)
        found.__class__ = nn.BatchNorm2d if isinstance(module, nn.BatchNorm1d) else nn.Dropout2d
        return found
    assert isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
    given: dict[str, Any] = {name: getattr(module, name) for name in ("in_channels", "out_channels", "groups")}
    for name, own in {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}.items():
        along = getattr(module, name)
        given[name] = along if isinstance(along, str) else (own, *along)
    if isinstance(module, nn.Conv1d):
        del given["output_padding"]
    kind = nn.Conv2d if isinstance(module, nn.Conv1d) else nn.ConvTranspose2d
    made = kind(**given, bias=module.bias is not None, device="meta")
    made.weight = nn.Parameter(module.weight.detach().unsqueeze(2), requires_grad=module.weight.requires_grad)
    made.bias = module.bias
    return made.eval()


def has_image_module(module: nn.Module) -> bool:
    """Whether that has an integer form: what cannot be a convolution has none."""
    return not isinstance(module, nn.ConvTranspose1d) or is_convolution(module)


def image_pool(node: fx.Node, graph_module: nn.Module) -> Call | None:
    """A pool of signals as one of images; None of all else, and of one that gives places, too."""
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    pool = POOLS.get(type(module) if module is not None else node.target)
    if pool is None:
        return None
    signature = {F.max_pool2d: _WINDOWS, F.avg_pool2d: _AVERAGES}.get(pool, _ADAPTIVE)
    if module is not None:
        names = [name for name in signature.parameters if hasattr(module, name)]
        given = {name: getattr(module, name) for name in names}
    else:
        bound = signature.bind(*node.args, **node.kwargs)
        bound.apply_defaults()
        given = {name: one for name, one in bound.arguments.items() if name != "input"}
    if given.pop("return_indices", False) or any(isinstance(one, fx.Node) for one in given.values()):
        return None
    return pool, tuple(_in_two_axes(name, one, given) for name, one in given.items())


def _in_two_axes(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    if isinstance(value, bool):
        return value
    if name == "stride" and value in (None, (), []):
        value = given["kernel_size"]
    along = value[0] if isinstance(value, tuple | list) else value
    return (0 if name == "padding" else 1, along)
