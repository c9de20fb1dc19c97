"""Quantization without training: ranges from a few hundred images, then the correction that measures best."""

import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.batchnorm import batchnorms, reestimate_batchnorm
from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.numbers.ranges import RANGES, least_squares
from limpq_deploy.calibration.observe import sample_inputs
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.progress import Report, counted, silent
from limpq_deploy.quant.bias_correction import correct_biases
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.train.at_once import FEWEST_FOR_BATCHNORM, images_at_once
from limpq_deploy.train.corrections import keep_best, some_of, untrained
from limpq_deploy.train.device import device_of, on_device
from limpq_deploy.train.finetuned import FineTuned, Top1
from limpq_deploy.train.judge import CLASSES, Judge
from limpq_deploy.train.kept_memory import freed_memory_kept

IMAGES = 512
"""Training images for ranges and corrections, unless told otherwise."""
BATCH = 64
"""Images of a batch, from which BatchNorm takes its statistics."""
CORRECTIONS = {"none": "no correction", "bias": "bias correction", "batchnorm": "BatchNorm estimated anew"}
"""What may follow the ranges, in words."""

OTHER_RANGES = {"entropy": "ranges of least divergence"}
"""Methods of `RANGES` tried beside the usual one. Where a few images have numbers many times those of others (blocks
without a last ReLU add them up), squared errors are theirs alone, and the scale serves nobody else."""
USUAL_RANGES = "mse"

IN_WORDS = CORRECTIONS | OTHER_RANGES


class Calibration:
    """The same training images in the same batches whenever it is gone through; of nearly one size, for BatchNorm
    takes a variance of each."""

    def __init__(self, split: Split, *, images: int, seed: int, device: torch.device) -> None:
        chosen = split.order((seed, 0))[: min(images, len(split))]
        self.images = len(chosen)
        batch = images_at_once(split, least=FEWEST_FOR_BATCHNORM, most=BATCH)
        self.chunks = np.array_split(chosen, -(-len(chosen) // batch))
        self._split, self._device = split, device

    def __iter__(self) -> Iterator[torch.Tensor]:
        chunks = counted(self.chunks, len(self.chunks), "batches for calibration")
        return (torch.from_numpy(self._split.load(chunk)[0]).to(self._device) for chunk in chunks)


def set_ranges(model: QuantizedModel, split: Split, *, ranges: str, images: int, seed: int) -> int:
    """Scales of all grids by one method of `RANGES`, from the float model on about ``images`` images, not augmented.

    The method serves activations and weights; ``entropy``, which reads a tensor's histogram as TensorRT does for
    activations, leaves weights to ``mse``. No scale reaches beyond where a ReLU6 cuts. Returns the number of images;
    all quantizers are off afterwards and the model is in evaluation mode.
    """
    method = RANGES[ranges]
    of_weight = least_squares if ranges == "entropy" else method
    model.set_float()
    model.eval()
    quantizers = {placed.name: model.act_quantizer(placed.name) for placed in model.placement.quantizers}
    batches = Calibration(split, images=images, seed=seed, device=device_of(model))
    seen = sample_inputs(model, quantizers, batches, count=len(batches.chunks), seed=seed)
    for name, quantizer in counted(quantizers.items(), len(quantizers), "ranges of activations"):
        scales = [method(seen[name], grid) for grid in quantizer.scales.grids]
        bound = quantizer.placed.bound
        if bound is not None:
            scales = [min(s, bound / grid.qmax) for s, grid in zip(scales, quantizer.scales.grids, strict=True)]
        quantizer.scales.initialise(model.allowed(scales, seen[name], quantizer.scales.grids))
    layers = model.placement.layers
    for layer in counted(layers, len(layers), "ranges of weights"):
        module = model.quant_layer(layer.name)
        weight = module.weight.detach()
        module.initialise([of_weight(weight, grid) for grid in module.scales.grids])
    return batches.images


def correct(
    name: str, model: QuantizedModel, policy: dict[str, BitPair], batches: Iterable[torch.Tensor]
) -> tuple[str, ...]:
    """Apply one of `CORRECTIONS` in place; returns the layers that it cannot reach."""
    if name == "bias":
        return correct_biases(model, policy, batches)
    if name == "batchnorm":
        reestimate_batchnorm(model, batches)
    return ()


def calibrate(
    model: QuantizedModel,
    policy: dict[str, BitPair],
    dataset: DataSet,
    *,
    ranges: str | None,
    images: int,
    seed: int,
    float_top1: Top1,
    foreign_weights: bool = False,
    report: Report = silent,
    judge: Judge = CLASSES,
    float_model: nn.Module,
) -> FineTuned:
    """Give a `model_of_policy` its scales and its best correction, in place; it ends in evaluation mode.

    Tried are the ranges alone, bias correction (`correct_biases`), where there is BatchNorm, its statistics estimated
    anew, and where ``ranges`` is None `OTHER_RANGES` in place of `USUAL_RANGES`; see `best_of`. The test split is
    looked at once, at the end. ``float_top1``, ``foreign_weights`` and ``judge``: as in `finetune`; ``float_model``:
    what the outputs shall stay near to.
    """
    start = time.perf_counter()
    train, held = dataset.split("train"), some_of(dataset.split("val"), seed)
    uncorrected: tuple[str, ...] = ()
    judge = judge.beside(float_model.eval())
    with on_device(model, float_model) as device, freed_memory_kept():
        count = set_ranges(model, train, ranges=ranges or USUAL_RANGES, images=images, seed=seed)
        model.set_bits(policy)
        batches = Calibration(train, images=images, seed=seed, device=device)
        names = [name for name in CORRECTIONS if name != "batchnorm" or batchnorms(model)]
        names += () if ranges is not None else OTHER_RANGES

        def apply(name: str) -> None:
            nonlocal uncorrected
            if name in OTHER_RANGES:
                set_ranges(model, train, ranges=name, images=images, seed=seed)
                model.set_bits(policy)
            left = correct(name, model, policy, batches)
            uncorrected = left if name == "bias" else uncorrected

        trials = keep_best(model, policy, held, judge, {name: IN_WORDS[name] for name in names}, apply, report)
        chosen = trials.chosen.name
        return untrained(
            model,
            policy,
            dataset,
            judge,
            trials,
            ranges=chosen if chosen in OTHER_RANGES else ranges or USUAL_RANGES,
            images=count,
            uncorrected=uncorrected if chosen == "bias" else (),
            seed=seed,
            float_top1=float_top1,
            foreign_weights=foreign_weights,
            seconds=time.perf_counter() - start,
        )
