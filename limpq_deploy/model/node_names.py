"""A tensor's name becomes that of its quantizer, a module in a container of its own."""

from torch import fx, nn

RESERVED = frozenset(dir(nn.ModuleDict()))
"""Names that such a container has itself: ``to``, ``keys``, ``values``, ``half``."""


def rename_reserved(graph_module: fx.GraphModule) -> None:
    """Give nodes with names that a quantizer cannot have others, in place."""
    for node in graph_module.graph.nodes:
        if node.name in RESERVED:
            node._rename(f"{node.name}_result")
    graph_module.recompile()
