"""A BatchNorm that follows no layer alone gets one of its own, which it can be folded into.

    BatchNorm(x) = BatchNorm(identity(x))

The layer is a depthwise 1x1 convolution of weights 1 (of vectors, the identity matrix), which every grid of weights
holds exactly. Folded, its integers are one code and a scale for each channel, and a bias: scale and shift of each
channel, rounded no more than any layer's bias. It is called after the BatchNorm, ``norm1_scale`` before ``norm1``, and
nothing trains its weights.
"""

import copy

import torch
from torch import fx, nn

SUFFIX = "_scale"


def give_layers(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted."""
    for node in list(graph_module.graph.nodes):
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.track_running_stats:
            source = node.all_input_nodes[0]
            if not module.affine:
                graph_module.set_submodule(str(node.target), _with_parameters(module))
            if _is_vector(node) == isinstance(module, nn.BatchNorm1d) and not _feeds_it_alone(source, graph_module):
                _put_before(node, source, graph_module)
    graph_module.recompile()


def scales(name: str, layer: nn.Module) -> bool:
    """Whether a layer is one that a BatchNorm was given."""
    return name.endswith(SUFFIX) and not layer.weight.requires_grad and layer.bias is None


def _put_before(node: fx.Node, source: fx.Node, graph_module: fx.GraphModule) -> None:
    name = f"{node.target}{SUFFIX}"
    channels = node.meta["tensor_meta"].shape[1]
    norm = graph_module.get_submodule(str(node.target))
    layer: nn.Conv2d | nn.Linear
    if _is_vector(node):
        layer, weight = nn.Linear(channels, channels, bias=False, device="meta"), torch.eye(channels)
    else:
        layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device="meta")
        weight = torch.ones(channels, 1, 1, 1)
    assert isinstance(norm.running_mean, torch.Tensor)
    layer.weight = nn.Parameter(weight.to(norm.running_mean), requires_grad=False)
    graph_module.set_submodule(name, layer.eval())
    with graph_module.graph.inserting_before(node):
        placed = graph_module.graph.call_module(name, (source,))
    placed.meta.update(node.meta)
    node.replace_input_with(source, placed)


def _feeds_it_alone(source: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Whether a BatchNorm reads a layer that nothing else reads."""
    module = graph_module.get_submodule(str(source.target)) if source.op == "call_module" else None
    return isinstance(module, nn.Conv2d | nn.Linear) and len(source.users) == 1


def _is_vector(node: fx.Node) -> bool:
    return len(node.meta["tensor_meta"].shape) == 2


def _with_parameters(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    """A module of the same statistics with gamma 1 and beta 0."""
    assert norm.running_mean is not None
    full = copy.copy(norm)
    full.affine = True
    full._parameters = {
        "weight": nn.Parameter(torch.ones_like(norm.running_mean)),
        "bias": nn.Parameter(torch.zeros_like(norm.running_mean)),
    }
    return full
