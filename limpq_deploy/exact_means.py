"""Global averages by the arithmetic of the target, where that decides which way a tie is rounded."""

import torch
from torch import fx

from limpq_deploy.export.targets import TargetSpec
from limpq_deploy.layers import TracedModel


def average_as_exported(placed: fx.GraphModule, traced: TracedModel, target: TargetSpec) -> None:
    """Replace, in place, the global pools of a placed graph by `mean_by_reciprocal`, for a target with integer pools.

    torch divides a sum by H*W, and so does ONNX Runtime where it pools floats; its integer kernel multiplies by the
    reciprocal. Both round once more than the exact mean, and differ by one unit in the last place: enough to round a
    mean that lies on a tie of powers of two the other way. For H*W a power of two they are equal.
    """
    if not target.pools:
        return
    for node in list(placed.graph.nodes):
        if traced.kinds.get(node.name) != "pool":
            continue
        source = node.all_input_nodes[0]
        keepdim = len(node.meta["tensor_meta"].shape) == 4
        with placed.graph.inserting_before(node):
            mean = placed.graph.call_function(mean_by_reciprocal, (source, keepdim))
        node.replace_all_uses_with(mean)
        placed.graph.erase_node(node)
    placed.graph.lint()
    placed.recompile()


def mean_by_reciprocal(x_NCHW: torch.Tensor, keepdim: bool) -> torch.Tensor:
    """``sum(x) * (1 / (H * W))``: [N, C, 1, 1] with ``keepdim``, else [N, C]."""
    pixels = torch.tensor(x_NCHW.shape[2] * x_NCHW.shape[3], dtype=x_NCHW.dtype, device=x_NCHW.device)
    return x_NCHW.sum((2, 3), keepdim=keepdim) * (1 / pixels)
