"""A Linear of many vectors at once reads them as rows.

    linear(x) = linear(x.flatten(0, -2)).reshape(x.shape[:-1] + (outputs,))

so that it is one product of matrices with a bias, whatever the vectors are: tokens, pixels, windows. Its
multiply-accumulates count each of them. A ReLU that alone reads the result comes before it is brought back.
"""

from torch import fx, nn

from limpq_deploy.model.movers import note_shape
from limpq_deploy.model.on_meta import OnMeta
from limpq_deploy.model.operations import operation


def read_rows(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted."""
    on_meta = OnMeta(graph_module)
    for node in list(graph_module.graph.nodes):
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Linear) and len(node.meta["tensor_meta"].shape) > 2:
            _write(node, graph_module, on_meta)
    graph_module.recompile()


def _write(layer: fx.Node, graph_module: fx.GraphModule, on_meta: OnMeta) -> None:
    graph, source = graph_module.graph, layer.all_input_nodes[0]
    last = layer
    while len(last.users) == 1 and operation(reader := next(iter(last.users)), graph_module)[0] == "relu":
        last = reader
    axes = len(layer.meta["tensor_meta"].shape) - 1
    with graph.inserting_before(layer):
        rows = graph.call_method("flatten", (source, 0, -2))
        sizes = [graph.call_method("size", (source, axis)) for axis in range(axes)]
    layer.replace_input_with(source, rows)
    shape = last.meta["tensor_meta"]
    with graph.inserting_after(last):
        back = graph.call_method("reshape", (last, *sizes, shape.shape[-1]))
    last.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
    for node in (rows, back):
        node.meta.update(layer.meta)
    note_shape(rows, on_meta)
    node = layer
    while node is not back:
        note_shape(node, on_meta)
        node = next(iter(node.users))
    back.meta["tensor_meta"] = shape
