"""``fisher``: squared gradient times quantization error, from one forward and one backward pass per batch."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from limpq_deploy.importance.divergence import Table
from limpq_deploy.importance.variants import TensorAt
from limpq_deploy.model.results import tensors_of
from limpq_deploy.quant.fake_quant import fake_quantize
from limpq_deploy.quant.quantized_model import ActFakeQuant, QuantizedModel, QuantLayer
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.classification import CLASSIFICATION


@dataclass(slots=True)
class _Seen:
    """What a module saw in one forward pass, call by call."""

    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


def add_fisher(
    model: QuantizedModel,
    images_NCHW: torch.Tensor,
    tensors: Sequence[TensorAt],
    bits: Sequence[int],
    *,
    generator: torch.Generator,
    table: Table,
    task: Task = CLASSIFICATION,
) -> None:
    """Add one batch's sum over its images to the table; the model's active widths are the reference.

    fisher(t, b) = sum_images (g . (Q_b(v) - Q_ref(v)))^2,  g = d(-log p[y]) / d(tensor), y drawn from the model's own p

    so that the mean over images estimates ``d F d``, with F the Fisher information and d the quantization error: twice
    the second-order term of ``kl``; of tasks without classes, as `Task.drawn_loss` says. A weight's product is taken at
    its layer's output, image by image: ``(dL/dz) . layer(x, Q_b(w) - Q_ref(w))``. BatchNorm uses its running
    statistics, or images would not stand alone.
    """
    seen = {tensor: _Seen() for tensor in tensors}
    was_training = model.training
    model.eval()
    try:
        with _watched(model, seen):
            given = tuple(output.double() for output in tensors_of(model(images_NCHW)))
        outputs = [output for one in seen.values() for output in one.outputs]
        found = iter(torch.autograd.grad(task.drawn_loss(given, generator), outputs, allow_unused=True))
    finally:
        model.train(was_training)
    with torch.no_grad():
        for tensor, one in seen.items():
            gradients = [next(found) for _ in one.outputs]
            for width in bits:
                per_image = torch.zeros(len(images_NCHW), dtype=torch.float64, device=images_NCHW.device)
                for value, output, gradient in zip(one.inputs, one.outputs, gradients, strict=True):
                    if gradient is not None:
                        error = _error(model, tensor, width, value, output)
                        per_image += by_image(gradient.double() * error, len(images_NCHW)).sum(1)
                table[tensor, width] = table.get((tensor, width), 0.0) + per_image.square().sum().item()


def by_image(values: torch.Tensor, images: int) -> torch.Tensor:
    """[images, rest] of a tensor whose images are an axis of their own (the first of that size), as they are
    everywhere but in rows of tokens: those come image by image, or are taken so."""
    axes = [axis for axis, size in enumerate(values.shape) if size == images]
    placed = values.movedim(axes[0], 0) if axes else values
    return placed.reshape(images, -1)


@contextlib.contextmanager
def _watched(model: QuantizedModel, seen: dict[TensorAt, _Seen]) -> Iterator[None]:
    def keep(one: _Seen) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            # A quantizer that passes its input through gives the input itself; the gradient must be of this use alone.
            kept = output.view_as(output)
            if not kept.requires_grad:
                kept.requires_grad_()
            one.inputs.append(inputs[0].detach())
            one.outputs.append(kept)
            return kept

        return hook

    handles = [_module(model, tensor).register_forward_hook(keep(one)) for tensor, one in seen.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _module(model: QuantizedModel, tensor: TensorAt) -> ActFakeQuant | QuantLayer:
    return model.act_quantizer(tensor.name) if tensor.kind == "act" else model.quant_layer(tensor.name)


def _error(
    model: QuantizedModel, tensor: TensorAt, width: int, value: torch.Tensor, output: torch.Tensor
) -> torch.Tensor:
    """What the width changes: at the quantizer's output, or at the layer's."""
    if tensor.kind == "act":
        return _act_at(model.act_quantizer(tensor.name), value, width) - output
    layer = model.quant_layer(tensor.name)
    change = _weight_at(layer, width) - (layer.weight if layer.active is None else _weight_at(layer, layer.active))
    return layer.apply_weight(value, change, None)


def _act_at(quantizer: ActFakeQuant, value: torch.Tensor, width: int) -> torch.Tensor:
    before = quantizer.active
    quantizer.active = width
    try:
        result: torch.Tensor = quantizer.forward(value)
    finally:
        quantizer.active = before
    return result


def _weight_at(layer: QuantLayer, width: int) -> torch.Tensor:
    index = layer.bits.index(width)
    return fake_quantize(
        layer.weight, layer.scales.scale(index), layer.scales.grids[index], elements=layer.weight.numel()
    )
