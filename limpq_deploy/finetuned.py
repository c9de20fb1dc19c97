"""What fine-tuning made: accuracies, settings and every scale with its grid. No torch here."""

from dataclasses import dataclass, field
from typing import Literal

from limpq_deploy.calibration.params import TensorQuant
from limpq_deploy.policy import LayerBits
from limpq_deploy.settings import FinetuneSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Top1:
    """Top-1 in percent on the validation split, on which checkpoints are chosen, and on the test split, on which
    nothing is."""

    val: float
    test: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint that was tried: optimizer steps done (0: as it came), top-1 in percent on the validation split."""

    step: int
    val: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuned:
    """A fine-tuned mixed-precision model; its tensors are in ``finetuned.safetensors``.

    ``bits``: of the searched layers. ``float_top1``: the float model it came from. ``top1``: the quantized model at
    ``chosen_step``. ``weights``: per-tensor grid and scale by layer, before BatchNorm is folded in.
    ``activations``: by quantizer. ``epochs``: passes over the train split. ``seconds``: wall time of training alone.
    ``val_may_be_seen``: the validation images, which chose the checkpoint, are a part of what others train on, and the
    float weights came from elsewhere: accuracy on them may flatter. The test split chose nothing.
    """

    model: str
    target: str
    bits: dict[str, LayerBits]
    seed: int
    settings: FinetuneSettings
    epochs: float
    float_top1: Top1
    top1: Top1
    chosen_step: int
    candidates: tuple[Candidate, ...]
    weights: tuple[TensorQuant, ...]
    activations: tuple[TensorQuant, ...]
    seconds: float
    val_may_be_seen: bool = False
    format: Literal["limpq.finetuned/1"] = field(default="limpq.finetuned/1")

    def pairs(self) -> dict[str, tuple[int, int]]:
        """(weight_bits, act_bits) by layer name, as `Placement` takes them."""
        return {name: (bits.weight, bits.act) for name, bits in self.bits.items()}
