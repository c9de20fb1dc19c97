"""What fine-tuning made: accuracies, settings and every scale with its grid. No torch here."""

from dataclasses import dataclass, field
from typing import Literal

from limpq_deploy.calibration.numbers.params import Scales, TensorQuant
from limpq_deploy.policy.policy import LayerBits
from limpq_deploy.tasks.score import TOP1, Measure
from limpq_deploy.train.settings import FinetuneSettings

How = Literal["ranges only, not trained", "from the joint training, not fine-tuned"]
NOT_TRAINED: How = "ranges only, not trained"
"""What is said wherever such a model is spoken of."""

NOT_FINETUNED: How = "from the joint training, not fine-tuned"
"""The same of the jointly trained network at a policy's bits."""

FLOAT_IN_TORCH = "the float model in PyTorch"

IN_TORCH = (
    "the quantized model in PyTorch, BatchNorm folded and biases rounded as they are exported; what the exported files "
    "reach on the runtime is in accuracy.json"
)
"""What an accuracy is of that was measured while training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Top1:
    """The task's figure (top-1 in percent, unless the record names another measure) on the validation split, on which
    checkpoints are chosen, and on the test split, on which nothing is; and of how many images (None in files of older
    versions)."""

    val: float
    test: float
    val_images: int | None = None
    test_images: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatModel:
    """The float model of a build: ``source`` is the user's weights file, or says that it was trained here. ``of``: what
    ``top1`` is of; ``measure``: the figure that it is, None for top-1."""

    source: str
    top1: Top1
    of: str = FLOAT_IN_TORCH
    measure: Measure | None = None
    format: Literal["limpq.float/1"] = field(default="limpq.float/1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint that was tried: optimizer steps done (0: as it came), the figure on the validation split."""

    step: int
    val: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What may follow the ranges, by name ("none" among them): the figure, and as ``loss`` the mean distance to the
    float model's outputs, held out (in files of older versions the cross-entropy, where there were labels)."""

    name: str
    top1: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """How a model came to its scales where nothing was trained at its bits.

    ``ranges``: the method of `calibration.numbers.ranges.RANGES`; "learned" in joint training. ``images``: training
    images that gave ranges and corrections. ``corrections``: what was tried, measured on ``held_images`` of the
    validation split; ``chosen`` names one and ``why`` says so in a sentence. ``uncorrected``: layers that have neither
    bias nor BatchNorm to correct.
    """

    ranges: str
    images: int
    held_images: int
    corrections: tuple[Correction, ...]
    chosen: str
    why: str
    uncorrected: tuple[str, ...] = ()
    how: How = NOT_TRAINED


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuned:
    """A fine-tuned mixed-precision model; its tensors are in ``finetuned.safetensors``.

    ``bits``: of the searched layers. ``float_top1``: the float model it came from. ``top1``: the quantized model at
    ``chosen_step``, as ``of`` says. ``weights``: per-tensor grid and scale by layer, before BatchNorm is folded in.
    ``activations``: by quantizer. ``epochs``: passes over the train split. ``seconds``: wall time of training alone.
    ``val_may_be_seen``: the validation images, which chose the checkpoint, are a part of what others train on, and the
    float weights came from elsewhere: accuracy on them may flatter. The test split chose nothing.
    ``calibrated``: of a model that was not trained at its bits; then ``settings`` is None, ``epochs`` and
    ``chosen_step`` are 0, there are no ``candidates``, and ``top1.val`` is that of ``calibrated.held_images``.
    ``scales``: "pow2" where all are powers of two; ``weights`` are then per channel, as they are after BatchNorm is
    folded in. ``measure``: the figure that accuracies are, None for top-1.
    """

    model: str
    target: str
    bits: dict[str, LayerBits]
    seed: int
    settings: FinetuneSettings | None
    epochs: float
    float_top1: Top1
    top1: Top1
    chosen_step: int
    candidates: tuple[Candidate, ...]
    weights: tuple[TensorQuant, ...]
    activations: tuple[TensorQuant, ...]
    seconds: float
    val_may_be_seen: bool = False
    calibrated: Calibrated | None = None
    scales: Scales = "free"
    of: str = IN_TORCH
    measure: Measure | None = None
    format: Literal["limpq.finetuned/1"] = field(default="limpq.finetuned/1")

    @property
    def figure(self) -> Measure:
        """What the accuracies are."""
        return self.measure or TOP1

    def pairs(self) -> dict[str, tuple[int, int]]:
        """(weight_bits, act_bits) by layer name, as `Placement` takes them."""
        return {name: bits.pair for name, bits in self.bits.items()}
