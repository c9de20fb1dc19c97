"""Bit-widths that are learned: between two widths a tensor is the straight line between its two quantizations.

After FracBits (Yang and Jin, AAAI 2021), from its description. It begins with a jointly trained network, which has a
scale for every width and a BatchNorm for every width of a weight; between two widths BatchNorm's factors lie on the
line too, and its statistics are the batch's. The gradient of a width is that of the loss along the line. The price of
a budget is a multiplier that rises while the widths exceed it and falls while they do not; in the second half of the
training a growing term draws every width to a whole number.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.importance.variants import TensorAt, searched_tensors
from limpq_deploy.model.place import QUANTIZERS
from limpq_deploy.policy.costs import BitOps, Budget
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.progress import Report, silent
from limpq_deploy.quant.fake_quant import fake_quantize
from limpq_deploy.quant.modules import ActFakeQuant, QuantLayer, SwitchableBatchNorm
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.train.loop import train
from limpq_deploy.train.losses import Pass, Teacher, cross_entropy, distilled
from limpq_deploy.train.optimizers import rate_factor
from limpq_deploy.train.settings import TrainSettings

RATE = 0.03
"""Adam's, of widths, in bits; it falls as the other rates do."""
RISE, STIFFNESS = 0.2, 5.0
"""How fast the price of a budget rises with what exceeds it (a share), and what it adds at once."""
PULL = 0.02
"""Of the whole numbers at the end, times f (1 - f) of every width."""


class Widths:
    """The learned width of every tensor, ``values`` [tensors], within ``bits`` (ascending, without gaps)."""

    def __init__(self, tensors: Sequence[TensorAt], bits: tuple[int, ...], first: float) -> None:
        self.tensors, self.bits = tuple(tensors), bits
        self.values = nn.Parameter(torch.full((len(self.tensors),), float(first)))
        self._place = {tensor: place for place, tensor in enumerate(self.tensors)}

    def of(self, tensor: TensorAt) -> torch.Tensor:
        """The width, 0-d; of a tensor that learns none, the widest."""
        place = self._place.get(tensor)
        return self.values.new_tensor(float(self.bits[-1])) if place is None else self.values[place]

    def between(self, tensor: TensorAt) -> tuple[int, int, torch.Tensor]:
        """The widths below and above, and the share of the one above."""
        value = self.of(tensor)
        low = min(int(value.item()), self.bits[-1] - 1)
        return low, low + 1, value - low

    def unrounded(self) -> torch.Tensor:
        """Sum of f (1 - f) over the tensors, f being what a width has beyond a whole number."""
        share = self.values - self.values.detach().floor()
        return (share * (1 - share)).sum()


class FractionalAct(nn.Module):
    """An activation quantizer between two widths."""

    def __init__(self, inner: ActFakeQuant, tensor: TensorAt, widths: Widths) -> None:
        super().__init__()
        self.inner, self._tensor, self._widths = inner, tensor, widths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high, share = self._widths.between(self._tensor)
        return torch.lerp(self._at(x, low), self._at(x, high), share)

    def _at(self, x: torch.Tensor, bits: int) -> torch.Tensor:
        self.inner.active = bits
        found: torch.Tensor = self.inner(x)
        return found


class FractionalLayer(nn.Module):
    """A layer whose weight is between two widths."""

    def __init__(self, inner: QuantLayer, tensor: TensorAt, widths: Widths) -> None:
        super().__init__()
        self.inner, self._tensor, self._widths = inner, tensor, widths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high, share = self._widths.between(self._tensor)
        weight = torch.lerp(weight_at(self.inner, low), weight_at(self.inner, high), share)
        return self.inner.apply_weight(x, weight, self.inner.bias)


class FractionalNorm(nn.Module):
    """The BatchNorm of such a layer, on the batch's statistics."""

    def __init__(self, inner: SwitchableBatchNorm, tensor: TensorAt, widths: Widths) -> None:
        super().__init__()
        self.inner, self._tensor, self._widths = inner, tensor, widths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low, high, share = self._widths.between(self._tensor)
        rows = self.inner.bits.index(low), self.inner.bits.index(high)
        weight, bias = (torch.lerp(one[rows[0]], one[rows[1]], share) for one in (self.inner.weight, self.inner.bias))
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.inner.eps)


def weight_at(layer: QuantLayer, bits: int) -> torch.Tensor:
    """A layer's weight as it is quantized at one of its widths; gradients as in LSQ."""
    index = layer.bits.index(bits)
    scale, grid = layer.scales.scale(index), layer.scales.grids[index]
    return fake_quantize(layer.weight, scale, grid, elements=layer.weight.numel())


