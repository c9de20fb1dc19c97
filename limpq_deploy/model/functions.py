"""Functions of single values. On codes each is a table; what its negative values are like is all there is to know."""

import operator
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional as F

Lowest = Literal["zero", "near", "free"]
"""Negative values of a tensor: none; few and small beside the positive ones, as behind a SiLU; any."""

SMALL_SLOPE = 1 / 16
"""Up to which the negative values behind a leaky ReLU are few and small."""

RELUS: tuple[object, ...] = (nn.ReLU, nn.ReLU6, F.relu, torch.relu, F.relu6, "relu")
ZERO: tuple[object, ...] = (
    *RELUS,
    *(nn.Softplus, F.softplus, torch.abs, operator.abs, "abs", torch.exp, "exp", torch.square, "square"),
)
NEAR: tuple[object, ...] = (nn.GELU, F.gelu, nn.Mish, F.mish)
LEAKY: tuple[object, ...] = (nn.LeakyReLU, F.leaky_relu)
HARDTANH: tuple[object, ...] = (nn.Hardtanh, F.hardtanh)
CLAMP: tuple[object, ...] = (torch.clamp, torch.clip, "clamp", "clip")
FREE: tuple[object, ...] = (
    *(*LEAKY, *HARDTANH, *CLAMP, nn.PReLU, F.prelu, nn.Tanh, torch.tanh, F.tanh, "tanh"),
    *(nn.ELU, F.elu, nn.SELU, F.selu, nn.CELU, F.celu, nn.Softsign, F.softsign, nn.LogSigmoid, F.logsigmoid),
    *(nn.Softshrink, F.softshrink, nn.Hardshrink, F.hardshrink, nn.Tanhshrink, F.tanhshrink, nn.Threshold, F.threshold),
    *(operator.neg, torch.neg, "neg", operator.add, torch.add, "add", operator.sub, torch.sub, "sub"),
    *(operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div", operator.pow, torch.pow, "pow"),
)
KNOWN = frozenset((*ZERO, *NEAR, *FREE))


def is_function(node: fx.Node, graph_module: nn.Module) -> bool:
    """Whether a call computes each of its values from one value of one tensor and from numbers."""
    called = _called(node, graph_module)
    if called not in KNOWN or len(node.all_input_nodes) != 1:
        return False
    if called is nn.PReLU:
        return graph_module.get_submodule(str(node.target)).weight.numel() == 1  # type: ignore[union-attr, operator]
    numbers = [one for one in (*node.args, *node.kwargs.values()) if not isinstance(one, fx.Node)]
    return all(one is None or isinstance(one, int | float | str) for one in numbers)


def lowest_of(node: fx.Node, graph_module: nn.Module) -> Lowest:
    """What negative values a function has."""
    called = _called(node, graph_module)
    if called in ZERO or cut_at(node, graph_module)[0] >= 0:
        return "zero"
    if called in NEAR or (called in LEAKY and 0 <= _number(node, graph_module, "negative_slope", 1, 0.01) <= SMALL_SLOPE):
        return "near"
    return "free"


def cut_at(node: fx.Node, graph_module: nn.Module) -> tuple[float, float]:
    """Where a Hardtanh or clamp cuts its values, below and above; infinities where it does not, and for all others."""
    called = _called(node, graph_module)
    if called in HARDTANH:
        return _number(node, graph_module, "min_val", 1, -1.0), _number(node, graph_module, "max_val", 2, 1.0)
    if called in CLAMP:
        return _number(node, graph_module, "min", 1, -torch.inf), _number(node, graph_module, "max", 2, torch.inf)
    return -torch.inf, torch.inf


def _number(node: fx.Node, graph_module: nn.Module, name: str, place: int, default: float) -> float:
    found: Any
    if node.op == "call_module":
        found = getattr(graph_module.get_submodule(str(node.target)), name)
    else:
        found = node.args[place] if len(node.args) > place else node.kwargs.get(name)
    return default if found is None else float(found)


def _called(node: fx.Node, graph_module: nn.Module) -> Any:
    if node.op == "call_module":
        return type(graph_module.get_submodule(str(node.target)))
    return node.target if node.op in ("call_function", "call_method") else None
