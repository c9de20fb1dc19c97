"""Importance of a tensor put together from its channels, out of what joint training has learned.

From the learned scales alone: ``norm``, ``s_b * sqrt(n)`` of a tensor of n elements (rounding is off by s / sqrt(12) an
element, so this is its length), and ``energy``, its square. From one forward pass with everything at the widest
candidate: of every channel of a layer's output the share of noise that a tensor at b bits brings into it,

    noise[c] = mean (change of z[c])^2 / var z[c]

(z: what the layer hands to its BatchNorm, over images and places), and of these the ``mean``, the ``max`` and the
``sum`` over channels.
"""

from math import sqrt

import torch

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.importance.variants import batch_statistics
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.quant.fake_quant import fake_quantize
from limpq_deploy.quant.modules import QuantLayer
from limpq_deploy.quant.quantized_model import QuantizedModel

Curves = dict[str, dict[str, list[float]]]
KINDS = ("mean", "max", "sum")
BATCH = 128


def of_scales(indicators: Indicators, power: int) -> Curves:
    """``(s_b * sqrt(n))^power``: 1 the length of the rounding error, 2 its energy."""
    curves: Curves = {"weight": {}, "act": {}}
    for layer in indicators.layers:
        assert layer.act_elements is not None, "indicators of this version know their tensors' sizes"
        curves["weight"][layer.name] = [(s * sqrt(layer.num_weights)) ** power for s in layer.weight]
        curves["act"][layer.name] = [(s * sqrt(layer.act_elements)) ** power for s in layer.act]
    return curves


def of_channels(
    indicators: Indicators, joint: QuantizedModel, split: Split, *, images: int, seed: int
) -> dict[str, Curves]:
    """Noise of the channels of each layer's output, by `KINDS`, a mean over batches."""
    bits = indicators.bits
    found: dict[str, Curves] = {
        kind: {tensor: {layer.name: [0.0] * len(bits) for layer in indicators.layers} for tensor in ("weight", "act")}
        for kind in KINDS
    }
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    given: dict[str, torch.Tensor] = {}
    joint.set_bits({layer.name: (bits[-1], bits[-1]) for layer in indicators.layers})
    handles = []
    for layer in indicators.layers:
        quantizer = joint.act_quantizer(joint.placement.layer(layer.name).input)
        handles.append(
            joint.quant_layer(layer.name).register_forward_hook(
                lambda _, inputs, output, name=layer.name: seen.__setitem__(name, (inputs[0], output))
            )
        )
        handles.append(
            quantizer.register_forward_hook(
                lambda _, inputs, output, name=layer.name: given.__setitem__(name, inputs[0])
            )
        )
    size = min(BATCH, images, len(split))
    count = min(images, len(split)) // size
    try:
        with torch.no_grad(), batch_statistics(joint):
            for _, (batch, _) in zip(range(count), split.batches(size, shuffle=(seed, 0)), strict=False):
                joint(torch.from_numpy(batch))
                for layer in indicators.layers:
                    _add(found, joint, layer.name, given[layer.name], *seen[layer.name], bits, count)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _add(
    found: dict[str, Curves],
    joint: QuantizedModel,
    name: str,
    before: torch.Tensor,
    read: torch.Tensor,
    made: torch.Tensor,
    bits: tuple[int, ...],
    count: int,
) -> None:
    """Noise of one layer on one batch: ``before`` its input's quantizer, as the layer ``read`` it, and what it
    ``made``."""
    layer = joint.quant_layer(name)
    quantizer = joint.act_quantizer(joint.placement.layer(name).input)
    signal_C = _energy(made - made.mean(_others(made), keepdim=True)).clamp_min(1e-12)
    weight = _weight_at(layer, len(bits) - 1)
    for place in range(len(bits) - 1):
        scale, grid = quantizer.scales.scale(place), quantizer.scales.grids[place]
        moved = fake_quantize(before, scale, grid, elements=before[0].numel()) - read
        changes = {
            "weight": layer.apply_weight(read, _weight_at(layer, place) - weight, None),
            "act": layer.apply_weight(moved, weight, None),
        }
        for tensor, change in changes.items():
            noise_C = (_energy(change) / signal_C).double()
            shares = {"mean": noise_C.mean(), "max": noise_C.max(), "sum": noise_C.sum()}
            for kind, share in shares.items():
                found[kind][tensor][name][place] += share.item() / count


def _weight_at(layer: QuantLayer, place: int) -> torch.Tensor:
    step, grid = layer.step(place), layer.scales.grids[place]
    axis = 0 if step.dim() else None
    return fake_quantize(layer.weight, step, grid, elements=layer.weight.numel(), axis=axis)


def _others(values_NC: torch.Tensor) -> tuple[int, ...]:
    return tuple(axis for axis in range(values_NC.dim()) if axis != 1)


def _energy(values_NC: torch.Tensor) -> torch.Tensor:
    """Mean square of each channel, [C]."""
    return values_NC.square().mean(_others(values_NC))
