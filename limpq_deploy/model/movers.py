"""Calls that only move numbers, once shapes are known, in a few forms that act on codes: slices, a gather along one
axis, joins.

    chunk, split, unbind = slices;  stack = unsqueeze, then cat;  roll = cat of two slices
    pad around = index_select;  adaptive maxima = index_select, then max_pool2d
    view, transpose, view that give channels in another order = index_select

so that neither several tensors at once are left nor a transpose where none is needed.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.nn import functional as F

from limpq_deploy.model import axis_orders
from limpq_deploy.model.average_pools import is_largest
from limpq_deploy.model.enlarging import enlarged, enlarging_mode, enlarging_scales, is_nearest
from limpq_deploy.model.node_by_node import NodeByNode
from limpq_deploy.model.on_meta import OnMeta

SPLITS = ("chunk", "split", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "unbind")
MORE_IMAGES = 3
"""For which shapes are asked for again, where it matters which axis the images are."""
ORDERS = ("view", "reshape", "transpose", "permute", "swapaxes", "swapdims", "contiguous", "unflatten", "flatten")
"""What a shuffle of channels is made of."""


def simplify_moves(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted; new nodes have theirs."""
    moves = _Moves(graph_module)
    for node in list(graph_module.graph.nodes):
        name = called(node)
        if name in SPLITS:
            moves.split(node, unbound=name == "unbind")
        elif name in ("stack", "roll", "expand_as", "channel_shuffle"):
            getattr(moves, name)(node)
        elif node.target is F.pad:
            moves.pad_around(node)
        elif is_nearest(node, graph_module):
            moves.enlarge(node)
        elif _gives_image(node) and is_largest(node, graph_module):
            moves.spread(node)
        elif _gives_image(node):
            moves.shuffle(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def called(node: fx.Node) -> str:
    """``chunk`` for ``x.chunk(..)`` and ``torch.chunk(x, ..)``; empty for modules."""
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""


class _Sizes(NodeByNode):
    """Shapes of all tensors for another number of images."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.found: dict[str, torch.Size] = {}
        image = next(node for node in graph_module.graph.nodes if node.op == "placeholder")
        self.run_on(MORE_IMAGES, tuple(image.meta["tensor_meta"].shape[1:]))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n.name] = result.shape
        return result


def sizes_for_several(graph_module: fx.GraphModule) -> dict[str, torch.Size]:
    """Shapes of all tensors by node, for several images."""
    return _Sizes(graph_module).found


class _Moves:
    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module, self.graph = graph_module, graph_module.graph
        self._sizes: dict[str, torch.Size] | None = None
        self.on_meta = OnMeta(graph_module)

    def is_fixed(self, tensor: fx.Node, axis: int) -> bool:
        """Whether an axis has the same size for any number of images."""
        if self._sizes is None:
            self._sizes = sizes_for_several(self.graph_module)
        return self._sizes.get(tensor.name, ())[axis : axis + 1] == tensor.meta["tensor_meta"].shape[axis : axis + 1]

    def split(self, node: fx.Node, *, unbound: bool) -> None:
        """Parts that are taken one by one, each as a slice."""
        source, parts = node.all_input_nodes[0], node.meta.get("tensor_meta")
        if not isinstance(parts, tuple | list) or len(node.all_input_nodes) > 1:
            return
        axis, start = _axis(node, source), 0
        takers: dict[int, list[fx.Node]] = {}
        for user in node.users:
            if user.target is not operator.getitem or not isinstance(user.args[1], int):
                return
            takers.setdefault(user.args[1] % len(parts), []).append(user)
        if axis is None or not self.is_fixed(source, axis):
            return
        for place, part in enumerate(parts):
            length = 1 if unbound else part.shape[axis]
            taken: Any = start if unbound else slice(start, start + length)
            index = (*[slice(None)] * axis, taken)
            start += length
            for taker in takers.get(place, []):
                self._replace(taker, "call_function", operator.getitem, (source, index), name=taker.name)

    def stack(self, node: fx.Node) -> None:
        tensors = node.args[0] if node.args else node.kwargs.get("tensors")
        if not isinstance(tensors, tuple | list):
            return
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        axis = given % len(node.meta["tensor_meta"].shape)
        with self.graph.inserting_before(node):
            raised = [self._new(node, "call_method", "unsqueeze", (one, axis)) for one in tensors]
        self._replace(node, "call_function", torch.cat, (raised, axis))

    def roll(self, node: fx.Node) -> None:
        """One axis after the other: the last numbers of each come first."""
        given = dict(zip(("input", "shifts", "dims"), node.args, strict=False)) | node.kwargs
        shifts, axes = (
            one if isinstance(one, tuple | list) else (one,) for one in (given["shifts"], given.get("dims", ()))
        )
        source = node.all_input_nodes[0]
        if len(shifts) != len(axes) or not all(isinstance(one, int) for one in (*shifts, *axes)):
            return
        shape = source.meta["tensor_meta"].shape
        if not all(self.is_fixed(source, axis % len(shape)) for axis in axes):
            return
        result = source
        with self.graph.inserting_before(node):
            for shift, axis in zip(shifts, axes, strict=True):
                axis %= len(shape)
                cut = -shift % shape[axis]
                if cut:
                    before = (slice(None),) * axis
                    ends = [(*before, slice(cut, None)), (*before, slice(0, cut))]
                    parts = [self._new(node, "call_function", operator.getitem, (result, one)) for one in ends]
                    result = self._new(node, "call_function", torch.cat, (parts, axis))
        self._succeed(node, result)

    def pad_around(self, node: fx.Node) -> None:
        """With what stands at the other end."""
        given: dict[str, Any] = dict(zip(("input", "pad", "mode"), node.args, strict=False)) | node.kwargs
        if given.get("mode") != "circular" or not all(isinstance(one, int) for one in given["pad"]):
            return
        result = node.all_input_nodes[0]
        shape, ends = result.meta["tensor_meta"].shape, given["pad"]
        axes = [len(shape) - 1 - place for place in range(len(ends) // 2)]
        if all(self.is_fixed(result, axis) for axis in axes):
            for place, axis in enumerate(axes):
                order = axis_orders.around(shape[axis], *ends[2 * place : 2 * place + 2])
                result = self._chosen(node, result, axis, order)
            self._succeed(node, result)

    def spread(self, node: fx.Node) -> None:
        """Adaptive maxima of uneven windows."""
        result = node.all_input_nodes[0]
        orders = [
            axis_orders.spread(before, after)
            for before, after in zip(*(one.meta["tensor_meta"].shape[2:] for one in (result, node)), strict=True)
        ]
        for axis, (order, _) in enumerate(orders):
            result = self._chosen(node, result, axis + 2, order)
        windows = tuple(length for _, length in orders)
        self._replace(node, "call_function", F.max_pool2d, (result, windows), name=f"{node.name}_windows")

    def _chosen(self, node: fx.Node, source: fx.Node, axis: int, order: Tensor) -> fx.Node:
        """Places of an axis, before a node that they become part of; the source where all are there in order."""
        if torch.equal(order, torch.arange(source.meta["tensor_meta"].shape[axis])):
            return source
        with self.graph.inserting_before(node):
            held = self._held(f"{node.name}_order{axis}", order)
            return self._new(node, "call_function", torch.index_select, (source, axis, held))

    def expand_as(self, node: fx.Node) -> None:
        sizes = node.meta["tensor_meta"].shape
        self._replace(node, "call_method", "expand", (node.args[0], -1, *sizes[1:]))

    def channel_shuffle(self, node: fx.Node) -> None:
        groups: Any = node.args[1] if len(node.args) > 1 else node.kwargs["groups"]
        channels = node.meta["tensor_meta"].shape[1]
        self._select(node, node.all_input_nodes[0], torch.arange(channels).reshape(groups, -1).T.reshape(-1))

    def enlarge(self, node: fx.Node) -> None:
        """To the next pixel: whole factors as such, others as a choice of rows and columns."""
        source = node.all_input_nodes[0]
        before, after = (one.meta["tensor_meta"].shape[2:] for one in (source, node))
        if len(before) != 2:
            return
        mode = enlarging_mode(node, self.graph_module) or "nearest"
        scales = enlarging_scales(node, self.graph_module) or (None, None)
        orders = [axis_orders.nearest(*one[:2], mode, one[2]) for one in zip(before, after, scales, strict=True)]
        factors = [max(1, size // old) for size, old in zip(after, before, strict=True)]
        whole = [torch.arange(old).repeat_interleave(factor) for old, factor in zip(before, factors, strict=True)]
        if all(map(torch.equal, orders, whole)):
            self._replace(node, "call_function", enlarged, (source, *factors))
            return
        for axis, order in enumerate(orders):
            source = self._chosen(node, source, axis + 2, order)
        self._succeed(node, source)

    def _held(self, name: str, places: Tensor) -> fx.Node:
        self.graph_module.register_buffer(name, places.clone(), persistent=False)
        held = self.graph.get_attr(name)
        held.meta["tensor_meta"] = _extract_tensor_metadata(places)
        return held

    def shuffle(self, last: fx.Node) -> None:
        """The channels of an image in another order, however they were moved."""
        chain = list(_shape_chain(last))
        if len(chain) < 3 or not _gives_image(source := chain[0].all_input_nodes[0]):
            return
        shape = source.meta["tensor_meta"].shape
        if shape != last.meta["tensor_meta"].shape or shape[1] < 2:
            return
        order = self._order(source, chain)
        if order is not None:
            self._select(last, source, order)

    def _order(self, source: fx.Node, chain: list[fx.Node]) -> Tensor | None:
        shape = source.meta["tensor_meta"].shape
        places = torch.arange(shape.numel()).reshape(shape)
        values: dict[fx.Node, Any] = {source: places}
        try:
            for node in chain:
                function: Callable[..., Any]
                function = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target  # type: ignore[assignment]
                args, kwargs = map_arg(
                    (node.args, node.kwargs), lambda one: values[one] if one in values else _number(one)
                )
                values[node] = function(*args, **kwargs)
        except (KeyError, TypeError, AssertionError, RuntimeError):
            return None
        order = values[chain[-1]][0, :, 0, 0] // shape[2:].numel()
        return order if torch.equal(values[chain[-1]], places[:, order]) else None

    def _select(self, node: fx.Node, source: fx.Node, order: Tensor) -> None:
        with self.graph.inserting_before(node):
            held = self._held(f"{node.name}_order", order)
        self._replace(node, "call_function", torch.index_select, (source, 1, held))

    def _replace(self, node: fx.Node, op: str, target: Any, args: tuple[Any, ...], name: str | None = None) -> None:
        with self.graph.inserting_before(node):
            made = self.graph.create_node(op, target, args, name=name)
        made.meta.update(node.meta)
        self._succeed(node, made)

    def _succeed(self, node: fx.Node, result: fx.Node) -> None:
        if self._sizes is not None and node.name in self._sizes:
            self._sizes[result.name] = self._sizes[node.name]
        node.replace_all_uses_with(result)
        self.graph.erase_node(node)

    def _new(self, near: fx.Node, op: str, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """A node in place of part of another, its shape noted."""
        made = self.graph.create_node(op, target, args)
        made.meta.update(near.meta)
        note_shape(made, self.on_meta)
        return made


def _number(node: fx.Node) -> Any:
    """What a node gives that computes sizes, for one image."""
    if node.op == "call_method" and node.target == "size":
        sizes: Any = node.all_input_nodes[0].meta["tensor_meta"].shape
        return sizes[node.args[1]] if len(node.args) > 1 else sizes
    args, kwargs = map_arg((node.args, node.kwargs), _number)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def note_shape(node: fx.Node, on_meta: OnMeta) -> None:
    """Note what a node gives, from what its inputs are noted to give."""
    env = {
        one: torch.empty(one.meta["tensor_meta"].shape, dtype=one.meta["tensor_meta"].dtype, device="meta")
        for one in node.all_input_nodes
    }
    node.meta["tensor_meta"] = _extract_tensor_metadata(on_meta.call(node, env))


def _axis(node: fx.Node, source: fx.Node) -> int | None:
    """Along which a tensor is split; None where that is computed."""
    place = 0 if called(node) == "unbind" else 1
    given = dict(enumerate(node.args[1:])).get(place, node.kwargs.get("dim", node.kwargs.get("axis", 0)))
    axis: int | None = given % len(source.meta["tensor_meta"].shape) if isinstance(given, int) else None
    return axis


def _gives_image(node: fx.Node) -> bool:
    shown: Any = node.meta.get("tensor_meta")
    return hasattr(shown, "shape") and len(shown.shape) == 4


def _shape_chain(last: fx.Node) -> Iterator[fx.Node]:
    """The calls before a node that only change shapes, the first one first; each is read by the next alone."""
    chain = []
    node = last
    while called(node) in ORDERS and (node is last or len(node.users) == 1):
        chain.append(node)
        node = next(one for one in node.all_input_nodes if hasattr(one.meta.get("tensor_meta"), "shape"))
    return reversed(chain)
