"""Where quantizers stand in a torch graph, for a target.

`place` decides and writes the torch-free `Placement`; `with_quantizers` puts modules at exactly those places. Training
(fake quantizers) and export (markers) both call the second, so that what is trained is what runs.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.export.records.placement import ActQuantizer, LayerPlacement, Placement
from limpq_deploy.export.records.targets import TargetSpec, in_float
from limpq_deploy.model.islands import (
    READ_REALS,
    REAL,
    behind_identities,
    float_operators,
    for_target,
    reads_codes,
)
from limpq_deploy.model.layers import LayerSpec, TracedModel, tensor_inputs
from limpq_deploy.model.operations import does_nothing
from limpq_deploy.model.outputs import feeding_outputs

ELEMENTWISE = ("mul", "concat", "gate", "function")
"""Kinds whose inputs carry quantizers where those of all Adds do."""

QUANTIZERS = "quantizers"
"""Submodule of the placed graph that holds the activation quantizers by name."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor as one consumer reads it: ``source`` makes the float tensor, ``reads`` is what the consumer takes."""

    consumer: str
    reads: str
    source: str
    role: Literal["layer", "add", "mul", "concat", "gate", "function", "pool", "float", "output"]
    layer: str | None = None


def place(
    traced: TracedModel, target: TargetSpec, *, model: str, pinned_bits: int = 8, act_bits: int | None = None
) -> Placement:
    """Decide the quantizers of a traced model. The first layer, those that feed an output and those that BatchNorms
    were given are pinned at ``pinned_bits``; where that would leave nothing to search, the first one alone is, or none.
    ``act_bits``: the one width of what searched layers read, so that weights alone are searched; None: searched too.
    More than 8: activations are floats everywhere, and no quantizer of them does anything.

    Where layers share quantizers, a tensor read by an Add or a pool (or by layers of different classes) is quantized
    once at ``carrier_bits``; searched layers re-quantize its codes, all with one shared quantizer.
    """
    traced = for_target(traced, target)
    own = [layer.name for layer in traced.layers if not layer.scales]
    pinned = {traced.layers[0].name, *feeding_outputs(traced)}
    if pinned.issuperset(own):
        pinned -= set(own[1:] or own)
    pinned.update(layer.name for layer in traced.layers if layer.scales)
    floats = act_bits is not None and in_float(act_bits)
    quantizers: list[ActQuantizer] = []
    inputs: dict[str, str] = {}
    for source, edges in edges_by_source(traced, target).items():
        node = traced.node(source)
        lowest, bound, producer = traced.lowest(node), traced.bound(node), _producer(node, traced)
        for quantizer in _quantizers_of(source, edges, target, pinned, pinned_bits):
            replaced = quantizer.bits is None or floats
            bits = act_bits if replaced else quantizer.bits
            found = replace(quantizer, bits=bits, signed=lowest != "zero", offset=lowest == "near")
            quantizers.append(replace(found, bound=bound, producer=producer))
            inputs.update(dict.fromkeys(quantizer.layers, quantizer.name))
    return Placement(
        model=model,
        target=target.name,
        input_shape=traced.input_shape,
        layers=tuple(
            _layer(
                layer,
                inputs[layer.name],
                pinned_bits if layer.name in pinned else None,
                _block(layer, target) if floats and layer.name not in pinned else None,
            )
            for layer in traced.layers
        ),
        quantizers=tuple(quantizers),
        float_operators=float_operators(traced),
    )


