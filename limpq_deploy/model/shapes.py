"""Shapes of all tensors of a traced graph, noted in its nodes' ``tensor_meta``."""

from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from limpq_deploy.model.average_pools import simplify_pools
from limpq_deploy.model.axis_pools import pool_axes
from limpq_deploy.model.movers import called, simplify_moves
from limpq_deploy.model.node_by_node import NodeByNode
from limpq_deploy.model.operations import operation
from limpq_deploy.model.signals import signals_as_images

MACS = "macs"
"""Where the meta of a node that the table does not know holds its multiply-accumulates for one image."""
COPIES = ("contiguous", "clone")
"""Methods that give the same values in other memory."""

RESHAPES = {"view": "reshape", "view_as": "reshape_as"}
ORDERED = ("as_strided", "view_as_complex", "is_contiguous", "stride", "storage_offset", "data_ptr")
"""What shows how a tensor lies in memory."""

WHOLE = "averages_images"
"""In the ``meta`` of a pool that averages each whole image."""


def note_shapes(graph_module: fx.GraphModule, input_shape: tuple[int, ...]) -> set[str]:
    """Note them for one image of ``input_shape`` (C, H, W), and drop calls that only copy. Returns the names of the
    pools that average each whole image. Raises ModelError where the graph does not run."""
    shapes = _Shapes(graph_module)
    shapes.run_on(1, input_shape)
    _drop_copies(graph_module)
    _simplify(graph_module)
    if signals_as_images(graph_module):
        shapes = _Shapes(graph_module)
        shapes.run_on(1, input_shape)
        _simplify(graph_module)
    return shapes.global_pools


def _simplify(graph_module: fx.GraphModule) -> None:
    simplify_pools(graph_module)
    simplify_moves(graph_module)
    pool_axes(graph_module)


def elements(node: fx.Node) -> int:
    """Of what a node gives for one image: of a tensor, or of several together."""
    shown = pytree.tree_leaves(node.meta["tensor_meta"], is_leaf=_is_noted)
    return sum(int(one.shape.numel()) for one in shown if _is_noted(one))


def _is_noted(one: Any) -> bool:
    return isinstance(one, TensorMetadata)


def _drop_copies(graph_module: fx.GraphModule) -> None:
    """Whoever reads a copy reads the tensor itself. Where that lies in memory in another order, views become reshapes;
    not where anything asks for an order."""
    nodes = list(graph_module.graph.nodes)
    free = not any(_asks_for_order(node) for node in nodes)
    for node in nodes:
        if node.op == "call_method" and node.target in COPIES:
            tensor = node.all_input_nodes[0]
            if free or tensor.meta["tensor_meta"].memory_format == torch.contiguous_format:
                node.replace_all_uses_with(tensor)
                graph_module.graph.erase_node(node)
        elif free and node.op == "call_method" and node.target in RESHAPES:
            node.target = RESHAPES[node.target]
    graph_module.recompile()


def _asks_for_order(node: fx.Node) -> bool:
    to_another_type = called(node) == "view" and any(isinstance(one, torch.dtype) for one in node.args)
    return called(node) in ORDERED or to_another_type


class _Shapes(NodeByNode):
    """Notes the shapes of all tensors; ``global_pools``: names of the pools that average each whole image."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.global_pools: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        unknown = n.op.startswith("call") and operation(n, self.module)[0] is None
        result = self._counted(n) if unknown else super().run_node(n)
        described = map_aggregate(
            result, lambda value: _extract_tensor_metadata(value) if isinstance(value, torch.Tensor) else value
        )
        if isinstance(result, torch.Tensor | tuple | list):
            n.meta["tensor_meta"] = described
        if operation(n, self.module)[0] == "pool" and self._averages_images(n):
            self.global_pools.add(n.name)
            n.meta[WHOLE] = True
        return result

    def _counted(self, node: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(node)
        node.meta[MACS] = counter.get_total_flops() // 2
        return result

    def _averages_images(self, node: fx.Node) -> bool:
        """Tried on random numbers, whatever the call looks like: a 7x7 pool of an 8x8 image gives 1x1, too."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        image = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
        if image is None or image.dim() != 4:
            return False
        probe = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
        found = getattr(self, node.op)(
            node.target,
            tuple(probe if value is image else value for value in args),
            {name: probe if value is image else value for name, value in kwargs.items()},
        )
        expected = probe.mean((2, 3))
        whole = found.shape in (expected.shape, (*expected.shape, 1, 1))
        return whole and torch.allclose(found.reshape(expected.shape), expected, atol=1e-5)
