"""A module that is called several times becomes several modules, one for each call.

A head that looks at every level of a pyramid is such a module. Each call reads another tensor, whose grid is another,
and its BatchNorm is folded with it; so each call gets weights of its own, equal until they are trained.
"""

import copy
from collections.abc import Iterable

from torch import fx


def separate_calls(graph_module: fx.GraphModule, nodes: Iterable[fx.Node]) -> None:
    """Give, in place, every call after the first of a module a copy: ``head.0`` becomes ``head.0_call2``."""
    calls: dict[str, int] = {}
    for node in nodes:
        name = str(node.target)
        calls[name] = calls.get(name, 0) + 1
        if calls[name] > 1:
            node.target = f"{name}_call{calls[name]}"
            graph_module.set_submodule(node.target, copy.deepcopy(graph_module.get_submodule(name)))
    graph_module.recompile()