def with_quantizers(
    traced: TracedModel, placement: Placement, make: Callable[[ActQuantizer], nn.Module], *, share: bool = False
) -> fx.GraphModule:
    """A copy of the traced graph with ``make(quantizer)`` called at every place of the placement.

    The modules live under ``quantizers.<name>``; a quantizer that stands on several edges is one module called several
    times. Everything is copied with the graph; with ``share`` the weights of layers are the traced model's own, where
    nothing changes them; not those that an operator reads as well.
    """
    weights = (traced.graph_module.get_submodule(layer.name).weight for layer in placement.layers)
    shared = {id(weight): weight for weight in weights} if share else {}
    for node in traced.nodes.values():
        if node.op == "get_attr":
            shared.pop(id(attrgetter(str(node.target))(traced.graph_module)), None)
    graph_module = copy.deepcopy(traced.graph_module, shared)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    holder = nn.ModuleDict({quantizer.name: make(quantizer) for quantizer in placement.quantizers})
    graph_module.add_submodule(QUANTIZERS, holder)
    grouped = edges_by_source(traced, placement.spec)
    kinds = for_target(traced, placement.spec).kinds
    again: dict[str | None, set[str]] = {}
    for quantizer in placement.quantizers:
        again.setdefault(quantizer.parent, set()).update(quantizer.layers)
    for quantizer in placement.quantizers:
        readers = again.get(quantizer.name, set()).union(quantizer.layers)
        edges = [edge for edge in grouped[quantizer.tensor] if _stands_on(quantizer, edge, readers)]
        if placement.spec.single_q and quantizer.parent is None:
            source = nodes[quantizer.tensor]
            reals = READ_REALS if kinds[quantizer.tensor] in REAL else ()
            _insert_after(
                graph_module, quantizer.name, source, [one for one in source.users if kinds[one.name] not in reals]
            )
        else:
            _insert_on(graph_module, quantizer.name, nodes, edges)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def edges_by_source(traced: TracedModel, target: TargetSpec) -> dict[str, list[Edge]]:
    """Every tensor that needs a quantizer, with the edges on which it is read, in graph order."""
    traced = for_target(traced, target)
    grouped: dict[str, list[Edge]] = {}
    specs = {layer.name: layer for layer in traced.layers}
    for node in traced.graph_module.graph.nodes:
        kind = traced.kinds[node.name]
        before = tensor_inputs(node, traced.kinds) if kind in ("layer", "add", "pool", *ELEMENTWISE) else []
        if kind == "add":
            before = _quantized_addends(before, traced, target)
        elif (kind == "pool" and not target.pools) or (kind in ELEMENTWISE and target.add_inputs != "all"):
            before = []
        elif kind == "function":
            before = [one for one in before if not _is_inner(one, traced)]
        elif kind in ("float", "output") and target.add_inputs == "all":
            before = reads_codes(node, traced)
        for tensor in before:
            own_pad = kind == "layer" and not target.single_q
            consumer, read = _before_pad(node, tensor, traced) if own_pad else (node, tensor)
            edge = Edge(
                consumer=consumer.name,
                reads=read.name,
                source=traced.source(read).name,
                role=kind,  # type: ignore[arg-type]
                layer=specs[str(node.target)].name if kind == "layer" else None,
            )
            grouped.setdefault(edge.source, []).append(edge)
    return {name: grouped[name] for name in traced.nodes if name in grouped}


def _is_inner(node: fx.Node, traced: TracedModel) -> bool:
    """Whether a tensor is a function of single values that one other function reads: both are one."""
    return traced.kinds[node.name] == "function" and len(node.users) == 1


def _producer(node: fx.Node, traced: TracedModel) -> str | None:
    """The layer whose result a tensor is, behind BatchNorm, ReLU and what does nothing."""
    while traced.kinds[node.name] in ("relu", "batchnorm") or does_nothing(node, traced.graph_module):
        node = tensor_inputs(node, traced.kinds)[0]
    return str(node.target) if traced.kinds[node.name] == "layer" else None


def _quantized_addends(addends: list[fx.Node], traced: TracedModel, target: TargetSpec) -> list[fx.Node]:
    """Addends that carry a quantizer. TensorRT fuses the convolution whose result is added; the other input is the
    identity. Where both come straight from convolutions, the second (by custom the shortcut) is the identity."""
    if target.add_inputs == "all":
        return addends
    if target.add_inputs == "none":
        return []
    sources = behind_identities(addends, traced)
    identities = [
        tensor
        for tensor, source in zip(addends, sources, strict=True)
        if traced.kinds[source.name] not in ("layer", "batchnorm")
    ]
    return identities[:1] or addends[1:]


def _before_pad(consumer: fx.Node, tensor: fx.Node, traced: TracedModel) -> tuple[fx.Node, fx.Node]:
    """The edge in front of a layer's own padding: zeros stay zeros, and nothing stands between Pad and convolution."""
    while _pads(tensor, traced) and len(tensor.users) == 1:
        consumer, tensor = tensor, tensor_inputs(tensor, traced.kinds)[0]
    return consumer, tensor


