"""Means and maxima along one spatial axis of images, and maxima along both, as pools of windows.

    x.mean(2) = avg_pool2d(x, (H, 1)).squeeze(2);  x.amax((2, 3)) = max_pool2d(x, (H, W)).flatten(1)
    x.transpose(1, 2).mean(1) = x.mean(2)

A mean along one axis that keeps it stays as it is: so a norm is written by hand, which wants floats,

    x / x.square().mean(-1, keepdim=True).sqrt()
"""

from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.passes.shape_prop import TensorMetadata
from torch.nn import functional as F

from limpq_deploy.model.movers import called, note_shape, sizes_for_several
from limpq_deploy.model.on_meta import OnMeta

POOLS: dict[str, Callable[..., Any]] = {"mean": F.avg_pool2d, "amax": F.max_pool2d}
SPATIAL = {2, 3}


def reduction(node: fx.Node) -> tuple[str, set[int], bool] | None:
    """``mean`` or ``amax``, along which axes of the tensor (from 0), and whether these are kept with one element; None
    of all else."""
    given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    axes: Any = given.get("dim", given.get("axis"))
    axes = list(axes) if isinstance(axes, tuple | list) else [axes]
    plain = all(isinstance(one, int) and not isinstance(one, bool) for one in axes) and given.get("dtype") is None
    source = given.get("input")
    if called(node) not in POOLS or not axes or not plain or "out" in given or not isinstance(source, fx.Node):
        return None
    noted = source.meta.get("tensor_meta")
    shape = noted.shape if isinstance(noted, TensorMetadata) and noted.dtype.is_floating_point else ()
    return (called(node), {one % len(shape) for one in axes}, bool(given.get("keepdim", False))) if shape else None


def pool_axes(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted; new nodes have theirs."""
    on_meta = OnMeta(graph_module)
    sizes = sizes_for_several(graph_module) if any(map(reduction, graph_module.graph.nodes)) else {}
    for node in list(graph_module.graph.nodes):
        _look_through(node)
        found = reduction(node)
        if found is None:
            continue
        (name, axes, keeps), source = found, node.all_input_nodes[0]
        shape = source.meta["tensor_meta"].shape
        if len(shape) != 4 or not axes <= SPATIAL or (name == "mean" and (axes == SPATIAL or keeps)):
            continue
        if any(sizes.get(source.name, shape)[axis] != shape[axis] for axis in axes):  # a maximum over images
            continue
        window = tuple(shape[axis] if axis in axes else 1 for axis in sorted(SPATIAL))
        with graph_module.graph.inserting_before(node):
            pool = graph_module.graph.create_node(
                "call_function", POOLS[name], (source, window), name=f"{node.name}_windows"
            )
        result = [pool]
        if not keeps:
            move, axis = ("flatten", 1) if axes == SPATIAL else ("squeeze", min(axes))
            with graph_module.graph.inserting_before(node):
                result.append(graph_module.graph.call_method(move, (pool, axis)))
        for one in result:
            one.meta.update(node.meta)
            note_shape(one, on_meta)
        node.replace_all_uses_with(result[-1])
        graph_module.graph.erase_node(node)
    graph_module.recompile()


def _look_through(node: fx.Node) -> None:
    """Let a mean or maxima along one axis read what was only turned for it; the other axes keep their order."""
    found = reduction(node)
    while found is not None and len(found[1]) == 1 and not found[2]:
        source = node.all_input_nodes[0]
        order = _order(source)
        if order is None:
            return
        axis = order.pop(*found[1])
        if order != sorted(order):
            return
        node.args, node.kwargs = (source.all_input_nodes[0], axis), {}
        found = reduction(node)


def _order(node: fx.Node) -> list[int] | None:
    """Which axis of the tensor before each axis of a permuted one is; None of all else."""
    rank = len(getattr(node.meta.get("tensor_meta"), "shape", ()))
    given: Any = node.args[1:]
    given = given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given
    if called(node) not in ("permute", "transpose", "swapaxes", "swapdims") or node.kwargs:
        return None
    if not all(isinstance(one, int) for one in given):
        return None
    places = [one % rank for one in given]
    if called(node) == "permute":
        return places
    order = list(range(rank))
    order[places[0]], order[places[1]] = order[places[1]], order[places[0]]
    return order
