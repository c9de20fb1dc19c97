"""What is computed in float between quantizers: which nodes for which target, why, and how much work it is."""

from dataclasses import replace

from torch import fx, nn

from limpq_deploy.export.records.placement import FloatOperator
from limpq_deploy.export.records.targets import TargetSpec
from limpq_deploy.model.layers import TracedModel, is_layer, layer_macs, tensor_inputs
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.operations import Kind, does_nothing, operation
from limpq_deploy.model.shapes import MACS

REAL: tuple[Kind, ...] = ("float", "input")
"""Kinds of nodes whose result is there as reals, whatever quantizes it for others."""
READ_REALS: tuple[Kind, ...] = ("float", "output")
"""Kinds of nodes that take reals as they are."""
ALONE: tuple[Kind, ...] = ("function", "gate")
"""Kinds computed in float where reals are asked for: their codes would be rounded once more for nobody."""
JOINING: tuple[Kind, ...] = ("add", "mul", "concat", "pool", "relu")
"""The same of those that have reals to read, too."""


def for_target(traced: TracedModel, target: TargetSpec) -> TracedModel:
    """The model with everything of kind ``float`` that a target which works on codes cannot execute on them."""
    if target.clip != "integer":
        return traced
    kinds, reasons = dict(traced.kinds), dict(traced.reasons)
    found = replace(traced, kinds=kinds, reasons=reasons)
    nodes = list(traced.graph_module.graph.nodes)
    for node in nodes:
        if kinds[node.name] == "relu" and not _is_absorbed(node, found):
            kinds[node.name] = "function"
        if kinds[node.name] == "function" and kinds[found.source(tensor_inputs(node, kinds)[0]).name] in REAL:
            kinds[node.name] = "float"
            reasons[node.name] = f"{node.name!r}{written_at(node)} reads what is computed in float"
    for node in reversed(nodes):
        asked = kinds[node.name] in ALONE or (kinds[node.name] in JOINING and _takes_reals(node, found))
        if asked and {kinds[reader.name] for reader in readers(node, found)} <= {*READ_REALS, "shape"}:
            kinds[node.name] = "float"
            reasons[node.name] = f"{node.name!r}{written_at(node)} is read by what is computed in float alone"
    return found


def readers(node: fx.Node, traced: TracedModel) -> list[fx.Node]:
    """What reads a tensor, behind nodes that only move its elements."""
    found = []
    for reader in node.users:
        found += readers(reader, traced) if traced.kinds[reader.name] == "through" else [reader]
    return found


def _takes_reals(node: fx.Node, traced: TracedModel) -> bool:
    """Whether one of an operator's tensors is there as reals, or would be: made of such for this operator alone."""
    for source in map(traced.source, tensor_inputs(node, traced.kinds)):
        kind = traced.kinds[source.name]
        if kind in REAL or (kind in JOINING and len(readers(source, traced)) == 1 and _takes_reals(source, traced)):
            return True
    return False


def _is_absorbed(relu: fx.Node, traced: TracedModel) -> bool:
    """Whether a ReLU is part of the operation before it, whose result nothing else reads."""
    before = behind_identities(tensor_inputs(relu, traced.kinds), traced)
    behind = traced.kinds[before[0].name] in ("layer", "batchnorm", "add", "mul", "relu")
    return behind and not any(len(reader.users) > 1 for reader in relu.all_input_nodes)


def reads_codes(node: fx.Node, traced: TracedModel) -> list[fx.Node]:
    """Tensors that an island or an output reads, and that their makers give as codes. A linear layer gives reals as
    soon as codes."""
    return [one for one in tensor_inputs(node, traced.kinds) if _gives_codes(traced.source(one), traced)]


def _gives_codes(source: fx.Node, traced: TracedModel) -> bool:
    kind = traced.kinds[source.name]
    return kind not in REAL and not (kind == "layer" and is_linear(source, traced))


def is_linear(node: fx.Node, traced: TracedModel) -> bool:
    return node.op == "call_module" and isinstance(traced.graph_module.get_submodule(str(node.target)), nn.Linear)


def behind_identities(tensors: list[fx.Node], traced: TracedModel) -> list[fx.Node]:
    """The tensors themselves, where Identity and Dropout stand in between: those are not exported."""
    found = []
    for tensor in tensors:
        while does_nothing(tensor, traced.graph_module):
            tensor = tensor_inputs(tensor, traced.kinds)[0]
        found.append(tensor)
    return found


def float_operators(traced: TracedModel) -> tuple[FloatOperator, ...]:
    """All nodes of kind ``float``, in execution order."""
    return tuple(
        FloatOperator(
            name=node.name,
            operator=operator_name(node, traced.graph_module),
            why=traced.reasons[node.name],
            macs=_macs(node, traced.graph_module),
            num_weights=_weights(node, traced.graph_module),
        )
        for node in traced.graph_module.graph.nodes
        if traced.kinds[node.name] == "float"
    )


def operator_name(node: fx.Node, graph_module: nn.Module) -> str:
    """``LayerNorm``, ``softmax``: what a node calls."""
    described = operation(node, graph_module)[1]
    return described.partition(" (")[2].rstrip(")") or described


def _macs(node: fx.Node, graph_module: fx.GraphModule) -> int:
    return layer_macs(node, graph_module) if is_layer(node, graph_module) else int(node.meta.get(MACS, 0))


def _weights(node: fx.Node, graph_module: nn.Module) -> int:
    if node.op != "call_module":
        return 0
    return sum(one.numel() for one in graph_module.get_submodule(str(node.target)).parameters())
