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
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.score import Measure, Scored
from limpq_deploy.train.accuracy import evaluation_and_distance, figure
from limpq_deploy.train.device import device_of, on_device
from limpq_deploy.train.evaluate import Evaluation
from limpq_deploy.train.finetune import of_model
from limpq_deploy.train.finetuned import Calibrated, Correction, FineTuned, Top1
from limpq_deploy.train.judge import CLASSES, Judge
from limpq_deploy.train.judged import compare, value_of

IMAGES = 512
"""Training images for ranges and corrections, unless told otherwise."""
BATCH = 64
HELD_IMAGES = 2000
"""At most so many validation images choose the correction."""

CORRECTIONS = {"none": "no correction", "bias": "bias correction", "batchnorm": "BatchNorm estimated anew"}
"""What may follow the ranges, in words."""

OTHER_RANGES = {"entropy": "ranges of least divergence"}
"""Methods of `RANGES` tried beside the usual one. Where a few images have numbers many times those of others (blocks
without a last ReLU add them up), squared errors are theirs alone, and the scale serves nobody else."""
USUAL_RANGES = "mse"

IN_WORDS = CORRECTIONS | OTHER_RANGES

CHANCE = 0.05
"""How improbable a difference has to be by chance alone before it decides."""


class Calibration:
    """The same training images in the same batches whenever it is gone through; of nearly one size, for BatchNorm
    takes a variance of each."""

    def __init__(self, split: Split, *, images: int, seed: int, device: torch.device) -> None:
        chosen = split.order((seed, 0))[: min(images, len(split))]
        self.images = len(chosen)
        self.chunks = np.array_split(chosen, -(-len(chosen) // BATCH))
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
    anew, and where ``ranges`` is None `OTHER_RANGES` in place of `USUAL_RANGES`; see `_best`. The test split is looked
    at once, at the end. ``float_top1``, ``foreign_weights`` and ``judge``: as in `finetune`; ``float_model``: what the
    outputs shall stay near to.
    """
    start = time.perf_counter()
    train, held = dataset.split("train"), _some(dataset.split("val"), seed)
    tried: list[Correction] = []
    tensors: list[dict[str, torch.Tensor]] = []
    uncorrected: tuple[str, ...] = ()
    judge = judge.beside(float_model.eval())
    measure = judge.of(held).measure
    evaluations: list[Evaluation | Scored] = []
    with on_device(model, float_model) as device:
        count = set_ranges(model, train, ranges=ranges or USUAL_RANGES, images=images, seed=seed)
        model.set_bits(policy)
        batches = Calibration(train, images=images, seed=seed, device=device)
        plain = _corrected(model)
        names = [name for name in CORRECTIONS if name != "batchnorm" or batchnorms(model)]
        names += () if ranges is not None else OTHER_RANGES
        for number, name in enumerate(names):
            report(number, len(names), IN_WORDS[name])
            model.load_state_dict(plain, strict=False)
            if name in OTHER_RANGES:
                set_ranges(model, train, ranges=name, images=images, seed=seed)
                model.set_bits(policy)
            left = correct(name, model, policy, batches)
            uncorrected = left if name == "bias" else uncorrected
            with as_recorded(model, policy):
                found, distance = evaluation_and_distance(model, held, judge)
            evaluations.append(found)
            tried.append(Correction(name=name, top1=value_of(found), loss=distance))
            tensors.append(_corrected(model))
        best = _best(tried, evaluations, measure)
        model.load_state_dict(tensors[best], strict=False)
        model.eval()
        with as_recorded(model, policy):
            test = figure(model, dataset.split("test"), judge)
    return FineTuned(
        **of_model(model, policy),
        seed=seed,
        settings=None,
        epochs=0.0,
        float_top1=float_top1,
        top1=Top1(val=tried[best].top1, test=test, val_images=len(held), test_images=len(dataset.split("test"))),
        chosen_step=0,
        candidates=(),
        val_may_be_seen=foreign_weights and dataset.val_held_out,
        seconds=round(time.perf_counter() - start, 3),
        calibrated=Calibrated(
            ranges=tried[best].name if tried[best].name in OTHER_RANGES else ranges or USUAL_RANGES,
            images=count,
            held_images=len(held),
            corrections=tuple(tried),
            chosen=tried[best].name,
            why=_why(tried, best, len(held), measure),
            uncorrected=uncorrected if tried[best].name == "bias" else (),
        ),
        measure=judge.of(dataset.split("test")).named,
    )


def _best(tried: list[Correction], evaluations: list[Evaluation | Scored], measure: Measure) -> int:
    """Of those that are not worse than the best figure beyond chance (a one-sided test on the same images), the one
    nearest to the float model: a few images more or less say nothing, and a correction repairs a network, it makes no
    other one of it. Figures that do not count images are taken as they are."""
    first = max(range(len(tried)), key=lambda index: measure.gain(tried[index].top1, 0.0))
    even = [at for at, one in enumerate(evaluations) if compare(one, evaluations[first]).p_first_worse >= CHANCE]
    return min(even, key=lambda index: tried[index].loss)


def _why(tried: list[Correction], best: int, images: int, measure: Measure) -> str:
    others = ", ".join(
        f"{measure.shown(one.top1)} with {IN_WORDS[one.name]}" for one in tried if one is not tried[best]
    )
    chosen = f"{IN_WORDS[tried[best].name]}: {measure.shown(tried[best].top1)} on {images:,} held-out images, {others}"
    lower = any(measure.gain(one.top1, tried[best].top1) > 0 for one in tried)
    return f"{chosen}; within chance, and nearest to the float model's outputs" if lower else chosen


def _some(split: Split, seed: int) -> Split:
    order = np.random.default_rng(seed).permutation(len(split))
    return split.subset(np.sort(order[:HELD_IMAGES]))


def _corrected(model: QuantizedModel) -> dict[str, torch.Tensor]:
    """Copies of what a correction may change: all but the weights of layers, which would be the model again."""
    kept = {f"graph.{layer.name}.weight" for layer in model.placement.layers}
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in kept}
