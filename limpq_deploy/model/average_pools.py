"""Pools over windows: which of them do nothing, and adaptive ones as ``F.avg_pool2d`` and ``F.max_pool2d``."""

import operator
from typing import Any

from torch import fx, nn
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional as F

ADAPTIVE = (F.adaptive_avg_pool2d,)
LARGEST = (F.adaptive_max_pool2d,)
WINDOWS = (F.avg_pool2d,)


def is_windows(node: fx.Node, graph_module: nn.Module) -> bool:
    """Whether a pool averages windows of pixels, each by the number of them."""
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.AvgPool2d):
        return module.divisor_override is None
    return node.target in WINDOWS and len(node.args) < 7 and node.kwargs.get("divisor_override") is None


def simplify_pools(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted: a pool to the size that is there goes, an adaptive one whose
    sizes divide is one of equal windows."""
    for node in list(graph_module.graph.nodes):
        kernel = _kernel(node, graph_module)
        if kernel is None:
            continue
        source = node.all_input_nodes[0]
        if kernel == (1, 1):
            node.replace_all_uses_with(source)
        else:
            with graph_module.graph.inserting_before(node):
                pool = graph_module.graph.create_node(
                    "call_function",
                    F.max_pool2d if is_largest(node, graph_module) else F.avg_pool2d,
                    (source, kernel, kernel),
                    name=f"{node.name}_windows",
                )
            pool.meta.update(node.meta)
            node.replace_all_uses_with(pool)
        graph_module.graph.erase_node(node)
    graph_module.recompile()


def _kernel(node: fx.Node, graph_module: nn.Module) -> tuple[int, int] | None:
    """Of the equal windows side by side that an adaptive pool is, or a pool of single pixels; None for all others."""
    module: Any = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, nn.AvgPool2d):
        return (1, 1) if {module.kernel_size, module.stride, module.padding} <= {1, 0, (1, 1), (0, 0)} else None
    largest = is_largest(node, graph_module)
    adaptive = largest or isinstance(module, nn.AdaptiveAvgPool2d) or node.target in ADAPTIVE
    if not adaptive or not isinstance(node.meta.get("tensor_meta"), TensorMetadata):
        return None
    before, after = (one.meta["tensor_meta"].shape[-2:] for one in (node.all_input_nodes[0], node))
    whole = tuple(after) == (1, 1) != tuple(before)
    if any(map(operator.mod, before, after)) or (whole and not largest):
        return None
    return before[0] // after[0], before[1] // after[1]


def is_largest(node: fx.Node, graph_module: nn.Module) -> bool:
    """Whether a call gives adaptive maxima."""
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, nn.AdaptiveMaxPool2d) or node.target in LARGEST
