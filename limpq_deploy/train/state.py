"""What a training remembers besides model and optimizers, in and out of a checkpoint."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch


class Stateful(Protocol):
    """Something whose state goes into checkpoints."""

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        """Tensors by name, and what JSON can hold."""

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        """Take back what `state` gave."""


class GeneratorState:
    """A NumPy generator as a `Stateful`: a pass that draws goes on with the draws that it would have had."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def state(self) -> tuple[dict[str, torch.Tensor], Any]:
        return {}, self._rng.bit_generator.state

    def restore(self, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        self._rng.bit_generator.state = facts
