"""Importance around a uniform point of the budget: what one tensor that moves from there does to the outputs.

    move(t, b) = D(float || point with t at b) - D(float || point)

with D the KL divergence of the logits, by forward passes of the joint network, BatchNorm on the batch. It is 0 where
the tensor stays, and negative where a move brings the outputs nearer to the float ones. ``float`` is the float network
itself, which teaches fine-tuning, or the joint network unquantized. With the widest candidate for the point this is
``kl`` but for its reference: the widest network is a neighbour of float too, and what it differs by counts in no move.
"""

from dataclasses import replace
from itertools import product

import torch
from torch import nn

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.variants import TensorAt, Variants, batch_statistics
from limpq_deploy.model.results import tensors_of
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.train.device import channels_last

BATCH = 128
Curves = dict[str, dict[str, list[float]]]
"""``weight`` and ``act``, by layer, one number for each of the bits."""


def moves(
    indicators: Indicators,
    joint: QuantizedModel,
    reference: nn.Module | None,
    split: Split,
    point: BitPair,
    *,
    images: int,
    seed: int,
) -> Curves:
    """Mean over images, from all tensors at ``point``. ``reference``: the float network in evaluation mode; None: the
    joint network unquantized."""
    bits = indicators.bits
    kinds = {"weight": point[0], "act": point[1]}
    sums: Curves = {kind: {layer.name: [0.0] * len(bits) for layer in indicators.layers} for kind in kinds}
    size = min(BATCH, images, len(split))
    count = min(images, len(split)) // size
    with torch.no_grad(), channels_last(joint, True), batch_statistics(joint):
        for _, (batch, _) in zip(range(count), split.batches(size, shuffle=(seed, 0)), strict=False):
            images_NCHW = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
            joint.set_float()
            wanted = _outputs((reference or joint)(images_NCHW))
            joint.set_bits({layer.name: point for layer in indicators.layers})
            variants = Variants(joint, images_NCHW)
            here = _away(variants.outputs, wanted)
            moved: dict[TensorAt, list[str]] = {}
            for (kind, start), layer in product(kinds.items(), indicators.layers):
                if kind == "act" and start == bits[-1] != point[0]:  # nothing is gained by it
                    continue
                name = layer.name if kind == "weight" else joint.placement.layer(layer.name).input
                moved.setdefault(TensorAt("weight" if kind == "weight" else "act", name), []).append(layer.name)
            for tensor, width, found in variants.each(moved, bits):
                if width == kinds[tensor.kind]:
                    continue
                more = _away(found, wanted) - here
                for name in moved[tensor]:
                    sums[tensor.kind][name][bits.index(width)] += more / (size * count)
    return sums


def around(indicators: Indicators, curves: Curves, point: BitPair, reach: int) -> Indicators:
    """Indicators of these moves, each tensor at most ``reach`` bits from the point. From each curve its least entry is
    taken off, which no policy's order depends on; what is not monotone is left to the program's repair."""
    admitted = tuple(
        (weight, act)
        for weight, act in product(indicators.bits, indicators.bits)
        if abs(weight - point[0]) <= reach and abs(act - point[1]) <= (reach if point[1] < indicators.bits[-1] else 0)
    )
    read = with_curves(indicators, curves)
    return replace(read, layers=tuple(replace(layer, pairs=admitted) for layer in read.layers))


def with_curves(indicators: Indicators, curves: Curves) -> Indicators:
    """Indicators read by curves that may be negative: each is lifted to 0 by its least entry."""
    return replace(
        indicators,
        layers=tuple(
            replace(
                layer,
                weight=_lifted(curves["weight"][layer.name]),
                act=_lifted(curves["act"][layer.name]),
                measures=None,
            )
            for layer in indicators.layers
        ),
    )


def _lifted(curve: list[float]) -> tuple[float, ...]:
    return tuple(value - min(curve) for value in curve)


def _outputs(result: object) -> tuple[torch.Tensor, ...]:
    return tuple(output.double() for output in tensors_of(result))


def _away(result: object, wanted: tuple[torch.Tensor, ...]) -> float:
    return CLASSIFICATION.divergence(_outputs(result), wanted).item()
