"""Operations whose last bit depends on who computes them, by the arithmetic of the target.

Beside scales that are powers of two that bit decides which way a value on a tie is rounded, and is all that is left
between a torch model and its exported file.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import TargetSpec
from limpq_deploy.export.reference.elementwise import hard_sigmoid_values, sigmoid_values
from limpq_deploy.model.islands import for_target
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import QUANTIZERS
from limpq_deploy.model.shapes import WHOLE

Floats = NDArray[np.float32]


def compute_as_exported(placed: fx.GraphModule, traced: TracedModel, target: TargetSpec) -> None:
    """Replace, in place, the global pools and gates of a placed graph, for a target that runs them on codes.

    Pools: torch divides a sum by H*W, and so does ONNX Runtime where it pools floats; its integer kernel multiplies by
    the reciprocal. For H*W a power of two they are equal. Over windows its kernel divides, too. Gates: see `TableGate`.
    Quantizers in front of gates need a method ``levels``. For other targets, which leave pools and gates in float,
    nothing is done.
    """
    if not target.pools:
        return
    kinds = for_target(traced, target).kinds
    for node in list(placed.graph.nodes):
        kind = kinds.get(node.name)
        if kind != "gate" and not (kind == "pool" and WHOLE in node.meta):
            continue
        source = node.all_input_nodes[0]
        with placed.graph.inserting_before(node):
            if kind == "pool":
                keepdim = len(node.meta["tensor_meta"].shape) == 4
                new = placed.graph.call_function(mean_by_reciprocal, (source, keepdim))
            else:
                name = f"{node.name}_as_exported"
                placed.add_submodule(name, TableGate(_gate(node, placed), _levels(source, placed)))
                new = placed.graph.call_module(name, (source,))
        node.replace_all_uses_with(new)
        placed.graph.erase_node(node)
    placed.graph.lint()
    placed.recompile()


def mean_by_reciprocal(x_NCHW: torch.Tensor, keepdim: bool) -> torch.Tensor:
    """``sum(x) * (1 / (H * W))``: [N, C, 1, 1] with ``keepdim``, else [N, C]."""
    pixels = torch.tensor(x_NCHW.shape[2] * x_NCHW.shape[3], dtype=x_NCHW.dtype, device=x_NCHW.device)
    return x_NCHW.sum((2, 3), keepdim=keepdim) * (1 / pixels)


class TableGate(nn.Module):
    """A sigmoid or hard sigmoid of a quantized tensor: torch's own in training, in evaluation ONNX Runtime's value for
    each code. ``levels``: the quantizer's values, ascending, float32; None where it is off."""

    def __init__(self, name: str, levels: Callable[[], torch.Tensor | None]) -> None:
        super().__init__()
        self.name = name
        self.levels = levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = None if self.training else self.levels()
        function, values = GATES[self.name]
        if levels is None or x.dtype != torch.float32:
            return function(x)
        step = levels[1] - levels[0]
        codes = ((x - levels[0]) / step).round().long()
        return torch.from_numpy(values(levels.cpu().numpy())).to(x.device)[codes]


GATES: Mapping[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[Floats], Floats]]] = {
    "sigmoid": (torch.sigmoid, sigmoid_values),
    "hardsigmoid": (F.hardsigmoid, lambda values: hard_sigmoid_values(values, alpha=1 / 6, beta=0.5)),
}


def _gate(node: fx.Node, placed: fx.GraphModule) -> str:
    called: Any = placed.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return "hardsigmoid" if isinstance(called, nn.Hardsigmoid) or called is F.hardsigmoid else "sigmoid"


def _levels(source: fx.Node, placed: fx.GraphModule) -> Callable[[], torch.Tensor | None]:
    """Of the quantizer that a tensor comes from, behind nodes that only move its elements."""
    while not str(source.target).startswith(f"{QUANTIZERS}."):
        source = source.all_input_nodes[0]
    quantizer: Any = placed.get_submodule(str(source.target))
    levels: Callable[[], torch.Tensor | None] = quantizer.levels
    return levels
