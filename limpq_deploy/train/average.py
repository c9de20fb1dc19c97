"""An average of the weights and scales over the last steps, which may be better than any of them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """``average = d * average + (1 - d) * parameter`` after step t, ``d = min(decay, (1 + t) / (10 + t))``.

    The smaller first factors let the average leave its first value soon (as TensorFlow's ExponentialMovingAverage).
    A scale is averaged as its logarithm. BatchNorm statistics are not averaged: re-estimate them under the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._decay = decay
        self._steps = 0
        self._average = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for name, average in self._average.items():
            average.lerp_(self._parameters[name], 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model's parameters are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        return dict(self._average), self._steps

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        self._steps = facts
        for name, average in self._average.items():
            average.copy_(tensors[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._average.items():
            parameter = self._parameters[name]
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
