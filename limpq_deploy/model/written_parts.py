"""A tensor of which a part is written over, as a result: what stands before the part, the part, what stands behind it.

x[:, 2:4].relu_()   is   cat([x[:, :2], relu(x[:, 2:4]), x[:, 4:]], 1)
x[:, ::2].relu_()   is   slice_scatter(x, relu(x[:, ::2]), 1, None, None, 2)
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from limpq_deploy.model.lines import WRITTEN_AT

RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel")
"""Views of all elements in the same order."""

Index = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """``view`` is made of ``base``. ``index``: which elements, an entry for each axis of the base; None: all of them,
    in another shape. ``sizes`` of the base."""

    view: fx.Node
    base: fx.Node
    index: Index | None
    sizes: tuple[int, ...]


def step(view: fx.Node, base: fx.Node, sizes: tuple[int, ...]) -> Step | None:
    """How a view is made of the tensor behind it; None where that has no inverse here."""
    if view.op == "call_function" and view.target is operator.getitem:
        index = _index(view.args[1], len(sizes))
        chosen = index is not None and all(_chosen(entry, size) for entry, size in zip(index, sizes, strict=True))
        return Step(view, base, index, sizes) if chosen else None
    name = getattr(view.target, "__name__", str(view.target))
    return Step(view, base, None, sizes) if name in RESHAPES and view.op != "call_module" else None


def _index(given: Any, axes: int) -> Index | None:
    """An entry for each axis; None for what is no plain number or slice."""
    entries = list(given) if isinstance(given, tuple | list) else [given]
    if isinstance(given, list) or sum(one is Ellipsis for one in entries) > 1:
        return None
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        entries[at : at + 1] = [slice(None)] * (axes - len(entries) + 1)
    entries += [slice(None)] * (axes - len(entries))
    plain = all(_is_plain(one) for one in entries) and len(entries) == axes
    return tuple(entries) if plain else None


def _is_plain(one: Any) -> bool:
    if isinstance(one, slice):
        return all(_is_whole(end) for end in (one.start, one.stop, one.step) if end is not None)
    return _is_whole(one)


def _is_whole(one: Any) -> bool:
    return isinstance(one, int) and not isinstance(one, bool)


def _chosen(entry: int | slice, size: int) -> int:
    """How many of ``size`` elements an entry chooses."""
    return len(range(*entry.indices(size))) if isinstance(entry, slice) else 1


def put_back(part: fx.Node, steps: tuple[Step, ...]) -> tuple[fx.Node, list[fx.Node]]:
    """The tensor behind the last of ``steps`` (the first one's view is ``part``'s place), and all nodes that make it,
    which stand behind ``part`` in order."""
    made: list[fx.Node] = []

    def call(kind: str, target: Any, *args: Any) -> fx.Node:
        with part.graph.inserting_after(made[-1] if made else part):
            made.append(part.graph.create_node(kind, target, args))
        made[-1].meta[WRITTEN_AT] = part.meta.get(WRITTEN_AT, "")
        return made[-1]

    whole = part
    for one in steps:
        if one.index is None:
            whole = call("call_method", "reshape_as", whole, one.base)
            continue
        for axis, entry in enumerate(one.index):
            if isinstance(entry, int):
                whole = call("call_function", torch.unsqueeze, whole, axis)
        index = tuple(entry if isinstance(entry, slice) else slice(entry, entry + 1 or None) for entry in one.index)
        for axis in reversed([axis for axis, entry in enumerate(index) if _is_part(axis, entry, one.sizes[axis])]):
            start, stop, apart = index[axis].start, index[axis].stop, index[axis].step
            if apart not in (None, 1):
                base = call("call_function", operator.getitem, one.base, index[:axis]) if axis else one.base
                whole = call("call_function", torch.slice_scatter, base, whole, axis, start, stop, apart)
                continue
            parts = [whole]
            if start not in (None, 0):
                parts.insert(0, call("call_function", operator.getitem, one.base, (*index[:axis], slice(None, start))))
            if stop is not None:
                parts.append(call("call_function", operator.getitem, one.base, (*index[:axis], slice(stop, None))))
            whole = call("call_function", torch.cat, parts, axis)
    return whole, made


def _is_part(axis: int, entry: slice, size: int) -> bool:
    """Whether a slice may leave something out; along the first axis there are any number of images."""
    return entry != slice(None) and (axis == 0 or _chosen(entry, size) != size)
