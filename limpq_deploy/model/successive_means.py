"""``x.mean(3).mean(2)``, ``x.mean(-1).mean(-1)``: an average along one axis and then along another one is the average
along both."""

import torch
from torch import fx


def join_means(graph_module: fx.GraphModule) -> None:
    """Rewrite a traced graph in place; nothing else may read the first average."""
    for node in list(graph_module.graph.nodes):
        second = _axis(node)
        source = node.all_input_nodes[0] if second is not None else None
        first = None if source is None else _axis(source)
        if source is None or first is None or second is None or len(source.users) > 1:
            continue
        (axis, kept), (after, also_kept) = first, second
        if kept != also_kept or (axis < 0) != (after < 0):
            continue
        if not kept and after >= axis >= 0:
            after += 1
        elif not kept and axis < 0 and after <= axis:
            after -= 1
        if axis == after:
            continue
        node.args = (source.args[0], sorted((axis, after)), kept)
        node.kwargs = {}
        graph_module.graph.erase_node(source)
    graph_module.recompile()


def _axis(node: fx.Node) -> tuple[int, bool] | None:
    """The one axis of an average, and whether it is kept with one element; None of all else."""
    if node.target not in (torch.mean, "mean") or node.op not in ("call_function", "call_method"):
        return None
    given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    axis = given.get("dim", given.get("axis"))
    if isinstance(axis, tuple | list) and len(axis) == 1:
        axis = axis[0]
    if isinstance(axis, bool) or not isinstance(axis, int) or given.get("dtype") is not None or "out" in given:
        return None
    return (axis, bool(given.get("keepdim", False))) if isinstance(given.get("input"), fx.Node) else None
