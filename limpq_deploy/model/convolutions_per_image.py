"""Convolutions whose weights are computed for each image (CondConv, dynamic and modulated convolutions), as products of
matrices: no runtime's convolution has as many groups as there are images.

    conv2d(x.view(1, N C, H, W), weights [N O, C, h, w], groups=N)  =  weights [N, O, C h w] @ unfold(x) [N, C h w, L]
"""

import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from limpq_deploy.model.lines import WRITTEN_AT
from limpq_deploy.model.node_by_node import NodeByNode

NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
CONVOLUTIONS = (F.conv2d, torch.conv2d)


def write_products(graph_module: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
    """Rewrite a traced graph in place. ``input_shape``: (C, H, W) of an image."""
    found = [node for node in graph_module.graph.nodes if _groups_per_image(node) is not None]
    if not found:
        return
    shapes = _Shapes(graph_module)
    shapes.run_on(1, input_shape)
    for node in found:
        even = any(size % 2 == 0 for size in shapes.found[_given(node)["weight"]][2:])
        if not (_given(node)["padding"] == "same" and even):  # which pads one side more
            _write(node, shapes.found)
    graph_module.graph.lint()
    graph_module.recompile()


class _Shapes(NodeByNode):
    """Shapes of all tensors for one image."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.found[n] = result.shape
        return result


def _given(node: fx.Node) -> dict[str, Any]:
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return defaults | dict(zip(NAMES, node.args, strict=False)) | node.kwargs


def _groups_per_image(node: fx.Node) -> int | None:
    """How many groups of channels each image has; None of all but a convolution that has so many for each."""
    if node.op != "call_function" or node.target not in CONVOLUTIONS:
        return None
    given = _given(node)
    groups = given["groups"]
    if not isinstance(groups, fx.Node):
        return None
    if groups.target is operator.mul and isinstance(groups.args[1], int):
        return groups.args[1]
    return 1 if groups.target == "size" else None


def _padding(given: dict[str, Any], kernel: list[int]) -> Any:
    """In numbers, of each side."""
    if given["padding"] != "same":
        return 0 if given["padding"] == "valid" else given["padding"]
    dilation = given["dilation"] if isinstance(given["dilation"], tuple | list) else (given["dilation"],) * 2
    return tuple(each * (size - 1) // 2 for each, size in zip(dilation, kernel, strict=True))


def _write(node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> None:
    given, each = _given(node), _groups_per_image(node)
    image, weight, graph = given["input"], given["weight"], node.graph
    assert each is not None
    channels, size = shapes[image][1], shapes[node]
    outputs, inner, *kernel = shapes[weight]

    def call(target: Any, *args: Any) -> fx.Node:
        method = isinstance(target, str)
        made = graph.create_node("call_method" if method else "call_function", target, args)
        made.meta[WRITTEN_AT] = node.meta.get(WRITTEN_AT, "")
        return made

    with graph.inserting_before(node):
        columns = call(
            F.unfold,
            call("reshape", image, -1, channels, *shapes[image][2:]),
            tuple(kernel),
            given["dilation"],
            _padding(given, kernel),
            given["stride"],
        )
        columns = call("reshape", columns, -1, each, inner * kernel[0] * kernel[1], size[2] * size[3])
        rows = call("reshape", weight, -1, each, outputs // each, inner * kernel[0] * kernel[1])
        result = call("reshape", call(torch.matmul, rows, columns), 1, -1, *size[2:])
        if given["bias"] is not None:
            result = call(operator.add, result, call("reshape", given["bias"], 1, -1, 1, 1))
    node.replace_all_uses_with(result)
    graph.erase_node(node)
