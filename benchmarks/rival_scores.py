"""Importance as others measure it on the float network, written from their papers and documentation.

`HessianTraces`: Hessian-aware trace-weighted quantization (Dong et al., HAWQ-V2, NeurIPS 2020). `GradientScores`: the
gradient method of ModelOpt's ``auto_quantize``. Neither needs a joint training; `calibrated` gives the float network a
scale for every width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from fractional_bits import weight_at
from torch import nn
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.calibration.numbers.ranges import least_squares
from limpq_deploy.calibration.observe import observe_inputs
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.importance.variants import TensorAt, searched_tensors
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.quant.modules import ActFakeQuant
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images NCHW, and the classes of each."""

TOLERANCE, MOST = 1e-3, 100
"""Hutchinson's samples end where one changes the mean of the traces' sum by less than this share, at most so many: what
PyHessian, by the same authors, does by default."""
STEPS = 128
"""Batches of gradient scores: ModelOpt's ``num_score_steps``."""


def calibrated(traced: TracedModel, placement: Placement, bits: tuple[int, ...], first: torch.Tensor) -> QuantizedModel:
    """The float network with a scale for every width, of least squares on one batch; all quantizers are off."""
    model = joint_model(traced, placement, bits)
    model.initialise_scales(first)
    model.set_float()
    model.eval()
    acts = {one.name: model.act_quantizer(one.name) for one in placement.quantizers if one.bits is None}

    def look(name: str, values: torch.Tensor) -> None:
        scales = acts[name].scales
        scales.initialise([least_squares(values, grid) for grid in scales.grids])

    observe_inputs(model, acts, first, look)
    for layer in placement.searched:
        module = model.quant_layer(layer.name)
        module.initialise([least_squares(module.weight.detach(), grid) for grid in module.scales.grids])
    return model