def fractional(joint: QuantizedModel, widths: Widths) -> QuantizedModel:
    """A copy of a joint network whose tensors have these widths; those without one have the widest. Only for training:
    BatchNorm has no statistics of its own."""
    model = copy.deepcopy(joint)
    model.set_bits({layer.name: (widths.bits[-1],) * 2 for layer in model.placement.searched})
    for tensor in widths.tensors:
        if tensor.kind == "act":
            act = FractionalAct(model.act_quantizer(tensor.name), tensor, widths)
            model.graph.set_submodule(f"{QUANTIZERS}.{tensor.name}", act)
            continue
        norm = model.placement.layer(tensor.name).batchnorm
        if norm is not None:
            model.graph.set_submodule(norm, FractionalNorm(model.batchnorm(norm), tensor, widths))
        model.graph.set_submodule(tensor.name, FractionalLayer(model.quant_layer(tensor.name), tensor, widths))
    return model


def tensors_of_budget(joint: QuantizedModel, budget: Budget) -> tuple[TensorAt, ...]:
    """Those whose width the budget counts; the others have the widest."""
    tensors = searched_tensors(joint.placement)
    return tensors if isinstance(budget.cost, BitOps) else tuple(one for one in tensors if one.kind == "weight")


def used(joint: QuantizedModel, indicators: Indicators, budget: Budget, widths: Widths) -> torch.Tensor:
    """What the widths take of the budget, as a share of its limit, 0-d."""
    total = widths.values.new_zeros(())
    for layer in indicators.layers:
        bits = widths.of(TensorAt("weight", layer.name))
        if isinstance(budget.cost, BitOps):
            bits = bits * widths.of(TensorAt("act", joint.placement.layer(layer.name).input))
        total = total + budget.cost.of_layer(layer, 1, 1) * bits
    return total / budget.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """``widths`` by tensor (``weight NAME``, ``act NAME``) as they were learned; ``used``: the share of the budget that
    they take; ``pairs``: the policy within it that is nearest to them."""

    widths: dict[str, float]
    used: float
    pairs: dict[str, tuple[int, int]]


def learn(
    joint: QuantizedModel,
    indicators: Indicators,
    budget: Budget,
    data: DataSet,
    teacher: nn.Module,
    *,
    settings: TrainSettings,
    seed: int,
    report: Report = silent,
) -> Learned:
    """Learn widths for a budget beside weights, scales and BatchNorm, from the teacher's logits, on images of ``train``
    alone. All widths begin at the one number that takes the budget; the joint network stays as it is."""
    tensors = tensors_of_budget(joint, budget)
    once = budget.limit / sum(budget.cost.of_layer(layer, 1, 1) for layer in indicators.layers)
    widths = Widths(tensors, indicators.bits, once**0.5 if isinstance(budget.cost, BitOps) else once)
    model = fractional(joint, widths)
    taught = distilled(Teacher(teacher.eval()), cross_entropy(settings.label_smoothing), weight=1.0, temperature=1.0)
    optimizer = torch.optim.Adam([widths.values], lr=RATE, betas=(0.9, 0.99))
    price, done = 0.0, 0

    def loss(outputs: Any, targets: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
        over = used(joint, indicators, budget, widths) - 1
        now = max(0.0, price + STIFFNESS * over.item())
        pull = PULL * max(0.0, 2 * done / settings.steps - 1)
        return taught(outputs, targets, images_NCHW) + now * over + pull * widths.unrounded()

    def after_step(step: int) -> None:
        nonlocal price, done
        done = step
        optimizer.param_groups[0]["lr"] = RATE * rate_factor(step - 1, settings.steps, settings.warmup_steps)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            widths.values.clamp_(indicators.bits[0], indicators.bits[-1])
            price = max(0.0, price + RISE * (used(joint, indicators, budget, widths).item() - 1))

    only = (Pass(name="learned", loss=loss),)
    train(
        model,
        data.split("train"),
        settings,
        seed=seed,
        augment=data.augment,
        passes=only,
        after_step=after_step,
        report=report,
    )
    found = {f"{one.kind} {one.name}": widths.of(one).item() for one in searched_tensors(joint.placement)}
    return Learned(
        widths={name: round(value, 3) for name, value in found.items()},
        used=used(joint, indicators, budget, widths).item(),
        pairs=nearest(joint, indicators, budget, found),
    )


def nearest(
    joint: QuantizedModel, indicators: Indicators, budget: Budget, widths: Mapping[str, float]
) -> dict[str, tuple[int, int]]:
    """The policy within the budget with the least sum of squared distances to the widths, by the program."""

    def curve(name: str) -> tuple[float, ...]:
        return tuple((bits - widths[name]) ** 2 for bits in indicators.bits)

    input_of: Callable[[str], str] = lambda layer: joint.placement.layer(layer).input  # noqa: E731
    distances = replace(
        indicators,
        layers=tuple(
            replace(
                layer, weight=curve(f"weight {layer.name}"), act=curve(f"act {input_of(layer.name)}"), measures=None
            )
            for layer in indicators.layers
        ),
    )
    return PolicySearch()(distances, (budget,), alpha=1.0, outliers="keep").pairs()
