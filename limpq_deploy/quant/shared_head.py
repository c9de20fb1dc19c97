"""What all passes of a joint step have in common is computed once.

Pinned layers at the head of a network (the first convolution with its BatchNorm, ReLU, pool and 8-bit quantizers) do
the same in every pass over a batch. `SharedHead` runs them once, hands their results to every pass, and goes back
through them once with the sum of the passes' gradients: gradients are linear, so that this is the same sum in another
order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
DRAWS = (F.dropout, F.dropout2d, torch.dropout, torch.rand_like, torch.randn_like)


@dataclass(frozen=True, slots=True)
class SharedHead:
    """``head``: images -> what the passes share; ``rest``: that -> logits. Both call the modules of the whole graph."""

    head: fx.GraphModule
    rest: fx.GraphModule

    def once(self) -> "SharedRun":
        """One step's use of it."""
        return SharedRun(self)


class SharedRun:
    """The common part over the batch of one step; after the passes, `backward`.

    BatchNorm statistics in the head see a batch once in a step, as in ordinary training, not once in every pass.
    """

    def __init__(self, part: SharedHead) -> None:
        self._part = part
        self._images: torch.Tensor | None = None
        self._results: Sequence[Any] = ()
        self._leaves: Sequence[Any] = ()

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits by the active bit-widths."""
        if self._images is None:
            self._images = images_NCHW
            self._results = self._part.head(images_NCHW)
            self._leaves = [_leaf(result) for result in self._results]
        assert images_NCHW is self._images, "the passes of a step share one batch"
        logits: torch.Tensor = self._part.rest(*self._leaves)
        return logits

    def backward(self) -> None:
        """Take the gradients of all passes back through the head."""
        reached = [
            (result, leaf.grad)
            for result, leaf in zip(self._results, self._leaves, strict=True)
            if isinstance(leaf, torch.Tensor) and leaf.grad is not None
        ]
        if reached:
            torch.autograd.backward([result for result, _ in reached], [grad for _, grad in reached])
        self._results = self._leaves = ()


def shared_head(graph_module: fx.GraphModule, switches: Callable[[nn.Module], bool]) -> SharedHead | None:
    """Split a graph where the first pass-dependent modules stand; None where nothing but moves comes before them.

    ``switches``: whether a module computes something else from pass to pass. What draws random numbers counts as such.
    Where the rest would write into a result of the head (an addition in place), there is no split.
    """
    same: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "placeholder" or (
            node.op not in ("output", "get_attr")
            and all(before in same for before in node.all_input_nodes)
            and not _varies(node, graph_module, switches)
        ):
            same.add(node)
    results = [
        node for node in graph_module.graph.nodes if node in same and any(user not in same for user in node.users)
    ]
    works = any(node.op == "call_module" and _learns(node, graph_module) for node in same)
    if not works or any(_overwrites(node, graph_module) in results for node in graph_module.graph.nodes):
        return None
    return SharedHead(_head(graph_module, same, results), _rest(graph_module, same, results))


def _varies(node: fx.Node, graph_module: fx.GraphModule, switches: Callable[[nn.Module], bool]) -> bool:
    if node.op != "call_module":
        return node.target in DRAWS
    inner = list(graph_module.get_submodule(str(node.target)).modules())
    return any(switches(module) or isinstance(module, DROPOUTS) for module in inner)


def _learns(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    return next(graph_module.get_submodule(str(node.target)).parameters(), None) is not None


def _overwrites(node: fx.Node, graph_module: fx.GraphModule) -> fx.Node | None:
    """The tensor that a node changes in place, if any: ``relu_``, ``+=``, a module with ``inplace``."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    if node.op == "call_module":
        changes = bool(getattr(graph_module.get_submodule(str(node.target)), "inplace", False))
    else:
        name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
        in_place = (name.endswith("_") and not name.endswith("__")) or name in ("iadd", "isub", "imul", "itruediv")
        changes = in_place or bool(node.kwargs.get("inplace"))
    return first if changes else None


def _head(graph_module: fx.GraphModule, same: set[fx.Node], results: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        if node in same:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in results))
    return fx.GraphModule(graph_module, graph)


def _rest(graph_module: fx.GraphModule, same: set[fx.Node], results: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copies: dict[fx.Node, Any] = {node: graph.placeholder(node.name) for node in results}
    for node in graph_module.graph.nodes:
        if node not in same:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(graph_module, graph)


def _leaf(result: Any) -> Any:
    """A tensor cut off from the head, so that the passes' gradients gather in it; a size as it is."""
    return result.detach().requires_grad_(result.requires_grad) if isinstance(result, torch.Tensor) else result
