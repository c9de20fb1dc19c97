"""Which layer hands its tensor to which: the edges on which neighbours of different precision convert.

What stands between two layers (BatchNorm, ReLU, pools, moves) belongs to the layer before it, as engines fuse it there.
A sum belongs to that of its layers which runs last; the other one hands its tensor to that layer.
"""

from dataclasses import replace

from limpq_deploy.model.layers import TracedModel, tensor_inputs
from limpq_deploy.model.shapes import elements
from limpq_deploy.policy.indicators import Indicators, LayerEdge


def with_edges(indicators: Indicators, traced: TracedModel) -> Indicators:
    """Indicators that know all ``edges``."""
    return replace(indicators, edges=layer_edges(traced))


def layer_edges(traced: TracedModel) -> tuple[LayerEdge, ...]:
    """Every edge once, consumers in execution order. A tensor that reaches a layer on two ways counts once."""
    order = {layer.name: place for place, layer in enumerate(traced.layers)}
    maker: dict[str, str | None] = {}
    sizes: dict[tuple[str, str], int] = {}
    for node in traced.graph_module.graph.nodes:
        kind = traced.kinds[node.name]
        if kind in ("shape", "output"):
            continue
        read = {
            made: tensor for tensor in tensor_inputs(node, traced.kinds) if (made := maker[tensor.name]) is not None
        }
        here = str(node.target) if kind == "layer" else max(read, key=order.__getitem__, default=None)
        for made, tensor in read.items():
            if here is not None and made != here:
                sizes.setdefault((made, here), elements(tensor))
        maker[node.name] = here
    return tuple(
        LayerEdge(producer=producer, consumer=consumer, elements=count)
        for (producer, consumer), count in sorted(
            sizes.items(), key=lambda item: [order[name] for name in item[0]][::-1]
        )
    )
