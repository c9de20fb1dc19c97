"""Optimizers, their rates, and which gradients they see."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from limpq_deploy.quant.fake_quant import LearnedScales, require_finite_gradients
from limpq_deploy.quant.modules import QuantLayer
from limpq_deploy.train.settings import TrainSettings


class Optimizers:
    """SGD for weights, Adam for scales.

    A learned scale is a logarithm and Adam's step does not depend on the size of a gradient, so a scale moves by a
    share of itself. With SGD, as in the paper, LSQ's damped gradients moved activation scales by less than 1 % in a
    few hundred steps: what was read afterwards was their first value.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        self._model, self._settings = model, settings
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.each = _optimizers(model, settings)
        self._highest = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.each]

    def begin(self, step: int) -> float:
        """Forget gradients and set the rates of a step (from 0); returns the share of the highest rates."""
        factor = rate_factor(step, self._settings.steps, self._settings.warmup_steps)
        for optimizer, first in zip(self.each, self._highest, strict=True):
            for group, rate in zip(optimizer.param_groups, first, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad()
        return factor

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """Clip gradient values, leave out parameters whose gradient is all zero, and step.

        Raises ModelError that names the quantizer where the gradient of a scale is not finite (with a loss scaler, such
        steps are part of finding its scale, and left out).
        """
        live = [optimizer for optimizer in self.each if _has_gradients(optimizer)]
        for optimizer in live:
            if scaler.is_enabled():
                scaler.unscale_(optimizer)
        if not scaler.is_enabled():
            require_finite_gradients(self._model)
        nn.utils.clip_grad_value_(self.parameters, self._settings.gradient_clip)
        _forget_zero_gradients(self.parameters)
        for optimizer in live:
            scaler.step(optimizer)
        scaler.update()


def rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Learning rate of a step (from 0) over the highest: ``(step + 1) / warmup`` at first, then half a cosine to 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def _optimizers(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    scales: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, LearnedScales):
                scales.append(parameter)
            elif name == "weight" and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | QuantLayer):
                weights.append(parameter)
            else:
                others.append(parameter)
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((weights, settings.weight_decay), (others, 0.0))
        if params
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum))
    if scales:
        optimizers.append(torch.optim.Adam(scales, lr=settings.scale_learning_rate, betas=(0.9, 0.99)))
    return optimizers


def _forget_zero_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        if parameter.grad is not None and not _any(parameter.grad):
            parameter.grad = None


def _any(grad: torch.Tensor) -> bool:
    """Whether a gradient has an entry other than 0. On a CPU, whose `any` is slow, a few entries mostly answer."""
    if grad.device.type == "cpu" and grad.numel() > 4096 and bool(grad[:1].any()):
        return True
    return bool(grad.any())


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    return any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"])
