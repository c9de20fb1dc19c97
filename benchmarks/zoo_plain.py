"""A network quantized in the plainest way, for comparison: nothing is folded, equalised or chosen.

The weights of layers become codes -127..127 of a scale per output channel, what layers read becomes 256 codes between
the least and the greatest number that was seen there. All else stays in float: sums, pools and gates, too, which the
program quantizes for a target of integers.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from limpq_deploy.calibration.numbers.ranges import DEAD
from limpq_deploy.calibration.observe import watching_inputs
from limpq_deploy.model.layers import TracedModel


def plain_outputs(
    traced: TracedModel, seen_NCHW: torch.Tensor, images_NCHW: torch.Tensor, *, symmetric: bool
) -> list[np.ndarray]:
    """What it gives for ``images``, its ranges made of ``seen``. ``symmetric``: zero is code 0, as TensorRT has it."""
    graph_module = copy.deepcopy(traced.graph_module).eval()
    layers = {layer.name: graph_module.get_submodule(layer.name) for layer in traced.layers}
    ends: dict[str, tuple[float, float]] = {}

    def look(name: str, values: torch.Tensor) -> None:
        low, high = ends.get(name, (0.0, 0.0))
        ends[name] = min(low, values.min().item()), max(high, values.max().item())

    with torch.no_grad():
        with watching_inputs(layers, look):
            graph_module(seen_NCHW)
        for name, layer in layers.items():
            _round_weight(layer)
            layer.register_forward_pre_hook(_rounding(*ends[name], symmetric=symmetric))
        return _outputs(graph_module, images_NCHW)


def _round_weight(layer: nn.Module) -> None:
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    weight = layer.get_parameter("weight").detach()
    others = [each for each in range(weight.ndim) if each != axis]
    scale = (weight.abs().amax(others, keepdim=True) / 127).clamp_min(DEAD)
    layer.weight = nn.Parameter((weight / scale).round() * scale)


def _rounding(low: float, high: float, *, symmetric: bool) -> Callable[..., tuple[torch.Tensor, ...]]:
    if symmetric:
        scale, least, most = max(high / 127, -low / 128, DEAD), -128.0, 127.0
    else:
        scale = max((high - low) / 255, DEAD)
        least = float(round(low / scale))
        most = least + 255

    def before(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0].div(scale).round_().clamp_(least, most).mul_(scale), *args[1:])

    return before


def _outputs(graph_module: fx.GraphModule, images_NCHW: torch.Tensor) -> list[np.ndarray]:
    return [one.numpy() for one in tree_leaves(graph_module(images_NCHW)) if isinstance(one, torch.Tensor)]
