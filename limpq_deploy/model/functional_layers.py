"""Convolutions and linear layers that a forward computes with parameters of its own become modules: ``F.conv2d(x,
self.weight)``, as in timm's Conv2dSame, transposed ones and those of one axis, and the projections inside torchvision's
attention.

The module holds the model's own parameters and stands where they stand: ``stem.weight`` is that of layer ``stem``. A
weight that is computed from parameters alone (standardised, say) is computed once, and is a parameter from then on.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.model.constants import value_of

_CONVOLUTION = inspect.signature(lambda input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1: None)
_TRANSPOSED = inspect.signature(
    lambda input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1: None
)
_LINEAR = inspect.signature(lambda input, weight, bias=None: None)


def make_modules(graph_module: fx.GraphModule) -> None:
    """Rewrite a traced graph in place."""
    taken: set[int] = set()
    for node in list(graph_module.graph.nodes):
        found = LAYERS.get(node.target) if node.op == "call_function" else None
        if found is not None:
            _replace(node, graph_module, taken, *found)
    graph_module.recompile()


def _replace(
    node: fx.Node,
    graph_module: fx.GraphModule,
    taken: set[int],
    signature: inspect.Signature,
    make: Callable[..., nn.Module],
) -> None:
    """``taken``: ids of the biases that layers made before own."""
    bound = signature.bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    source, weight, bias = (given.pop(name) for name in ("input", "weight", "bias"))
    tensors = [_parameter(one, graph_module) for one in (weight, bias)]
    named = weight
    if tensors[0] is None and isinstance(weight, fx.Node):
        tensors[0], named = _followed(weight, graph_module)
    if isinstance(bias, fx.Node) and (tensors[1] is None or id(tensors[1]) in taken):
        tensors[1] = _followed(bias, graph_module)[0]
    if tensors[0] is None or tensors[0].dim() == 1 or (bias is not None and tensors[1] is None) or _holds_nodes(given):
        return
    name = _free_name(str(named.target), graph_module)
    module = make(tensors[0], bias is not None, **given)
    module.register_parameter("weight", tensors[0])
    module.register_parameter("bias", tensors[1])
    taken.add(id(tensors[1]))
    with graph_module.graph.inserting_before(node):
        graph_module.set_submodule(name, module.eval())
        layer = graph_module.graph.call_module(name, (source,))
    layer.meta.update(node.meta)
    node.replace_all_uses_with(layer)
    graph_module.graph.erase_node(node)
    left = [one for one in (weight, bias) if one is not None]
    while left:
        done = left.pop()
        if not done.users and done in graph_module.graph.nodes:
            left += done.all_input_nodes
            graph_module.graph.erase_node(done)


def _followed(weight: fx.Node, graph_module: fx.GraphModule) -> tuple[nn.Parameter | None, fx.Node]:
    """A weight that is computed from parameters, as a parameter of its own, and the first parameter that it is
    computed from."""
    value, named = value_of(weight, graph_module), weight
    while named.op != "get_attr" and named.all_input_nodes:
        named = named.all_input_nodes[0]
    return (None if value is None or named.op != "get_attr" else nn.Parameter(value.clone())), named


def _convolution(kind: type[nn.Module], weight: nn.Parameter, bias: bool, **given: Any) -> nn.Module:
    outputs, inputs, *kernel = weight.shape
    return kind(inputs * given["groups"], outputs, tuple(kernel), bias=bias, device="meta", **given)


def _transposed(kind: type[nn.Module], weight: nn.Parameter, bias: bool, **given: Any) -> nn.Module:
    inputs, outputs, *kernel = weight.shape
    return kind(inputs, outputs * given["groups"], tuple(kernel), bias=bias, device="meta", **given)


def _linear(weight: nn.Parameter, bias: bool) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta")


def _parameter(node: Any, graph_module: fx.GraphModule) -> nn.Parameter | None:
    """The parameter that a node reads, where nothing else reads it."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or len(node.users) > 1:
        return None
    owner, _, own = str(node.target).rpartition(".")
    found = getattr(graph_module.get_submodule(owner), own)
    return found if isinstance(found, nn.Parameter) else None


def _holds_nodes(given: dict[str, Any]) -> bool:
    return any(
        isinstance(one, fx.Node)
        for value in given.values()
        for one in (value if isinstance(value, tuple | list) else [value])
    )


def _free_name(weight: str, graph_module: fx.GraphModule) -> str:
    """``stem`` for ``stem.weight``, where nothing calls or reads more of that module; else ``attn.in_proj`` for
    ``attn.in_proj_weight``."""
    owner, _, own = weight.rpartition(".")
    others = {str(node.target) for node in graph_module.graph.nodes if node.op in ("call_module", "get_attr")}
    mine = {weight, f"{owner}.bias"}
    if owner and own == "weight" and not any(one == owner or one.startswith(f"{owner}.") for one in others - mine):
        return owner
    stem = own.removesuffix("weight").rstrip("_") or own
    within = any(f"{owner}.".startswith(f"{one}.") for one in _called(graph_module))  # which is replaced by a layer
    name = f"{owner}{'_' if within else '.'}{stem}" if owner else stem
    while name in others or hasattr(graph_module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]):
        name += "_layer"
    return name


def _called(graph_module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}


LAYERS: dict[Any, tuple[inspect.Signature, Callable[..., nn.Module]]] = {
    F.conv1d: (_CONVOLUTION, partial(_convolution, nn.Conv1d)),
    F.conv2d: (_CONVOLUTION, partial(_convolution, nn.Conv2d)),
    F.conv_transpose1d: (_TRANSPOSED, partial(_transposed, nn.ConvTranspose1d)),
    F.conv_transpose2d: (_TRANSPOSED, partial(_transposed, nn.ConvTranspose2d)),
    F.linear: (_LINEAR, _linear),
}
"""Functions that become layers (torch's own names of them are these), their parameters, and what makes the module."""
