"""Padding apart from what it is for: modules that pad become calls of ``F.pad``, and a convolution that pads with other
than zeros is such a call and a convolution that pads nothing.

    ReflectionPad1d(x) = pad(x, mode="reflect");  Conv2d(padding_mode="reflect")(x) = Conv2d(pad(x, mode="reflect"))

Numbers of the image's own have codes, as zeros have.
"""

import copy
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

MODES: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d), "constant"),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d), "reflect"),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d), "replicate"),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d), "circular"),
}
"""Modules that pad; ZeroPad2d is known as it is."""


def call_pads(graph_module: fx.GraphModule) -> None:
    """Rewrite a traced graph in place."""
    for node in list(graph_module.graph.nodes):
        module: Any = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if type(module) in MODES:
            value = getattr(module, "value", None)
            node.args = (node.all_input_nodes[0], tuple(module.padding), MODES[type(module)], value)
            node.op, node.target, node.kwargs = "call_function", F.pad, {}
    around = {
        str(node.target)
        for node in graph_module.graph.nodes
        if node.op == "call_module" and _pads_around(graph_module.get_submodule(str(node.target)))
    }
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module" and node.target in around:
            module, source = graph_module.get_submodule(node.target), node.all_input_nodes[0]
            with graph_module.graph.inserting_before(node):
                ends = tuple(module._reversed_padding_repeated_twice)
                pad = graph_module.graph.create_node(
                    "call_function", F.pad, (source, ends, module.padding_mode), name=f"{node.name}_pad"
                )
            pad.meta.update(node.meta)
            node.replace_input_with(source, pad)
    for name in around:
        graph_module.set_submodule(name, _unpadded(graph_module.get_submodule(name)))
    graph_module.recompile()


def _pads_around(module: nn.Module) -> bool:
    return type(module) in (nn.Conv1d, nn.Conv2d) and module.padding_mode != "zeros"


def _unpadded(module: nn.Module) -> nn.Module:
    """The convolution alone, with the same numbers."""
    found: Any = copy.copy(module)
    found.padding_mode, found.padding = "zeros", tuple(0 for _ in found.kernel_size)
    found._reversed_padding_repeated_twice = [0] * (2 * len(found.padding))
    return found