def batches_of(split: Split, images: int, size: int, seed: int) -> list[Batch]:
    """Whole batches of ``images`` of a split, drawn by ``seed``."""
    chosen = zip(range(images // size), split.batches(size, shuffle=(seed, 0)), strict=False)
    return [(torch.from_numpy(batch), torch.from_numpy(labels)) for _, (batch, labels) in chosen]


class HessianTraces:
    """Traces of the Hessian of the mean cross-entropy in every searched weight and activation, by Hutchinson's samples.

    E[v . H v] is the trace for random signs v. One product gives all tensors their sample, in which other tensors'
    signs are noise: the paper's samples are of one tensor at a time, which costs a product for each.
    """

    def __init__(self, model: QuantizedModel, batches: list[Batch], seed: int) -> None:
        self._model, self._batches = model, batches
        self._generator = torch.Generator().manual_seed(seed)
        self.tensors = searched_tensors(model.placement)
        self.samples: list[dict[TensorAt, float]] = []

    def run(self, most: int = MOST) -> None:
        """Samples until the mean of their sums stands still."""
        while len(self.samples) < most:
            before = self._mean_of_sums()
            self.sample()
            if len(self.samples) > 1 and abs(self._mean_of_sums() - before) < TOLERANCE * abs(before):
                return

    def sample(self) -> None:
        """One more, the mean over all batches."""
        found = dict.fromkeys(self.tensors, 0.0)
        for images_NCHW, labels in self._batches:
            with _acts_kept(self._model) as acts:
                loss = F.cross_entropy(self._model(images_NCHW), labels)
            values = [self._value(tensor, acts) for tensor in self.tensors]
            gradients = torch.autograd.grad(loss, values, create_graph=True)
            signs = [self._signs(value) for value in values]
            along = torch.stack(
                [(gradient * sign).sum() for gradient, sign in zip(gradients, signs, strict=True)]
            ).sum()
            for tensor, sign, product in zip(self.tensors, signs, torch.autograd.grad(along, values), strict=True):
                found[tensor] += (sign * product).sum().item() / len(self._batches)
        self.samples.append(found)

    def traces(self) -> dict[TensorAt, float]:
        """Means of the samples; a Hessian need not be positive, but what it is read as is."""
        return {
            tensor: max(0.0, sum(one[tensor] for one in self.samples) / len(self.samples)) for tensor in self.tensors
        }

    def indicators(self, indicators: Indicators) -> Indicators:
        """The trace over the number of elements, times the squared error of quantization (HAWQ-V2's Omega; of an
        activation the mean over images)."""
        traces, (sizes, squares) = self.traces(), self._errors(indicators.bits)

        def curve(tensor: TensorAt) -> tuple[float, ...]:
            return tuple(traces[tensor] / sizes[tensor] * squares[tensor, bits] for bits in indicators.bits)

        input_of = {layer.name: layer.input for layer in self._model.placement.layers}
        return replace(
            indicators,
            layers=tuple(
                replace(
                    layer,
                    weight=curve(TensorAt("weight", layer.name)),
                    act=curve(TensorAt("act", input_of[layer.name])),
                    measures=None,
                )
                for layer in indicators.layers
            ),
        )

    @torch.no_grad()
    def _errors(self, bits: tuple[int, ...]) -> tuple[dict[TensorAt, int], dict[tuple[TensorAt, int], float]]:
        """Elements of every tensor (of one image), and its squared error at every width."""
        images_NCHW, _ = self._batches[0]
        with _acts_kept(self._model) as acts:
            self._model(images_NCHW)
        sizes, squares = {}, {}
        for tensor in self.tensors:
            value = self._value(tensor, acts)
            sizes[tensor] = value.numel() if tensor.kind == "weight" else value[0].numel()
            for width in bits:
                if tensor.kind == "weight":
                    error = (weight_at(self._model.quant_layer(tensor.name), width) - value).square().sum()
                else:
                    error = (act_at(self._model.act_quantizer(tensor.name), value, width) - value).square().sum()
                    error = error / len(images_NCHW)
                squares[tensor, width] = error.item()
        return sizes, squares

    def _value(self, tensor: TensorAt, acts: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._model.quant_layer(tensor.name).weight if tensor.kind == "weight" else acts[tensor.name]

    def _signs(self, value: torch.Tensor) -> torch.Tensor:
        return torch.randint(2, value.shape, generator=self._generator).to(value) * 2 - 1

    def _mean_of_sums(self) -> float:
        return sum(sum(one.values()) for one in self.samples) / max(1, len(self.samples))


class GradientScores:
    """score(l, f) = sum over batches of sum_i (dL/dY_i)^2 (Y_f,i - Y_i)^2: Y the float output of layer l, Y_f that with
    its input and weight in format f, here one width for both."""

    def __init__(self, model: QuantizedModel, bits: tuple[int, ...]) -> None:
        self._model, self._bits = model, bits
        self.scores = {(layer.name, width): 0.0 for layer in model.placement.searched for width in bits}

    def add(self, images_NCHW: torch.Tensor, labels: torch.Tensor) -> None:
        """One batch."""
        outputs: dict[str, torch.Tensor] = {}
        changes: dict[tuple[str, int], torch.Tensor] = {}
        handles = [
            self._model.quant_layer(layer.name).register_forward_hook(
                self._keep(layer.name, layer.input, outputs, changes)
            )
            for layer in self._model.placement.searched
        ]
        try:
            loss = F.cross_entropy(self._model(images_NCHW), labels)
        finally:
            for handle in handles:
                handle.remove()
        gradients = dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True))
        for (name, width), change in changes.items():
            self.scores[name, width] += (gradients[name].square() * change.square()).sum().item()

    def _keep(
        self,
        name: str,
        source: str,
        outputs: dict[str, torch.Tensor],
        changes: dict[tuple[str, int], torch.Tensor],
    ) -> Callable[[Any, tuple[torch.Tensor, ...], torch.Tensor], None]:
        layer, quantizer = self._model.quant_layer(name), self._model.act_quantizer(source)

        def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            outputs[name] = output
            with torch.no_grad():
                for width in self._bits:
                    weight = weight_at(layer, width)
                    changed = layer.apply_weight(act_at(quantizer, inputs[0], width), weight, layer.bias)
                    changes[name, width] = changed - output

        return hook

    def indicators(self, indicators: Indicators) -> Indicators:
        """Scores as importance; a layer may take the formats alone, one width for weight and input."""
        return replace(
            indicators,
            layers=tuple(
                replace(
                    layer,
                    weight=tuple(self.scores[layer.name, width] for width in indicators.bits),
                    act=(0.0,) * len(indicators.bits),
                    pairs=tuple((width, width) for width in indicators.bits),
                    measures=None,
                )
                for layer in indicators.layers
            ),
        )


def act_at(quantizer: ActFakeQuant, values: torch.Tensor, bits: int) -> torch.Tensor:
    """Values quantized at a width; the quantizer is off afterwards."""
    quantizer.active = bits
    found: torch.Tensor = quantizer.forward(values)
    quantizer.active = None
    return found


@contextmanager
def _acts_kept(model: QuantizedModel) -> Iterator[dict[str, torch.Tensor]]:
    """Within it a forward pass leaves what the quantizers of searched activations give; the gradient of each is that of
    this use alone."""
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
        def hook(_: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            kept[name] = output.view_as(output)
            if torch.is_grad_enabled() and not kept[name].requires_grad:
                kept[name].requires_grad_()
            return kept[name]

        return hook

    names = [tensor.name for tensor in searched_tensors(model.placement) if tensor.kind == "act"]
    handles = [model.act_quantizer(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
