"""What a network gives, whatever it returns: a tuple of tensors, in the order of its forward.

Importing a task imports no torch: figures of exported files are made where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

Outputs: TypeAlias = "tuple[torch.Tensor, ...]"


def tensors_of(result: Any) -> Outputs:
    """The tensors of a result: one tensor, or any nest of tuples, lists and dicts (in the order of their insertion)."""
    import torch
    from torch.utils import _pytree as pytree

    if isinstance(result, torch.Tensor):
        return (result,)
    return tuple(one for one in pytree.tree_leaves(result) if isinstance(one, torch.Tensor))


def mapped(result: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nest with every tensor changed."""
    import torch
    from torch.utils import _pytree as pytree

    if isinstance(result, torch.Tensor):
        return function(result)
    return pytree.tree_map_only(torch.Tensor, function, result)
