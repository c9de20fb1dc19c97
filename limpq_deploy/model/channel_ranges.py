"""Channels of a layer brought to one range, so that one scale serves all of them; its BatchNorm takes the factors up.

    w'[c] = f[c] * w[c],   mean'[c] = f[c] * mean[c],   var'[c] = f[c]^2 * var[c]
    gamma'[c] = gamma[c] * sqrt(var'[c] + eps) / (f[c] * sqrt(var[c] + eps))

gives the same outputs for any f > 0, with these statistics and with those of a batch. With ``f[c] = usual / max
|w[c]|`` every channel uses the whole grid of a per-tensor quantizer, and a channel that was k times as large, with its
BatchNorm undoing it, gives the same layer for every k. ``usual`` is the median of ``max |w[c]|``, each channel counted
by what BatchNorm leaves of it: the layer's scale, which is read as its importance, follows neither one large channel
nor many dead ones. On export BatchNorm is folded into scales per channel anyway: nothing is added to the engine.

A depthwise layer needs this most, for its channels are single filters whose ranges nothing holds together (Nagel et
al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, equalise across layers).
"""

import torch
from torch import nn

from limpq_deploy.model.layers import TracedModel
from limpq_deploy.progress import counted

LARGEST_FACTOR = 1e9
"""Channels with ranges still farther from the usual one are brought no nearer: they are dead, or next to it."""


def equalise_channels(traced: TracedModel) -> TracedModel:
    """Equalise, in place, all layers of a float model that stand before a BatchNorm; returns the model."""
    for layer in counted(traced.layers, len(traced.layers), "layers equalised"):
        if layer.batchnorm is not None:
            norm = traced.graph_module.get_submodule(layer.batchnorm)
            assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
            _equalise(traced.graph_module.get_submodule(layer.name), norm)
    return traced


def _equalise(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    weight = layer.weight
    mean, var = norm.running_mean, norm.running_var
    assert isinstance(weight, torch.Tensor)
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        ranges = weight.abs().flatten(1).amax(1).double()
        live = ranges > 0
        if not live.any():
            return
        before = (var.double() + norm.eps).sqrt()
        usual = _weighted_median(ranges[live], (ranges * norm.weight.abs() / before)[live])
        factor = torch.where(live, usual / ranges, 1.0).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
        after = (var.double() * factor**2 + norm.eps).sqrt()
        norm.weight.mul_((after / (factor * before)).to(norm.weight.dtype))
        var.copy_(var.double() * factor**2)
        mean.copy_(mean.double() * factor)
        weight.copy_(weight.double() * factor.reshape(-1, *(1,) * (weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.copy_(layer.bias.double() * factor)  # type: ignore[operator]


def _weighted_median(values_C: torch.Tensor, weights_C: torch.Tensor) -> torch.Tensor:
    """The least value up to which half of the weights lies; the median where all weights are 0."""
    ordered, order = values_C.sort()
    reached = (weights_C if weights_C.any() else torch.ones_like(weights_C))[order].cumsum(0)
    return ordered[int((reached < reached[-1] / 2).sum())]