def _pads(node: fx.Node, traced: TracedModel) -> bool:
    if traced.kinds[node.name] == "float":  # with ones
        return False
    if node.op == "call_module":
        return isinstance(traced.graph_module.get_submodule(str(node.target)), nn.ZeroPad2d)
    given = dict(zip(("input", "pad", "mode"), node.args, strict=False)) | node.kwargs
    return node.target is F.pad and bool(given.get("mode", "constant") == "constant")


def _quantizers_of(
    source: str, edges: list[Edge], target: TargetSpec, pinned: set[str], pinned_bits: int
) -> list[ActQuantizer]:
    layers = [edge.layer for edge in edges if edge.layer is not None]
    layers = list(dict.fromkeys(layers))
    searched = tuple(name for name in layers if name not in pinned)
    fixed = tuple(name for name in layers if name in pinned)
    carried = any(edge.role != "layer" for edge in edges)
    carrier = target.carrier_bits

    def quantizer(suffix: str, bits: int | None, readers: tuple[str, ...], parent: str | None = None) -> ActQuantizer:
        return ActQuantizer(name=source + suffix, tensor=source, signed=True, bits=bits, layers=readers, parent=parent)

    if not target.shared_inputs:
        return [
            quantizer(f"_{name.replace('.', '_')}", pinned_bits if name in pinned else None, (name,)) for name in layers
        ]
    if not carried and not fixed:
        return [quantizer("", None, searched)]
    if not carried and not searched:
        return [quantizer("", pinned_bits, fixed)]
    direct = fixed if pinned_bits >= carrier else ()
    result = [quantizer("", carrier, direct)]
    if fixed and not direct:
        result.append(quantizer("_pinned", pinned_bits, fixed, source))
    if searched:
        result.append(quantizer("_layers", None, searched, source))
    return result


def _stands_on(quantizer: ActQuantizer, edge: Edge, readers: set[str]) -> bool:
    """``readers``: the quantizer's layers, and those that re-quantize its codes. What is no layer reads the tensor's
    own quantizer."""
    return edge.layer in readers if edge.role == "layer" else quantizer.parent is None


def _block(spec: LayerSpec, target: TargetSpec) -> int | None:
    """Weights in a row that share a scale. Behind a BatchNorm, whose folding may flip signs, all of a channel do."""
    if spec.kind != "linear" or spec.batchnorm is not None:
        return None
    return target.block_of(spec.num_weights // spec.out_channels)


def _layer(spec: LayerSpec, quantizer: str, pinned_bits: int | None, block: int | None) -> LayerPlacement:
    return LayerPlacement(
        name=spec.name,
        kind=spec.kind,
        input=quantizer,
        macs=spec.macs,
        num_weights=spec.num_weights,
        out_channels=spec.out_channels,
        pinned_bits=pinned_bits,
        batchnorm=spec.batchnorm,
        block=block,
    )


def _insert_after(graph_module: fx.GraphModule, name: str, source: fx.Node, readers: list[fx.Node]) -> None:
    with graph_module.graph.inserting_after(source):
        placed = graph_module.graph.call_module(f"{QUANTIZERS}.{name}", (source,))
    for reader in readers:
        reader.replace_input_with(source, placed)


def _insert_on(graph_module: fx.GraphModule, name: str, nodes: dict[str, fx.Node], edges: list[Edge]) -> None:
    placed: dict[str, fx.Node] = {}
    for edge in edges:
        consumer = nodes[edge.consumer]
        read = nodes[edge.reads]
        current = read if read in consumer.all_input_nodes else _quantized(read, consumer)
        if edge.reads not in placed:
            with graph_module.graph.inserting_after(current):
                placed[edge.reads] = graph_module.graph.call_module(f"{QUANTIZERS}.{name}", (current,))
        consumer.replace_input_with(current, placed[edge.reads])


def _quantized(read: fx.Node, consumer: fx.Node) -> fx.Node:
    """The base quantizer's node that already stands between ``read`` and its consumer."""
    return next(
        node
        for node in consumer.all_input_nodes
        if node.op == "call_module" and str(node.target).startswith(f"{QUANTIZERS}.") and read in node.all_input_nodes
    )
