"""Which activations are in memory while each step of a traced model runs, and how large they are.

A tensor is kept as the codes of its quantizer, packed; it lives from the step that makes it to the last that reads it.
BatchNorm and ReLU work in place where nothing else reads their input, and views take no memory. A tensor without a
quantizer is fused into its reader and not counted; re-quantized codes are made on the way. Where a target puts several
quantizers on one float tensor, each keeps codes of its own.
"""

from dataclasses import replace

from torch import fx

from limpq_deploy.export.records.placement import ActQuantizer, Placement
from limpq_deploy.model.layers import TracedModel, tensor_inputs
from limpq_deploy.model.shapes import elements
from limpq_deploy.policy.indicators import ActMoment, Indicators

IN_PLACE = ("batchnorm", "relu")


def with_memory(indicators: Indicators, traced: TracedModel, placement: Placement) -> Indicators:
    """Indicators that know ``act_elements`` of every layer and all ``moments``."""
    read = act_elements(traced)
    shared: dict[str, int] = {}
    for layer in indicators.layers:  # layers of a group may read parts of its tensor, or maxima of it
        group = layer.act_group or layer.name
        shared[group] = max(shared.get(group, 0), read[layer.name])
    return replace(
        indicators,
        layers=tuple(replace(layer, act_elements=shared[layer.act_group or layer.name]) for layer in indicators.layers),
        moments=activation_moments(traced, placement),
    )


def act_elements(traced: TracedModel) -> dict[str, int]:
    """Elements of the tensor that each layer reads, for one image, by layer."""
    return {
        str(node.target): elements(tensor_inputs(node, traced.kinds)[0])
        for node in traced.graph_module.graph.nodes
        if traced.kinds[node.name] == "layer"
    }


def activation_moments(traced: TracedModel, placement: Placement) -> tuple[ActMoment, ...]:
    """One moment per step that makes a tensor, in execution order, named after the layer or the graph node."""
    nodes = [node for node in traced.graph_module.graph.nodes if traced.kinds[node.name] != "shape"]
    order = {node.name: place for place, node in enumerate(nodes)}
    homes = _homes(traced, nodes)
    quantizers = _quantizers(traced, placement, homes)
    sizes = {node.name: elements(node) for node in nodes if homes.get(node.name) == node.name}
    dies = dict.fromkeys(sizes, -1)
    for node in nodes:
        if node.name in homes:
            readers = [order[user.name] for user in node.users if user.name in order]
            dies[homes[node.name]] = max([dies[homes[node.name]], *readers])
    moments = []
    for node in nodes:
        if node.name not in sizes or traced.kinds[node.name] == "input":
            continue
        now = order[node.name]
        alive = [home for home in sizes if order[home] <= now <= max(dies[home], order[home])]
        fixed_bits, tensors = 0, dict[str, int]()
        for home in alive:
            for quantizer in quantizers[home]:
                if quantizer.bits is not None:
                    fixed_bits += sizes[home] * quantizer.bits
                else:
                    first = quantizer.layers[0]
                    tensors[first] = tensors.get(first, 0) + sizes[home]
        name = str(node.target) if traced.kinds[node.name] == "layer" else node.name
        moments.append(ActMoment(name=name, fixed_bits=fixed_bits, tensors=tensors))
    return tuple(moments)


def _homes(traced: TracedModel, nodes: list[fx.Node]) -> dict[str, str]:
    """The node whose memory holds each tensor, by node: its own, or that of the tensor it changes in place or shows."""
    homes: dict[str, str] = {}
    for node in nodes:
        kind = traced.kinds[node.name]
        if kind == "output":
            continue
        before = tensor_inputs(node, traced.kinds)
        shares = kind == "through" and elements(node) == elements(before[0])
        shares |= kind in IN_PLACE and sum(traced.kinds[user.name] != "shape" for user in before[0].users) == 1
        homes[node.name] = homes[before[0].name] if shares else node.name
    return homes


def _quantizers(traced: TracedModel, placement: Placement, homes: dict[str, str]) -> dict[str, list[ActQuantizer]]:
    """The quantizers whose codes stand in each memory."""
    found: dict[str, dict[str, ActQuantizer]] = {}
    for node, home in homes.items():
        source = traced.source(traced.node(node)).name
        for quantizer in placement.quantizers:
            if quantizer.tensor == source and quantizer.parent is None:
                found.setdefault(home, {})[quantizer.name] = quantizer
    return {home: list(found.get(home, {}).values()) for home in homes.values()}
