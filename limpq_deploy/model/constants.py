"""Tensors of a traced graph that follow from parameters and buffers alone: what they are, and what layers take up.

A layer's result times one number for each of its channels, or plus one, is the layer of other weights:

    g[c] * (w[c] . x + b[c]) + d[c] = (g[c] w[c]) . x + (g[c] b[c] + d[c])

through whatever moves the channels to another axis, as the layer scale of ConvNeXt and of vision transformers stands.
"""

import copy
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from limpq_deploy.model.operations import does_nothing

PRODUCTS = (operator.mul, torch.mul, "mul")
SUMS = (operator.add, torch.add, "add")


def value_of(node: fx.Node, graph_module: fx.GraphModule) -> Tensor | None:
    """The value of a tensor that depends on no image; None for all others."""
    if not _is_constant(node):
        return None
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        found = _computed(node, graph_module, values)
    return found.detach() if isinstance(found, Tensor) else None


def _is_constant(node: fx.Node) -> bool:
    """Whether no input of the model, and no random number, is behind a node."""
    seen, left = set(), [node]
    while left:
        one = left.pop()
        if one.op == "placeholder":
            return False
        if one not in seen:
            seen.add(one)
            left += one.all_input_nodes
    return any(one.op == "get_attr" for one in seen)


def _computed(node: fx.Node, graph_module: fx.GraphModule, values: dict[fx.Node, Any]) -> Any:
    if node in values:
        return values[node]
    if node.op == "get_attr":
        owner, _, own = str(node.target).rpartition(".")
        values[node] = getattr(graph_module.get_submodule(owner), own)
        return values[node]
    args, kwargs = map_arg((node.args, node.kwargs), lambda one: _computed(one, graph_module, values))
    called: Any = node.target
    if node.op == "call_module":
        called = graph_module.get_submodule(str(node.target))
    elif node.op == "call_method":
        called, args = getattr(args[0], str(node.target)), args[1:]
    values[node] = called(*args, **kwargs)
    return values[node]


def take_up(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted; modules that change are copies."""
    for node in list(graph_module.graph.nodes):
        if node.target in (*PRODUCTS, *SUMS) and len(node.args) == 2 and not node.kwargs:
            for tensor, other in (node.args, node.args[::-1]):
                given = value_of(other, graph_module) if isinstance(other, fx.Node) else None
                if given is None or not isinstance(tensor, fx.Node):
                    continue
                if _take_up(node, tensor, given, graph_module):
                    node.replace_all_uses_with(tensor)
                    graph_module.graph.erase_node(node)
                break
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _take_up(node: fx.Node, tensor: fx.Node, given: Tensor, graph_module: fx.GraphModule) -> bool:
    shape = tensor.meta["tensor_meta"].shape
    if node.meta["tensor_meta"].shape != shape:
        return False
    sizes = (1,) * (len(shape) - given.dim()) + tuple(given.shape)
    axes = [axis for axis, size in enumerate(sizes) if size != 1]
    if len(axes) > 1 or 0 in axes:
        return False
    layer = _layer_of(tensor, axes[0] if axes else None, graph_module)
    if layer is None:
        return False
    changed = _changed(graph_module.get_submodule(str(layer.target)), given.reshape(-1), node.target in PRODUCTS)
    graph_module.set_submodule(str(layer.target), changed)
    return True


def _layer_of(tensor: fx.Node, axis: int | None, graph_module: fx.GraphModule) -> fx.Node | None:
    """The layer, or the BatchNorm behind it, whose channels stand along an axis (None: any) of a tensor that nothing
    else reads."""
    for node, along in _back(tensor, axis, graph_module):
        if len(node.users) != 1:
            return None
        module: Any = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            channels = len(node.meta["tensor_meta"].shape) - 1 if isinstance(module, nn.Linear) else 1
            fits = along in (None, channels) and getattr(module, "affine", True)
            return node if fits and _is_called_once(node) else None
    return None


def _back(node: fx.Node, axis: int | None, graph_module: fx.GraphModule) -> Iterator[tuple[fx.Node, int | None]]:
    """Nodes that hand a tensor on, the last first, and where its axis is in each."""
    while True:
        yield node, axis
        rank = len(node.meta["tensor_meta"].shape)
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op == "call_module" and not does_nothing(node, graph_module):
            return
        if name == "permute" and axis is not None:
            order: Any = node.args[1] if isinstance(node.args[1], tuple | list) else node.args[1:]
            axis = order[axis] % rank
        elif name == "transpose" and axis is not None:
            ends: Any = node.args[1:3]
            swapped = [one % rank for one in ends]
            axis = swapped[1 - swapped.index(axis)] if axis in swapped else axis
        elif name == "reshape" and axis in (None, rank - 1) and _is_rows(node):
            axis = None if axis is None else 1
        elif name not in ("permute", "transpose") and node.op != "call_module":
            return
        node = node.all_input_nodes[0]


def _is_rows(node: fx.Node) -> bool:
    """Whether rows of one length become vectors of that length."""
    before, after = (one.meta["tensor_meta"].shape for one in (node.all_input_nodes[0], node))
    return len(before) == 2 and before[-1] == after[-1]


def _is_called_once(node: fx.Node) -> bool:
    return sum(one.op == "call_module" and one.target == node.target for one in node.graph.nodes) == 1


def _changed(module: nn.Module, given: Tensor, multiplies: bool) -> nn.Module:
    found = copy.copy(module)
    weight: Any = module.weight
    weight, bias = weight.detach(), module.bias
    given = given.to(weight).expand(len(weight))
    own = torch.zeros_like(given) if bias is None else bias.detach()  # type: ignore[operator]
    if multiplies:
        weight, own = weight * given.reshape(-1, *(1,) * (weight.dim() - 1)), own * given
    else:
        own = own + given
    found._parameters = dict(module._parameters) | {"weight": nn.Parameter(weight), "bias": nn.Parameter(own)}
    return found
