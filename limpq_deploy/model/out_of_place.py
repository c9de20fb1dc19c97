"""A traced graph without in-place operations: whoever reads a tensor that was written over reads the result.

torch lets every name of a tensor, and every view of it, see what is written into it. A graph that is rewritten (and an
exported one) knows results only, so each of these names becomes the result, and each view is made again from it.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from limpq_deploy.model.operations import AUGMENTED
from limpq_deploy.model.writes import Write, find_writes
from limpq_deploy.model.written_parts import put_back

FILLS = {"zero_": torch.zeros_like, "fill_": torch.full_like}
"""Methods that write a number over a tensor, whatever is there, and what makes the result."""


def write_out_of_place(graph_module: fx.GraphModule, image_shape: tuple[int, ...]) -> None:
    """Rewrite a traced graph; the model that it was traced from keeps its modules. Raises what `find_writes` raises."""
    order = {node: number for number, node in enumerate(graph_module.graph.nodes)}
    for write in reversed(find_writes(graph_module, image_shape)):
        _redirect(write, order)
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module":
            _replace_module(node, graph_module)
        elif node.op == "call_function":
            _replace_function(node)
        elif node.op == "call_method" and node.target in FILLS:
            node.op, node.target = "call_function", FILLS[node.target]
        elif node.op == "call_method" and node.target == "copy_":
            node.replace_all_uses_with(node.all_input_nodes[-1])
            graph_module.graph.erase_node(node)
        elif node.op == "call_method":
            plain = str(node.target).removesuffix("_")
            node.target = plain if callable(getattr(torch.Tensor, plain, None)) else node.target
    graph_module.graph.lint()
    graph_module.recompile()


def _redirect(write: Write, order: dict[fx.Node, int]) -> None:
    """Later readers of the old names read the result; the last write of a graph comes first."""

    def replace(old: fx.Node, new: fx.Node) -> None:
        for user in list(old.users):
            if order.get(user, -1) > order[write.node]:
                user.replace_input_with(old, new)

    whole, made_whole = put_back(write.node, write.steps)
    order.update(dict.fromkeys(made_whole, order[write.node]))  # they read what was written before
    for view, chain in write.views.items():
        last, made = whole, {write.bases[view]: whole}
        for node in chain:
            with node.graph.inserting_after(last):
                last = node.graph.node_copy(node, lambda before: made.get(before, before))  # noqa: B023
            made[node] = last
        replace(view, last)
    for name in write.names:
        replace(name, whole)


def _replace_module(node: fx.Node, graph_module: fx.GraphModule) -> None:
    module = graph_module.get_submodule(str(node.target))
    if getattr(module, "inplace", False) is True:
        plain = copy.copy(module)
        plain.inplace = False  # type: ignore[assignment]
        graph_module.set_submodule(str(node.target), plain)


def _replace_function(node: fx.Node) -> None:
    function = node.target
    assert callable(function)
    name = getattr(function, "__name__", "")
    if function in AUGMENTED:
        node.target = AUGMENTED[function]
    elif name.endswith("_") and not name.endswith("__"):
        plain = name.removesuffix("_")
        node.target = getattr(torch, plain, None) or getattr(F, plain, None) or function
    if "out" in node.kwargs:
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    if node.kwargs.get("inplace"):
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    position = _position(function, "inplace")
    if position is not None and len(node.args) > position:
        node.args = (*node.args[:position], False, *node.args[position + 1 :])


def _position(function: Callable[..., Any], name: str) -> int | None:
    """Where a parameter stands in a function written in Python; None where it has none of that name."""
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return parameters.index(name) if name in parameters else None
