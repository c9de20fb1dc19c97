"""What a network gives, whatever it returns: a tuple of tensors, in the order of its forward.

Importing a task imports no torch: figures of exported files are made where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

Outputs: TypeAlias = "tuple[torch.Tensor, ...]"


def plain_nest(result: Any) -> Any:
    """A named tuple as a tuple; a dataclass, or any mapping, as a dict, without fields of a dataclass that are None;
    anything else itself."""
    if isinstance(result, tuple) and type(result) is not tuple:
        return tuple(result)
    if isinstance(result, Mapping) and type(result) is not dict:
        return dict(result.items())
    if is_dataclass(result) and not isinstance(result, type | Mapping):
        values = {one.name: getattr(result, one.name) for one in fields(result)}
        return {name: value for name, value in values.items() if value is not None}
    return result


def tensors_of(result: Any) -> Outputs:
    """The tensors of a result: one tensor, or any nest of tuples, lists, dicts (in the order of their insertion) and
    dataclasses (of their fields)."""
    return tuple(_each(result))


def mapped(result: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nest, plain, with every tensor changed."""
    import torch

    if isinstance(result, torch.Tensor):
        return function(result)
    nest = plain_nest(result)
    if isinstance(nest, dict):
        return {name: mapped(one, function) for name, one in nest.items()}
    return type(nest)(mapped(one, function) for one in nest) if isinstance(nest, tuple | list) else nest


def _each(result: Any) -> Iterator[torch.Tensor]:
    import torch

    if isinstance(result, torch.Tensor):
        yield result
        return
    nest = plain_nest(result)
    for one in nest.values() if isinstance(nest, dict) else nest if isinstance(nest, tuple | list) else ():
        yield from _each(one)
