"""Images made larger or smaller: how a call does it, and the form of whole factors."""

import inspect
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F


def enlarged(x_NCHW: Tensor, rows: int, columns: int) -> Tensor:
    """Every pixel ``rows`` x ``columns`` times."""
    return F.interpolate(x_NCHW, scale_factor=(float(rows), float(columns)), mode="nearest")


def is_nearest(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    """Whether a call enlarges to the nearest pixel."""
    return enlarging_mode(node, graph_module) in ("nearest", "nearest-exact") and len(node.all_input_nodes) >= 1


def enlarging_mode(node: fx.Node, graph_module: fx.GraphModule) -> str | None:
    """How a call of Upsample or interpolate chooses or mixes pixels; None of all else."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        return module.mode if isinstance(module, nn.Upsample) else None
    if node.target is not F.interpolate:
        return None
    return str(dict(enumerate(node.args)).get(3, node.kwargs.get("mode", "nearest")))


def enlarging_scales(node: fx.Node, graph_module: fx.GraphModule) -> tuple[float, ...] | None:
    """The factor of each axis by which a call of Upsample or interpolate finds pixels; None where that is the ratio of
    the sizes."""
    if node.op == "call_module":
        given = vars(graph_module.get_submodule(str(node.target)))
    else:
        given = inspect.signature(F.interpolate).bind(*node.args, **node.kwargs).arguments
    factor: Any = given.get("scale_factor")
    if factor is None or given.get("recompute_scale_factor"):
        return None
    axes = len(node.meta["tensor_meta"].shape) - 2
    return tuple(map(float, factor)) if isinstance(factor, tuple | list) else (float(factor),) * axes
