"""Channels of a layer brought to one range, so that one scale serves all of them; its BatchNorm takes the factors up.

    w'[c] = f[c] * w[c],   mean'[c] = f[c] * mean[c],   var'[c] = f[c]^2 * var[c]
    gamma'[c] = gamma[c] * sqrt(var'[c] + eps) / (f[c] * sqrt(var[c] + eps))

gives the same outputs for any f > 0, with these statistics and with those of a batch. With ``f[c] = max |w| / max
|w[c]|`` every channel uses the whole grid of a per-tensor quantizer. On export BatchNorm is folded into scales per
channel anyway: nothing is added to the engine.

A depthwise layer needs this most, for its channels are single filters whose ranges nothing holds together (Nagel et
al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, equalise across layers).
"""

import torch
from torch import nn

from limpq_deploy.layers import TracedModel

LARGEST_FACTOR = 1e6
"""Channels with ranges still smaller than that are dead, and stay so."""


def equalise_channels(traced: TracedModel) -> int:
    """Equalise, in place, the layers before a BatchNorm of a float model that has depthwise convolutions.

    Returns the number of layers changed: 0 for a model without depthwise convolutions, which stays as it is.
    """
    modules = {layer.name: traced.graph_module.get_submodule(layer.name) for layer in traced.layers}
    if not any(_is_depthwise(module) for module in modules.values()):
        return 0
    changed = 0
    for layer in traced.layers:
        if layer.batchnorm is not None:
            norm = traced.graph_module.get_submodule(layer.batchnorm)
            assert isinstance(norm, nn.BatchNorm2d)
            changed += _equalise(modules[layer.name], norm)
    return changed


def _equalise(layer: nn.Module, norm: nn.BatchNorm2d) -> bool:
    weight = layer.weight
    mean, var = norm.running_mean, norm.running_var
    assert isinstance(weight, torch.Tensor)
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        ranges = weight.abs().flatten(1).amax(1).double()
        if not ranges.any():
            return False
        factor = torch.where(ranges > 0, (ranges.max() / ranges).clamp_max(LARGEST_FACTOR), 1.0)
        before, after = (var.double() + norm.eps).sqrt(), (var.double() * factor**2 + norm.eps).sqrt()
        norm.weight.mul_((after / (factor * before)).to(norm.weight.dtype))
        var.mul_(factor**2)
        mean.mul_(factor)
        weight.mul_(factor.to(weight.dtype).reshape(-1, *(1,) * (weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(factor.to(weight.dtype))  # type: ignore[operator]
    return True


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
