"""All rival measures of a jointly trained network, on a few hundred images, into its indicators."""

from dataclasses import replace

import torch

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.importance.divergence import Table, add_divergence
from limpq_deploy.importance.fisher import add_fisher
from limpq_deploy.importance.variants import TensorAt, batch_statistics, searched_tensors
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, Measure
from limpq_deploy.progress import Report, silent, tell_part
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.train.at_once import FEWEST_FOR_BATCHNORM, images_at_once
from limpq_deploy.train.device import on_device
from limpq_deploy.train.judge import CLASSES, Judge
from limpq_deploy.train.kept_memory import freed_memory_kept

IMAGES = 512
"""Images that importance is measured on, unless told otherwise."""

BATCH = 128
"""Images at once, from which BatchNorm takes its statistics."""
FEWEST_WITH_GRADIENTS = 4
"""Images at once where all activations are kept, and each image stands alone."""


def measured(
    indicators: Indicators,
    model: QuantizedModel,
    split: Split,
    *,
    images: int = IMAGES,
    seed: int = 0,
    report: Report = silent,
    judge: Judge = CLASSES,
) -> Indicators:
    """Indicators with ``kl``, ``loss`` (where labels teach) and ``fisher`` of every searched layer, each a mean over
    some ``images``.

    The reference is the widest candidate everywhere, whose measures are 0; beside FP8, which no other width is wider
    than in all respects, it is the float model. The model is left at it. ``kl`` and
    ``fisher`` take no labels. ``loss`` may fall by chance where a width does no harm; such entries are 0.
    """
    bits = indicators.bits
    below = bits if FP8 in bits else bits[:-1]
    model.set_float()
    if below != bits:
        model.set_bits({layer.name: (bits[-1], bits[-1]) for layer in model.placement.searched})
    tensors = searched_tensors(model.placement)
    task = judge.of(split)
    names = ("kl", "loss", "fisher") if task.labels_teach else ("kl", "fisher")
    tables: dict[str, Table] = {name: {} for name in names}
    generator = torch.Generator().manual_seed(seed)
    size = min(images_at_once(split, least=FEWEST_FOR_BATCHNORM, most=BATCH), images, len(split))
    part = images_at_once(split, least=FEWEST_WITH_GRADIENTS, most=BATCH)
    count = min(images, len(split)) // size
    with on_device(model) as device, freed_memory_kept():
        for number, (batch, targets) in zip(range(count), split.batches(size, shuffle=(seed, 0)), strict=False):
            report(number, count, f"{len(tensors)} tensors x {len(below)} bit-widths")
            images_NCHW = torch.from_numpy(batch).to(device)
            labels = torch.from_numpy(targets).to(device) if task.labels_teach else None
            for done, some in enumerate(images_NCHW.split(part)):
                tell_part(done * part * len(tensors) // size, len(tensors) * (len(below) + 1), "gradients")
                add_fisher(model, some, tensors, below, generator=generator, table=tables["fisher"], task=task)
            with batch_statistics(model):
                add_divergence(
                    model, images_NCHW, labels, tensors, below, kl=tables["kl"], loss=tables.get("loss", {}), task=task
                )
    return replace(
        indicators,
        layers=tuple(_with_measures(layer, model, tables, bits, size * count) for layer in indicators.layers),
    )


def _with_measures(
    layer: LayerIndicators, model: QuantizedModel, tables: dict[str, Table], bits: tuple[int, ...], images: int
) -> LayerIndicators:
    weight = TensorAt("weight", layer.name)
    act = TensorAt("act", model.placement.layer(layer.name).input)

    def means(table: Table, tensor: TensorAt) -> tuple[float, ...]:
        # Activations of a single width are not measured: no policy can change them.
        return tuple(max(table.get((tensor, width), 0.0), 0.0) / images for width in bits)

    found = {name: Measure(weight=means(table, weight), act=means(table, act)) for name, table in tables.items()}
    return replace(layer, measures={**(layer.measures or {}), **found})
