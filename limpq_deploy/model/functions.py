"""Functions of single values: on codes each is a table."""

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.model.operations import Lowest, float_result

SMALL_SLOPE = 1 / 16
"""Up to which the negative values behind a leaky ReLU are few and small."""

LEAKY = (nn.LeakyReLU, F.leaky_relu)
HARDTANH = (nn.Hardtanh, F.hardtanh)
CLAMP = (torch.clamp, torch.clip, "clamp", "clip")
FUNCTIONS: frozenset[object] = frozenset(
    (
        *(*LEAKY, *HARDTANH, *CLAMP, nn.PReLU, F.prelu, nn.Tanh, torch.tanh, F.tanh, "tanh"),
        *(nn.GELU, F.gelu, nn.Mish, F.mish, nn.Softplus, F.softplus, torch.abs, operator.abs, "abs"),
        *(torch.exp, "exp", torch.square, "square", operator.neg, torch.neg, "neg"),
        *(nn.ELU, F.elu, nn.SELU, F.selu, nn.CELU, F.celu, nn.Softsign, F.softsign, nn.LogSigmoid, F.logsigmoid),
        *(nn.Softshrink, F.softshrink, nn.Hardshrink, F.hardshrink, nn.Tanhshrink, F.tanhshrink),
        *(nn.Threshold, F.threshold, operator.add, torch.add, "add", operator.sub, torch.sub, "sub"),
        *(operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div", operator.pow, torch.pow, "pow"),
    )
)
"""Modules, functions and methods; those of two operands where one is a number, or both are one tensor."""


def is_function(node: fx.Node, graph_module: nn.Module) -> bool:
    """Whether a call computes each of its values from one value of one tensor and from numbers."""
    called = _called(node, graph_module)
    if called not in FUNCTIONS or len(node.all_input_nodes) != 1:
        return False
    if called is nn.PReLU:
        return graph_module.get_submodule(str(node.target)).weight.numel() == 1  # type: ignore[operator]
    numbers = [one for one in (*node.args, *node.kwargs.values()) if not isinstance(one, fx.Node)]
    return all(one is None or isinstance(one, int | float | str) for one in numbers)


def lowest_of(node: fx.Node, graph_module: nn.Module) -> Lowest:
    """What negative values a function has."""
    known = float_result(node, graph_module)[1]
    if known in ("zero", "near"):
        return known
    called = _called(node, graph_module)
    if called in LEAKY and 0 <= _number(node, graph_module, "negative_slope", 1, 0.01) <= SMALL_SLOPE:
        return "near"
    if called in HARDTANH:
        low = _number(node, graph_module, "min_val", 1, -1.0)
    else:
        low = _number(node, graph_module, "min", 1, -torch.inf) if called in CLAMP else -torch.inf
    return "zero" if low >= 0 else "free"


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
