"""How long and how fast each kind of training goes, scaled to the number of training images. No torch here."""

from dataclasses import dataclass
from typing import Literal

from limpq_deploy.calibration.errors import SettingError

BATCH_SIZE = 64
"""Images of an optimizer step, over all processes."""

Precision = Literal["fp32", "bf16", "fp16"]
Start = Literal["float", "joint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of the training loop.

    ``steps``: optimizer steps of ``batch_size`` images. ``learning_rate``: of weights, biases and BatchNorm (SGD with
    ``momentum``). ``scale_learning_rate``: of quantizer scales (Adam on their logarithm, so that 0.01 moves a scale by
    about 1 % in a step). Both rise linearly during ``warmup_steps`` and fall as a cosine to 0. ``weight_decay``:
    of layer weights only. ``gradient_clip``: largest absolute gradient value. ``augment``: whether images are augmented
    as the data set says. ``data_fraction``: share of the images that is used, drawn once.

    ``accumulate``: a batch goes through the model in so many parts, to save memory. ``precision``: of convolutions and
    matrix products; quantizers compute in float32 throughout. ``channels_last``: how images and weights lie in memory
    (a step took 0.68 to 0.91 of the time, one of ResNet-18 with 8 images 1.07; sums change in their last bits).
    ``freeze_batchnorm``: normalise with the statistics as they are, and leave them.
    Raises SettingError for values that make no sense.
    """

    steps: int
    batch_size: int
    learning_rate: float
    scale_learning_rate: float
    warmup_steps: int
    weight_decay: float
    label_smoothing: float
    momentum: float = 0.9
    gradient_clip: float = 1.0
    augment: bool = True
    data_fraction: float = 1.0
    accumulate: int = 1
    precision: Precision = "fp32"
    channels_last: bool = True
    freeze_batchnorm: bool = False

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "at least 1")
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2, for BatchNorm")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(self.scale_learning_rate > 0, "scale_learning_rate", self.scale_learning_rate, "above 0")
        _require(0 <= self.warmup_steps < self.steps, "warmup_steps", self.warmup_steps, f"0 to {self.steps - 1}")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "0 or more and below 1")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "0 or more and below 1")
        _require(self.gradient_clip > 0, "gradient_clip", self.gradient_clip, "above 0")
        _require(0 < self.data_fraction <= 1, "data_fraction", self.data_fraction, "above 0, at most 1")
        _require(1 <= self.accumulate <= self.batch_size, "accumulate", self.accumulate, f"1 to {self.batch_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatSettings(TrainSettings):
    """Training of a float model from fresh weights. ``batchnorm_images``: for its statistics, estimated at the end."""

    batchnorm_images: int = 6000

    def __post_init__(self) -> None:
        TrainSettings.__post_init__(self)
        _require(self.batchnorm_images >= 2, "batchnorm_images", self.batchnorm_images, "at least 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSettings(TrainSettings):
    """Joint training of all bit-widths. ``first_images``: images that give the activation scales their first values.

    ``distill``: share of every pass's loss that comes from the float model's logits (0: labels alone, 1: no labels).
    ``freeze_weights``: weights and biases of layers stay as they are; scales and BatchNorm learn. ``inplace_distill``:
    the pass at the highest width learns from the labels, and its logits teach the others (Yu and Huang, Universally
    Slimmable Networks, ICCV 2019).
    """

    first_images: int = 256
    distill: float = 0.0
    freeze_weights: bool = False
    inplace_distill: bool = False

    def __post_init__(self) -> None:
        TrainSettings.__post_init__(self)
        _require(self.first_images >= 1, "first_images", self.first_images, "at least 1")
        _require(0 <= self.distill <= 1, "distill", self.distill, "0 to 1")
        _require(not (self.distill and self.inplace_distill), "distill", self.distill, "0 beside inplace_distill")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSettings(TrainSettings):
    """Training at fixed bit-widths. ``candidates``: checkpoints tried on the validation split, evenly spaced, the last
    step among them. ``batchnorm_images``: images for the statistics of each.

    ``distill``: share of the loss that comes from the float model's logits (0: labels alone, 1: no labels), softened
    by ``temperature``. ``ema``: what is tried is a moving average with this decay, such as 0.999; 0: no average.
    ``start``: the network that training begins with: the float model with least-squares scales, or the jointly trained
    one with its learned scales.
    """

    start: Start = "float"
    candidates: int = 4
    batchnorm_images: int = 6000
    distill: float = 0.0
    temperature: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        TrainSettings.__post_init__(self)
        _require(1 <= self.candidates <= self.steps, "candidates", self.candidates, f"1 to {self.steps}")
        _require(self.batchnorm_images >= 2, "batchnorm_images", self.batchnorm_images, "at least 2")
        _require(0 <= self.distill <= 1, "distill", self.distill, "0 to 1")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0")
        _require(0 <= self.ema < 1, "ema", self.ema, "0 or more and below 1")


def float_settings(num_images: int, batch_size: int = BATCH_SIZE) -> FloatSettings:
    """20 epochs of ``num_images``, but 300 to 20,000 steps."""
    steps = _steps(20, num_images, batch_size, least=300, most=20_000)
    return FloatSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.1,
        scale_learning_rate=0.01,
        warmup_steps=steps // 20,
        weight_decay=5e-4,
        label_smoothing=0.1,
    )


def joint_settings(num_images: int, batch_size: int = BATCH_SIZE) -> JointSettings:
    """One epoch, but 150 to 20,000 steps. Weights learn as in the paper (SGD at 0.01), from the float model's logits
    rather than labels: a short training from labels alone loses more than the bits do (docs/adr/0012)."""
    steps = _steps(1, num_images, batch_size, least=150, most=20_000)
    return JointSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.01,
        scale_learning_rate=0.02,
        warmup_steps=steps // 20,
        weight_decay=2.5e-5,
        label_smoothing=0.1,
        distill=1.0,
    )


def finetune_settings(num_images: int, batch_size: int = BATCH_SIZE) -> FinetuneSettings:
    """Three epochs, but 200 to 60,000 steps, from the float weights and the float model's logits, at a quarter of the
    paper's learning rate (its 0.04 suits 90 epochs of labels; docs/adr/0012)."""
    steps = _steps(3, num_images, batch_size, least=200, most=60_000)
    return FinetuneSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.01,
        scale_learning_rate=0.005,
        warmup_steps=steps // 20,
        weight_decay=2.5e-5,
        label_smoothing=0.1,
        distill=1.0,
    )


def _steps(epochs: int, num_images: int, batch_size: int, *, least: int, most: int) -> int:
    return min(max(epochs * num_images // batch_size, least), most)


def _require(holds: bool, name: str, found: float, expected: str) -> None:
    if not holds:
        raise SettingError(f"training setting {name} is {found}; expected {expected}")
