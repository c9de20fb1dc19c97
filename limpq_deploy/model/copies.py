"""Copies of models, whole: what functions that a model holds know of it is the copy's, too."""

import copy
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def whole_copy(model: nn.Module) -> nn.Module:
    """``copy.deepcopy``, which leaves functions as they are: a ``lambda x: self.conv(x)`` among the copy's attributes
    would go on calling the original's layer. What a model keeps of its last call (maps of attention, what hooks saw)
    is taken without its gradients, which cannot be copied."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for one in pytree.tree_leaves(vars(module)):
            if isinstance(one, Tensor) and one.grad_fn is not None:
                memo[id(one)] = one.detach().clone()
    found = copy.deepcopy(model, memo)
    for module in found.modules():
        for name, value in vars(module).items():
            vars(module)[name] = _rebound(value, memo, set())
    return found


def _rebound(value: Any, memo: dict[int, Any], seen: set[int]) -> Any:
    """A function with the copies of what its closure names; containers of functions hold them so afterwards."""
    if isinstance(value, FunctionType) and value.__closure__:
        cells = tuple(_copied(cell, memo) for cell in value.__closure__)
        if all(one is other for one, other in zip(cells, value.__closure__, strict=True)):
            return value
        made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        made.__kwdefaults__, made.__qualname__ = value.__kwdefaults__, value.__qualname__
        return made
    if isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            value[key] = _rebound(one, memo, seen)
    if type(value) is tuple:
        parts = tuple(_rebound(one, memo, seen) for one in value)
        return parts if any(one is not other for one, other in zip(parts, value, strict=True)) else value
    return value


def _copied(cell: CellType, memo: dict[int, Any]) -> CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # nothing in it yet
        return cell
    new = memo.get(id(content), content)
    return cell if new is content else CellType(new)
