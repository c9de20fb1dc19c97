"""What a user may say about training, and how long and how fast each kind of it goes, scaled to the number of training
images. No torch here."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

from limpq_deploy.calibration.errors import SettingError

BATCH_SIZE = 64
"""Images of an optimizer step, over all processes."""

Precision = Literal["fp32", "bf16", "fp16"]
Start = Literal["float", "joint"]

JOINT_ONLY = ("freeze_weights", "inplace_distill")
FINETUNE_ONLY = ("temperature", "ema")
QUANTIZED_ONLY = (*JOINT_ONLY, *FINETUNE_ONLY, "data_fraction", "distill")
"""Settings of joint training and fine-tuning, beside those that have ``joint_`` or ``finetune_`` in their name."""

MAY_BE_ZERO = ("label_smoothing", "warmup", "distill", "ema", "workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What replaces the defaults; None keeps what suits the number of images.

    ``float_*``: only where no weights are given. ``*_steps``: optimizer steps of ``batch_size`` images, over all
    processes; ``*_epochs``: the same in passes over the training images. ``*_lr``: the highest learning rate of
    weights. ``finetune_start``: as in `FinetuneSettings`. ``data_fraction``: share of the training images that joint
    training sees. ``freeze_weights``,
    ``inplace_distill``: of joint training (`JointSettings`). ``warmup``: share of the steps.
    ``distill``: share of the float model's logits in joint training and fine-tuning. ``temperature``, ``ema``: of
    fine-tuning (`FinetuneSettings`). ``accumulate``, ``precision``,
    ``channels_last``, ``freeze_batchnorm``, ``label_smoothing``: of every training (`TrainSettings`).

    ``workers``: processes that read images ahead. ``log``: JSON lines in ``training/``. ``tensorboard``: event files
    there. ``checkpoint_minutes``, ``checkpoint_steps``: how often a training can be gone on from.
    """

    batch_size: int | None = None
    float_steps: int | None = None
    float_epochs: float | None = None
    float_lr: float | None = None
    joint_steps: int | None = None
    joint_epochs: float | None = None
    joint_lr: float | None = None
    finetune_steps: int | None = None
    finetune_epochs: float | None = None
    finetune_lr: float | None = None
    finetune_start: Start | None = None
    data_fraction: float | None = None
    freeze_weights: bool | None = None
    inplace_distill: bool | None = None
    label_smoothing: float | None = None
    warmup: float | None = None
    distill: float | None = None
    temperature: float | None = None
    ema: float | None = None
    accumulate: int | None = None
    precision: Precision | None = None
    channels_last: bool | None = None
    freeze_batchnorm: bool | None = None
    workers: int | None = None
    log: bool | None = None
    tensorboard: bool | None = None
    checkpoint_minutes: float | None = None
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or isinstance(value, bool | str):
                continue
            if field.name in MAY_BE_ZERO and value == 0:
                continue
            if not 0 < value < float("inf"):
                least = "0 or above" if field.name in MAY_BE_ZERO else "a number above 0"
                raise ValueError(f"{field.name} is {value}; expected {least}")
        for name in ("data_fraction", "distill"):
            value = getattr(self, name)
            if value is not None and value > 1:
                raise ValueError(f"{name} is {value}; expected at most 1")
        for name in ("label_smoothing", "warmup", "ema"):
            value = getattr(self, name)
            if value is not None and value >= 1:
                raise ValueError(f"{name} is {value}; expected less than 1")
        for kind in ("float", "joint", "finetune"):
            if getattr(self, f"{kind}_steps") is not None and getattr(self, f"{kind}_epochs") is not None:
                raise ValueError(f"{kind}_epochs and {kind}_steps both say how long to train; give one of them")
        if self.temperature is not None and self.distill == 0:
            raise ValueError("temperature has no effect without distill; give distill = 1.0 or so")

    def given(self) -> dict[str, Any]:
        """What the user said."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def of_quantized_models(self) -> tuple[str, ...]:
        """Names of what is given for joint training and fine-tuning alone."""
        return tuple(
            name for name in self.given() if name in QUANTIZED_ONLY or name.startswith(("joint_", "finetune_"))
        )

    def of_finetuning(self) -> tuple[str, ...]:
        """Names of what is given for fine-tuning alone."""
        return tuple(name for name in self.given() if name in FINETUNE_ONLY or name.startswith("finetune_"))


AS_SUITS = Training()
"""Everything as suits the number of images."""


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


S = TypeVar("S", bound=TrainSettings)


def float_settings(images: int, training: Training = AS_SUITS) -> FloatSettings:
    """Of the float model: 20 epochs of so many images, but 300 to 20,000 steps."""
    steps, batch_size = _steps(20, images, training, least=300, most=20_000)
    defaults = FloatSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.1,
        scale_learning_rate=0.01,
        warmup_steps=steps // 20,
        weight_decay=5e-4,
        label_smoothing=0.1,
    )
    return _changed(defaults, training, images, "float")


def joint_settings(images: int, training: Training = AS_SUITS) -> JointSettings:
    """Of joint training: one epoch of the ``data_fraction`` of the images, but 150 to 20,000 steps. Weights learn as in
    the paper (SGD at 0.01), from the float model's logits rather than labels: a short training from labels alone loses
    more than the bits do (docs/adr/0012)."""
    fraction = training.data_fraction or 1.0
    seen = round(images * fraction)
    steps, batch_size = _steps(1, seen, training, least=150, most=20_000)
    chosen = {"distill": 1.0} | _given(training, ("distill", *JOINT_ONLY))
    if training.inplace_distill:  # the highest width teaches instead of the float model
        chosen["distill"] = 0.0
    defaults = JointSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.01,
        scale_learning_rate=0.02,
        warmup_steps=steps // 20,
        weight_decay=2.5e-5,
        label_smoothing=0.1,
        data_fraction=fraction,
        **chosen,
    )
    return _changed(defaults, training, seen, "joint")


def finetune_settings(images: int, training: Training = AS_SUITS) -> FinetuneSettings:
    """Of fine-tuning, the mixed policy and the uniform one: three epochs, but 200 to 60,000 steps, from the float
    weights and the float model's logits, at a quarter of the paper's learning rate (its 0.04 suits 90 epochs of labels;
    docs/adr/0012)."""
    steps, batch_size = _steps(3, images, training, least=200, most=60_000)
    chosen = {"distill": 1.0} | _given(training, ("distill", "temperature", "ema"))
    defaults = FinetuneSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=0.01,
        scale_learning_rate=0.005,
        warmup_steps=steps // 20,
        weight_decay=2.5e-5,
        label_smoothing=0.1,
        start=training.finetune_start or "float",
        **chosen,
    )
    return _changed(defaults, training, images, "finetune")


def _steps(epochs: int, images: int, training: Training, *, least: int, most: int) -> tuple[int, int]:
    """Steps of so many epochs within these ends, and the images of each."""
    batch_size = training.batch_size or BATCH_SIZE
    return min(max(epochs * images // batch_size, least), most), batch_size


def _given(training: Training, names: tuple[str, ...]) -> dict[str, Any]:
    """What the user said of these settings."""
    given = training.given()
    return {name: given[name] for name in names if name in given}


def _changed(defaults: S, training: Training, images: int, kind: str) -> S:
    """The defaults, with what was given for this kind of training or for all."""
    given = training.given()
    changes = _given(training, ("label_smoothing", "accumulate", "precision", "channels_last", "freeze_batchnorm"))
    if (rate := given.get(f"{kind}_lr")) is not None:
        changes["learning_rate"] = rate
    steps = given.get(f"{kind}_steps", defaults.steps)
    if (epochs := given.get(f"{kind}_epochs")) is not None:
        steps = max(1, round(epochs * images / min(defaults.batch_size, images)))
    if isinstance(defaults, FinetuneSettings):
        changes["candidates"] = min(defaults.candidates, steps)
    return replace(defaults, steps=steps, warmup_steps=int(steps * given.get("warmup", 1 / 20)), **changes)


def _require(holds: bool, name: str, found: float, expected: str) -> None:
    if not holds:
        raise SettingError(f"training setting {name} is {found}; expected {expected}")
