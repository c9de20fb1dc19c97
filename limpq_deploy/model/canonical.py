"""A traced graph rewritten with fewer operations, all with the same results.

    SiLU(x)      = x * sigmoid(x)
    Hardswish(x) = x * hardsigmoid(x)
    ReLU(MaxPool(x)) = MaxPool(ReLU(x)), so that the ReLU stands behind its layer
    dropout(x, training=False) = x
    0 + x = x, as `sum([x, y])` begins; 1 * x = x
    max(x, axis)[0] = amax(x, axis)
    clamp(x, 0, 0.5) = clamp(x, 0.0, 0.5): torch's exporter has no form for bounds of two types

The first two are what a runtime without a kernel for them executes: a product of two quantized tensors, the second one
a gate from 0 to 1 (see docs/adr/0006-swish-is-a-product.md).
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.functions import CLAMP
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.operations import operation

GATES: dict[object, Callable[..., torch.Tensor]] = {
    nn.SiLU: torch.sigmoid,
    F.silu: torch.sigmoid,
    nn.Hardswish: F.hardsigmoid,
    F.hardswish: F.hardsigmoid,
}
"""The gate of each self-gated activation."""

DROPS: dict[str, int] = {
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"), 2),
    **dict.fromkeys(("alpha_dropout", "feature_alpha_dropout"), 2),
    "stochastic_depth": 3,
}
"""Functions that drop values in training, and where among their arguments they are told that it is one: torch's, and
torchvision's that drops whole branches."""

NEUTRAL: dict[object, int] = {
    **dict.fromkeys((operator.add, torch.add, "add"), 0),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), 1),
}
"""The number that changes nothing, of operations that take their two operands in any order."""

MAX_POOLS = (F.max_pool1d, torch.max_pool1d, F.max_pool2d, torch.max_pool2d, nn.MaxPool1d, nn.MaxPool2d)


def canonicalise(graph_module: fx.GraphModule) -> None:
    """Rewrite a traced graph in place."""
    for node in list(graph_module.graph.nodes):
        if _hands_on(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph_module.graph.erase_node(node)
    for node in graph_module.graph.nodes:
        numbers = (*node.args, *node.kwargs.values())
        clamps = node.op != "call_module" and node.target in CLAMP
        if clamps and any(isinstance(value, float) for value in numbers):
            node.args = tuple(map(_as_float, node.args))
            node.kwargs = {name: _as_float(value) for name, value in node.kwargs.items()}
    for node in list(graph_module.graph.nodes):
        if node.target in (torch.max, "max") and node.op in ("call_function", "call_method"):
            _take_values(node)
    for node in list(graph_module.graph.nodes):
        gate = GATES.get(_called(node, graph_module))
        if gate is not None:
            _write_product(node, gate)
    for node in list(graph_module.graph.nodes):
        if operation(node, graph_module)[0] == "relu":
            _move_before_pools(node, graph_module)
    graph_module.graph.lint()
    graph_module.recompile()


def _hands_on(node: fx.Node) -> bool:
    """Whether a call gives its input's values. Raises ModelError for a dropout that is always on."""
    if node.op in ("call_function", "call_method") and node.target in NEUTRAL and len(node.all_input_nodes) == 1:
        numbers = [value for value in node.args if not isinstance(value, fx.Node)]
        return numbers == [NEUTRAL[node.target]] and not node.kwargs
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or name not in DROPS:
        return False
    position = DROPS[name]
    given = dict(zip(("input", "p"), node.args, strict=False)) | node.kwargs
    training = node.args[position] if len(node.args) > position else given.get("training", given.get("train", True))
    if training and given.get("p", 0.5) != 0:
        raise ModelError(
            f"{node.name} ({name}){written_at(node)} is always on, in evaluation mode, too; give it "
            "training=self.training, or leave it out"
        )
    return True


def _take_values(node: fx.Node) -> None:
    """Of maxima along an axis whose places nobody reads."""
    given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    values_alone = all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    if not isinstance(given.get("dim"), int) or not values_alone or "out" in given:
        return
    with node.graph.inserting_before(node):
        values = node.graph.create_node(
            "call_function",
            torch.amax,
            (given["input"], given["dim"], given.get("keepdim", False)),
            name=f"{node.name}_values",
        )
    values.meta.update(node.meta)
    for user in list(node.users):
        user.replace_all_uses_with(values)
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _called(node: fx.Node, graph_module: nn.Module) -> object:
    if node.op == "call_module":
        return type(graph_module.get_submodule(str(node.target)))
    return node.target if node.op == "call_function" else None


def _write_product(node: fx.Node, gate: Callable[..., torch.Tensor]) -> None:
    source = node.all_input_nodes[0]
    graph = node.graph
    with graph.inserting_before(node):
        gated = graph.create_node("call_function", gate, (source,), name=f"{node.name}_gate")
        product = graph.create_node("call_function", operator.mul, (source, gated), name=f"{node.name}_product")
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def _move_before_pools(relu: fx.Node, graph_module: nn.Module) -> None:
    """Exchange a ReLU with the max pools before it that nothing else reads."""
    first = last = relu.all_input_nodes[0]
    while _is_max_pool(first, graph_module) and len(first.users) == 1:
        first = first.all_input_nodes[0]
    if first is last:
        return
    pool = next(node for node in _chain(last, first))
    relu.replace_all_uses_with(last)
    relu.replace_input_with(last, first)
    pool.replace_input_with(first, relu)
    pool.prepend(relu)


def _chain(last: fx.Node, first: fx.Node) -> list[fx.Node]:
    """Pools from ``first`` (which is none of them) to ``last``, the earliest first."""
    pools = [last]
    while pools[0].all_input_nodes[0] is not first:
        pools.insert(0, pools[0].all_input_nodes[0])
    return pools


def _is_max_pool(node: fx.Node, graph_module: nn.Module) -> bool:
    return _called(node, graph_module) in MAX_POOLS
