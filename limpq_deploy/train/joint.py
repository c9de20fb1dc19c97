"""Joint training: all bit-widths of all layers learn their scales at once; the learned scales are the indicators.

Tang et al., Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance, ECCV 2022.
"""

import contextlib
import copy
import logging
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.records.placement import BitPair, LayerPlacement, Placement
from limpq_deploy.export.records.targets import in_float
from limpq_deploy.model.activation_memory import with_memory
from limpq_deploy.model.edges import with_edges
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer, weights_only
from limpq_deploy.policy.objective import group_leaders
from limpq_deploy.progress import Report, silent
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.train.device import on_device
from limpq_deploy.train.execution import ALONE, Execution
from limpq_deploy.train.loop import History, train
from limpq_deploy.train.losses import Loss, Pass, Teacher, distilled, taught_by_labels, teaching
from limpq_deploy.train.settings import JointSettings
from limpq_deploy.train.state import GeneratorState

log = logging.getLogger(__name__)

LEAST_MOVEMENT = 0.02
"""Scales that moved less than this share of themselves say more about their first values than about importance."""


def train_indicators(
    traced: TracedModel,
    placement: Placement,
    dataset: DataSet,
    *,
    bits: tuple[int, ...],
    settings: JointSettings,
    seed: int,
    report: Report = silent,
    execution: Execution = ALONE,
    task: Task = CLASSIFICATION,
) -> tuple[Indicators, QuantizedModel]:
    """Learn the scales of every candidate width together; returns them and the jointly trained model.

    A step runs the batch once at every width of ``bits``, the same in all searched layers (weight = activation bits),
    and once with a width drawn for each layer; layers that share an activation quantizer draw one width together.
    ``Indicators.source`` keeps settings, losses, how far scales moved, and ``warnings``. ``traced`` stays as it was.
    Where the placement gives activations one width, only weights are searched. ``task``: what labels and the float
    model's outputs teach.
    Raises SettingError for widths that do not ascend or lie outside 2 to 8, ModelError when a loss is not finite.
    """
    _require_bits(bits, fp8=placement.spec.has_fp8)
    model = joint_model(traced, placement, bits)
    split = dataset.split("train")
    model.initialise_scales(_first_images(split, settings.first_images, seed))
    rng = np.random.default_rng((seed, len(bits)))
    teacher = copy.deepcopy(traced.graph_module).eval() if settings.distill else None
    passes = joint_passes(model, bits, rng, settings, teacher, task)
    with _weights_frozen(model, settings.freeze_weights), on_device(teacher):
        history = train(
            model,
            split,
            settings,
            seed=seed,
            augment=dataset.augment,
            passes=passes,
            report=report,
            execution=execution,
            remember={"widths": GeneratorState(rng)},
            task=task,
        )
    model.set_bits(uniform(placement, bits[-1]))
    source = _source(model, bits, settings, seed, history, [one.name for one in passes])
    for warning in source["warnings"]:
        log.warning(warning)
    return with_edges(with_memory(read_indicators(model, bits, source), traced, placement), traced), model


def joint_passes(
    model: QuantizedModel,
    bits: tuple[int, ...],
    rng: np.random.Generator,
    settings: JointSettings,
    float_model: nn.Module | None = None,
    task: Task = CLASSIFICATION,
) -> tuple[Pass, ...]:
    """The passes of a step: one at every width of ``bits``, and one with widths that ``rng`` draws. With
    ``settings.distill`` the ``float_model`` teaches all of them. In in-place distillation the highest width comes first
    and teaches the others, which see no labels."""
    placement = model.placement
    first: Loss | None = None
    others: Loss | None = None
    if settings.inplace_distill:
        teacher, own = Teacher(), taught_by_labels(task, settings.label_smoothing)
        first, others = teaching(teacher, own), distilled(teacher, own, weight=1.0, temperature=1.0, task=task)
    elif settings.distill:
        assert float_model is not None
        own = taught_by_labels(task, settings.label_smoothing)
        first = others = distilled(Teacher(float_model), own, weight=settings.distill, temperature=1.0, task=task)
    widths = bits[::-1] if settings.inplace_distill else bits
    return (
        *(_uniform_pass(model, width, first if width == widths[0] else others) for width in widths),
        Pass(name="random", choose=lambda: model.set_bits(random_widths(placement, bits, rng)), loss=others),
    )


def uniform(placement: Placement, width: int) -> dict[str, BitPair]:
    """One width for weights and activations of every searched layer."""
    return {layer.name: (width, width) for layer in placement.searched}


def random_widths(placement: Placement, bits: tuple[int, ...], rng: np.random.Generator) -> dict[str, BitPair]:
    """A width for every searched layer, the same for its weight and activation.

    One draw per activation quantizer: layers that read the same quantizer get the same width. Where activations have
    one width, every layer draws its own.
    """
    drawn: dict[str, int] = {}
    for layer in placement.searched:
        drawer = layer.input if placement.quantizer(layer.input).bits is None else layer.name
        if drawer not in drawn:
            drawn[drawer] = bits[int(rng.integers(len(bits)))]
        drawn[layer.name] = drawn[drawer]
    return {layer.name: (drawn[layer.name], drawn[layer.name]) for layer in placement.searched}


def read_indicators(model: QuantizedModel, bits: tuple[int, ...], source: Any = None) -> Indicators:
    """The learned scales of a joint model as indicators.

    Where an activation re-quantizer does nothing (as wide as its parent, or wider) the parent's scale is read. Where
    activations have one width, layers may take no other; the rest of ``act`` doubles with every bit less. Where they
    are floats, ``act`` is 0.
    """
    placement = model.placement
    found = Indicators(
        model=placement.model,
        bits=bits,
        layers=tuple(_layer(model, layer, bits) for layer in placement.searched),
        pinned=tuple(_pinned(placement, layer) for layer in placement.pinned),
        source=source,
    )
    inputs = [placement.quantizer(layer.input).bits for layer in placement.searched]
    act_bits = {width for width in inputs if width is not None and not in_float(width)}
    return weights_only(found, act_bits.pop()) if act_bits else found


