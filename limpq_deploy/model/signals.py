"""Signals [N, C, L] are images of one row [N, C, 1, L]: what has a form for images has one for signals.

    conv1d(x) = conv2d(x.unsqueeze(2)).squeeze(2), with kernels of one row

and so have BatchNorm1d and the pools. What treats each number by itself, sums, joins, pads and slices of such signals
follow, so that nothing stands between Conv1d, BatchNorm, ReLU and the next Conv1d; where signals come from images or
go back to them, the two moves are one that codes take. Layers keep their names.
"""

import operator
from math import prod
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional as F

from limpq_deploy.model.axis_pools import reduction
from limpq_deploy.model.enlarging import enlarging_mode, enlarging_scales, is_nearest
from limpq_deploy.model.functions import is_function
from limpq_deploy.model.movers import called, sizes_for_several
from limpq_deploy.model.operations import does_nothing, operation
from limpq_deploy.model.signal_calls import MODULES, POOLS, has_image_module, image_module, image_pool
from limpq_deploy.model.tied import name_apart

RESHAPES = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "getitem")
"""Calls that give the numbers that they read in another shape, as long as they give all of them."""
EACH = (nn.PReLU, operator.sub, torch.sub, "sub", operator.truediv, torch.div, "div")
"""More calls that treat each number by itself; those of two tensors, and of a number for each channel, have no integer
form."""
Shapes = tuple[tuple[int, ...], ...]
"""Of one tensor, for one image and for several."""


