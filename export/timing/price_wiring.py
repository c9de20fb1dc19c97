"""Which layers see further than their neighbours: those whose tensor comes moved into a sum.

Where a shortcut strides and pads, and is no layer of its own, the compiler writes it once or twice, or fuses it into
the sum, as the layers want it that read the sum.
"""

from collections import defaultdict
from collections.abc import Container, Mapping

import onnx

from limpq_deploy.export.reference.moves import MOVES
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes
from limpq_deploy.export.timing.kernel_costs import homes

MOVING = (MOVES.keys() | {"AveragePool", "Resize"}) - {"Cast", "Clip", "Identity", "Shape"}
"""Operators that put a tensor's numbers elsewhere, or make fewer or more of them."""


def seen_further(template: onnx.ModelProto, order: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """By layer whose tensor an operator moves on its way into a node that joins it with others, while no layer reads
    what is moved: the layers that read what that node makes, before anything else joins it. ``order``: of the
    layers."""
    layers = {node: layer for layer, node in compute_nodes(template).items()}
    read, home = _read_by_layers(template, layers), homes(template, order)
    made: dict[str, tuple[str, bool]] = {}  # by tensor: the layer's node or the join that makes it, and if it is moved
    moved_into: dict[str, set[str]] = defaultdict(set)
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for node in template.graph.node:
        sources = {made[name] for name in node.input if name in made}
        here = (node.name, False)
        if node.name in layers:
            for layer in (layer for source, _ in sources for layer in moved_into[source]):
                found[layer][layers[node.name]] = None
        elif len({source for source, _ in sources}) > 1:
            moved_into[node.name] = {home[source] for source, moved in sources if moved}
        elif sources:
            source, moved = sources.pop()
            here = (source, (moved or node.op_type in MOVING) and read.isdisjoint(node.output))
        else:
            continue
        made.update(dict.fromkeys(node.output, here))
    return {layer: tuple(readers) for layer, readers in found.items()}


def _read_by_layers(template: onnx.ModelProto, layers: Container[str]) -> set[str]:
    """Tensors that a layer reads, as they are or past operators with one input that layers have made."""
    made, joins = set[str](), set[str]()
    for node in template.graph.node:
        before = made.intersection(node.input)
        if node.name in layers or before:
            made.update(node.output)
        if len(before) > 1:
            joins.add(node.name)
    read: set[str] = set()
    for node in reversed(template.graph.node):
        if node.name in layers or (node.name not in joins and not read.isdisjoint(node.output)):
            read.update(node.input)
    return read
