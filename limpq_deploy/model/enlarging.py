"""Images made larger or smaller: how a call does it, and the form of whole factors."""

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