def signals_as_images(graph_module: fx.GraphModule) -> bool:
    """Rewrite, in place, a graph whose shapes are noted; whether anything was. Shapes are to be noted again."""
    if not any(_begins(node, graph_module) for node in graph_module.graph.nodes):
        return False
    signals = _Signals(graph_module)
    for node in list(graph_module.graph.nodes):
        signals.visit(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return True


def _begins(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Whether a call wants signals to be images: a layer, norm or pool of one axis, a mean of flattened images."""
    if _along_signals(node):
        return _name(node.all_input_nodes[0], graph_module) in RESHAPES
    kind = type(graph_module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    return _rank(node) == 3 and (kind in MODULES or kind in POOLS)


class _Signals:
    """``images``: of each signal, the node that gives it as images of one row."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module, self.graph = graph_module, graph_module.graph
        self.images: dict[fx.Node, fx.Node] = {}
        self.sizes = sizes_for_several(graph_module)
        self.modules = _modules(graph_module)
        name_apart(graph_module, self.modules)
        for name in self.modules:
            graph_module.set_submodule(name, image_module(graph_module.get_submodule(name)))

    def visit(self, node: fx.Node) -> None:
        """Rewrite a call whose inputs were visited."""
        tensors = [one for one in node.all_input_nodes if _rank(one) is not None]
        if not tensors:
            return
        if node.op == "call_module" and str(node.target) in self.modules:
            node.replace_input_with(tensors[0], self.image_of(tensors[0]))
            self.gives_signal(node)
        elif (name := _along_signals(node)) is not None:
            self.reduce(node, tensors[0], name)
        elif _rank(node) == _rank(tensors[0]) == 3 and (pool := image_pool(node, self.graph_module)) is not None:
            self.call(node, pool[0], (self.image_of(tensors[0]), *pool[1]))
        elif _rank(node) == _rank(tensors[0]) == 3 and is_nearest(node, self.graph_module):
            self.enlarge(node, tensors[0])
        elif not any(one in self.images for one in tensors) and node.target is not F.pad:
            return
        elif self.reshapes(node):
            self.reshape(node, tensors[0])
        elif _rank(node) == 3 and self.follows(node, tensors):
            self.gives_signal(node)
        elif self.called(node) is nn.InstanceNorm1d:
            self.images[node] = self.raised(node)

    def image_of(self, signal: fx.Node) -> fx.Node:
        """What gives a signal as images: what it was squeezed from, else itself with an axis more."""
        if signal not in self.images:
            before = signal.all_input_nodes[0] if self.reshapes(signal) else None
            same = before is not None and self.shapes(before) == _as_images(self.shapes(signal))
            self.images[signal] = before if before is not None and same else self.raised(signal)
        return self.images[signal]

    def raised(self, tensor: fx.Node) -> fx.Node:
        """A signal, or what is broadcast with signals, with an axis before the last one."""
        with self.graph.inserting_after(tensor):
            found = self.graph.call_method("unsqueeze", (tensor, -2))
        self.is_image_of(found, tensor)
        return found

    def gives_signal(self, node: fx.Node) -> None:
        """Of a node that now gives images: whoever reads it reads the signal."""
        with self.graph.inserting_after(node):
            signal = self.graph.create_node("call_method", "squeeze", (node, 2), name=f"{node.name}_signal")
        signal.meta.update(node.meta)
        self.sizes[signal.name] = self.sizes[node.name]
        self.is_image_of(node, signal)
        node.replace_all_uses_with(signal, delete_user_cb=lambda user: user is not signal)
        self.images[signal] = node

    def is_image_of(self, image: fx.Node, signal: fx.Node) -> None:
        """Note shapes of what has an axis before the signal's last one."""
        one, several = (torch.Size((*shape[:-1], 1, shape[-1])) for shape in self.shapes(signal))
        image.meta.update(signal.meta, tensor_meta=signal.meta["tensor_meta"]._replace(shape=one))
        self.sizes[image.name] = several

    def call(self, node: fx.Node, function: Any, args: tuple[Any, ...]) -> None:
        node.op, node.target, node.args, node.kwargs = "call_function", function, args, {}
        self.gives_signal(node)

    def reduce(self, node: fx.Node, source: fx.Node, name: str) -> None:
        """A mean or maxima along the only axis: of a signal, or of images that were flattened."""
        image = self.images.get(source)
        if image is None and self.reshapes(source):
            before = source.all_input_nodes[0]
            if _rank(before) == 4 and self.shapes(before, 2) == self.shapes(source, 2):
                image = before
        if image is None:
            return
        keeps = _rank(node) == 3
        function = torch.mean if name == "mean" else torch.amax
        node.op, node.target, node.args, node.kwargs = "call_function", function, (image, (2, 3), keeps), {}
        if keeps:
            self.gives_signal(node)

    def enlarge(self, node: fx.Node, signal: fx.Node) -> None:
        """To the nearest place. Where an image has as many pixels behind it, or twice as many, torch finds them by
        these numbers, and those of a signal by the factor nevertheless."""
        before, after = (one.meta["tensor_meta"].shape[2] for one in (signal, node))
        scales = enlarging_scales(node, self.graph_module)
        if scales is not None and after in (before, 2 * before) and scales[0] != after / before:
            return
        to = ((1, after), None) if scales is None else (None, (1.0, *scales))
        self.call(node, F.interpolate, (self.image_of(signal), *to, enlarging_mode(node, self.graph_module)))

    def reshape(self, node: fx.Node, signal: fx.Node) -> None:
        """Of a signal: to the images that it was, to vectors, or to anything else."""
        shapes, found = self.shapes(signal), self.shapes(node)
        if found == _as_images(shapes):
            node.replace_all_uses_with(self.images[signal])
        elif found == tuple((images, channels * length) for images, channels, length in shapes):
            node.op, node.target, node.args, node.kwargs = "call_method", "flatten", (self.images[signal], 1), {}
        elif _name(node, self.graph_module) in ("view", "reshape"):
            node.replace_input_with(signal, self.images[signal])

    def follows(self, node: fx.Node, tensors: list[fx.Node]) -> bool:
        """Let a call on signals read images, where it is as good on these; whether it is."""
        kind = operation(node, self.graph_module)[0]
        if node.target is F.pad:
            fits = _pads_ends(node)
        elif kind == "concat":
            fits = _joins_signals(node, tensors)
        elif node.target is operator.getitem:
            fits = _cuts_signal(node)
        elif node.target is torch.index_select:
            fits = _chooses(node)
        else:
            single = does_nothing(node, self.graph_module) or is_function(node, self.graph_module)
            fits = single or kind in ("relu", "gate", "add", "mul") or self.called(node) in EACH
        for one in tensors if fits else ():
            rank = _rank(one) or 0
            if rank > 1:
                node.replace_input_with(one, self.image_of(one) if rank == 3 else self.raised(one))
        return fits

    def called(self, node: fx.Node) -> Any:
        module = self.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        return node.target if module is None else type(module)

    def reshapes(self, node: fx.Node) -> bool:
        """Whether a call gives all numbers of one tensor, in another shape."""
        tensors = [one for one in node.all_input_nodes if _rank(one) is not None]
        if _name(node, self.graph_module) not in RESHAPES or len(tensors) != 1 or _rank(node) is None:
            return False
        typed = any(isinstance(one, torch.dtype) for one in node.args)
        chosen = node.target is operator.getitem and _names_places(node.args[1])
        before, after = ([prod(one) for one in self.shapes(given)] for given in (tensors[0], node))
        return not typed and not chosen and before == after

    def shapes(self, node: fx.Node, axes: int | None = None) -> Shapes:
        """``axes``: of so many from the first; None for all."""
        return tuple(node.meta["tensor_meta"].shape[:axes]), tuple(self.sizes[node.name][:axes])


def _modules(graph_module: fx.GraphModule) -> list[str]:
    """Names of the modules of one axis whose every call gives signals."""
    fits: dict[str, bool] = {}
    for node in graph_module.graph.nodes:
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and type(module) in MODULES:
            plain = _rank(node) == 3 and len(node.args) + len(node.kwargs) == 1 and has_image_module(module)
            fits[str(node.target)] = fits.get(str(node.target), True) and plain
    return [name for name, plain in fits.items() if plain]


def _along_signals(node: fx.Node) -> str | None:
    """``mean`` or ``amax`` where a call is that of signals along their axis."""
    found = reduction(node)
    return found[0] if found is not None and found[1] == {2} and _rank(node.all_input_nodes[0]) == 3 else None


def _pads_ends(node: fx.Node) -> bool:
    given: dict[str, Any] = dict(zip(("input", "pad", "mode"), node.args, strict=False)) | node.kwargs
    if len(given["pad"]) != 2:
        return False
    if given.get("mode", "constant") != "constant":  # torch asks for both axes of images then
        node.args, node.kwargs = (given["input"], (*given["pad"], 0, 0), given["mode"]), {}
    return True


def _joins_signals(node: fx.Node, tensors: list[fx.Node]) -> bool:
    """Of channels, or one behind the other; the axis is then that of images."""
    given: dict[str, Any] = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    axis = given.get("dim", given.get("axis", 0)) % 3
    if axis == 0 or any(_rank(one) != 3 for one in tensors):
        return False
    node.args, node.kwargs = (given["tensors"], 1 if axis == 1 else 3), {}
    return True


def _chooses(node: fx.Node) -> bool:
    """Channels or places along the axis by number; the axis is then that of images."""
    given: dict[str, Any] = dict(zip(("input", "dim", "index"), node.args, strict=False)) | node.kwargs
    axis = given["dim"] % 3
    node.args, node.kwargs = (given["input"], axis + (axis == 2), given["index"]), {}
    return axis > 0


def _cuts_signal(node: fx.Node) -> bool:
    """Slices of a signal; those are then of images."""
    given: Any = node.args[1]
    places = list(given) if isinstance(given, tuple | list) else [given]
    if Ellipsis in places:
        at = places.index(Ellipsis)
        places[at : at + 1] = [slice(None)] * (4 - len(places))
    if not all(isinstance(one, slice) for one in places):
        return False
    node.args = (node.args[0], (*places[:2], *[slice(None)] * (3 - len(places[:2])), *places[2:]))
    return True


def _names_places(index: Any) -> bool:
    """Whether an index has a list, which gives places in an order of its own, or several times."""
    return isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(one, list) for one in index))


def _as_images(signals: Shapes) -> Shapes:
    return tuple((images, channels, 1, length) for images, channels, length in signals)


def _rank(node: fx.Node) -> int | None:
    """Axes of what a node gives; None where that is no tensor."""
    shown = node.meta.get("tensor_meta")
    return len(shown.shape) if isinstance(shown, TensorMetadata) else None


def _name(node: fx.Node, graph_module: fx.GraphModule) -> str:
    if node.op != "call_module":
        return called(node)
    kind: type[nn.Module] = type(graph_module.get_submodule(str(node.target)))
    return {nn.Flatten: "flatten", nn.Unflatten: "unflatten"}.get(kind, "")