def _layer(model: QuantizedModel, layer: LayerPlacement, bits: tuple[int, ...]) -> LayerIndicators:
    weights = model.quant_layer(layer.name).scales
    acts = [_act_scales(model, layer.input, width) for width in bits]
    return LayerIndicators(
        name=layer.name,
        macs=layer.macs,
        num_weights=layer.num_weights,
        weight=tuple(weights.values()),
        act=tuple(now for _, now in acts),
        act_group=model.placement.act_group(layer),
        weight_init=tuple(weights.first.tolist()),
        act_init=tuple(first for first, _ in acts),
        kind=layer.kind,
        block=layer.block,
    )


def _act_scales(model: QuantizedModel, name: str, width: int) -> tuple[float, float]:
    """First and learned scale of the codes that a layer reads at this width; 0 where it reads floats."""
    quantizer = model.act_quantizer(name)
    only = quantizer.placed.bits
    if only is not None and in_float(only):
        return 0.0, 0.0
    if only is not None and width != only and FP8 not in (width, only):
        return tuple(scale * 2.0 ** (only - width) for scale in _act_scales(model, name, only))  # type: ignore[return-value]
    if quantizer.identity_from is not None and width != FP8 and width >= quantizer.identity_from:
        parent = quantizer.placed.parent
        assert parent is not None
        quantizer = model.act_quantizer(parent)
        width = quantizer.bits[0]
    row = quantizer.bits.index(width)
    return quantizer.scales.first[row].item(), quantizer.scales.scale(row).item()


def _pinned(placement: Placement, layer: LayerPlacement) -> PinnedLayer:
    weight_bits, act_bits = layer.pinned_bits, placement.quantizer(layer.input).bits
    assert weight_bits is not None
    assert act_bits is not None
    return PinnedLayer(
        name=layer.name, macs=layer.macs, num_weights=layer.num_weights, weight_bits=weight_bits, act_bits=act_bits
    )


def _source(
    model: QuantizedModel,
    bits: tuple[int, ...],
    settings: JointSettings,
    seed: int,
    history: History,
    passes: Sequence[str],
) -> dict[str, Any]:
    indicators = read_indicators(model, bits)
    weight, act = movements(indicators)
    warnings = []
    if act < LEAST_MOVEMENT:
        warnings.append(
            f"the median activation scale moved {100 * act:.2f} % from its first value, less than "
            f"{100 * LEAST_MOVEMENT:g} %: these indicators mostly repeat the sizes of tensors; train longer or raise "
            f"scale_learning_rate (now {settings.scale_learning_rate:g})"
        )
    columns = list(zip(*history.losses, strict=True))
    return {
        "method": "limpq joint training",
        "target": model.placement.target,
        "settings": asdict(settings),
        "seed": seed,
        "steps": settings.steps,
        "images": history.images,
        "seconds": round(history.seconds, 3),
        "loss": {
            name: {"first": _mean(column[:10]), "last": _mean(column[-10:])}
            for name, column in zip(passes, columns, strict=True)
        },
        "median_weight_movement": weight,
        "median_act_movement": act,
        "warnings": warnings,
    }


def movements(indicators: Indicators) -> tuple[float, float]:
    """Median of ``|s / s_first - 1|`` over the layers and widths that may be taken, of weights and of activations (that
    of weights again, where activations are floats)."""
    shares: tuple[list[float], list[float]] = [], []
    leaders = group_leaders(indicators)
    for layer in indicators.layers:
        taken = product(indicators.bits, indicators.bits) if layer.pairs is None else layer.pairs
        for which, widths in enumerate(zip(*taken, strict=True)):
            if which == 1 and leaders[layer.name] != layer.name:
                continue  # a shared scale counts once
            now, first = (layer.weight, layer.weight_init) if which == 0 else (layer.act, layer.act_init)
            assert first is not None
            for index in sorted({indicators.bits.index(width) for width in widths}):
                if first[index] > 0:
                    shares[which].append(abs(now[index] / first[index] - 1))
    weight, act = (statistics.median(some) if some else 0.0 for some in shares)
    return weight, act if shares[1] else weight


def _mean(losses: Iterable[float]) -> float:
    return round(statistics.fmean(losses), 6)


def _uniform_pass(model: QuantizedModel, width: int, loss: Loss | None) -> Pass:
    policy = uniform(model.placement, width)
    return Pass(name=str(width), choose=lambda: model.set_bits(policy), loss=loss)


@contextlib.contextmanager
def _weights_frozen(model: QuantizedModel, frozen: bool) -> Iterator[None]:
    """Within it weights and biases of layers do not learn, where that is wanted."""
    layers = [model.quant_layer(layer.name) for layer in model.placement.layers] if frozen else []
    parameters = [one for layer in layers for one in (layer.weight, layer.bias) if one is not None]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _first_images(split: Split, images: int, seed: int) -> torch.Tensor:
    batch, _ = next(split.batches(min(images, len(split)), shuffle=(seed, 0)))
    return torch.from_numpy(batch)


def _require_bits(bits: tuple[int, ...], *, fp8: bool) -> None:
    known = (*range(2, 9), *((FP8,) if fp8 else ()))
    if not bits or list(bits) != sorted(set(bits)) or not set(bits) <= {*known}:
        raise SettingError(f"candidate bits are {list(bits)}; expected ascending widths from 2 to 8, such as 2,3,4,5,6")
