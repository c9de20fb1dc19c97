"""What the kernels of an engine move, by the layer that they belong to.

A node of the file belongs to the layer before it, where several meet to that which runs last; what stands before all
layers, to the first that reads it. A kernel belongs to the last layer of its nodes, and one without known nodes to the
layer of the kernel before it.
"""

from collections.abc import Mapping, Sequence

import onnx

from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes, engine_layers, works
from limpq_deploy.export.runtimes.tensorrt_rtx.inspect import parse_layers
from limpq_deploy.export.runtimes.tensorrt_rtx.traffic import Entry, moved_bytes, tensor_bytes
from limpq_deploy.export.timing.cost_table import Moved


def moved_by_layer(text: str, model: onnx.ModelProto, order: Sequence[str], batch: int) -> dict[str, Moved]:
    """From the compiler's list of an engine's layers. ``order``: the layers as they are executed. Raises RecordError
    for a list of another form."""
    entries, at, found = parse_layers(text), {name: place for place, name in enumerate(order)}, dict[str, Moved]()
    home, computing = homes(model, at), set(compute_nodes(model).values())
    here = order[0]
    for entry, layer in zip(entries, engine_layers(entries), strict=True):
        if not works(entry["LayerType"]):
            continue
        here = max((home[node] for node in layer.nodes if node in home), key=at.__getitem__, default=here)
        found[here] = found.get(here, Moved()) + _moved(entry, batch, computes=not computing.isdisjoint(layer.nodes))
    return found


def _moved(entry: Entry, batch: int, *, computes: bool) -> Moved:
    return Moved(
        activations=sum(moved_bytes([entry], batch).values()),
        weights=sum(tensor_bytes(one, batch) for one in entry["Constants"]),
        kernels=1,
        reformats=int(not computes),
    )


def homes(model: onnx.ModelProto, at: Mapping[str, int]) -> dict[str, str]:
    """The layer of each node, by the node's name."""
    layers = {node: layer for layer, node in compute_nodes(model).items()}
    made: dict[str, str] = {}
    found: dict[str, str] = {}
    for node in model.graph.node:
        before = [made[name] for name in node.input if name in made]
        home = layers.get(node.name) or max(before, key=at.__getitem__, default=None)
        if home is not None:
            found[node.name] = home
            made.update(dict.fromkeys(node.output, home))
    first: dict[str, str] = {}
    for node in reversed(model.graph.node):
        readers = [first[name] for name in node.output if name in first]
        home = found.get(node.name) or min(readers, key=at.__getitem__, default=None)
        if home is not None:
            found[node.name] = home
            for name in node.input:
                first[name] = min(first.get(name, home), home, key=at.__getitem__)
    return found
