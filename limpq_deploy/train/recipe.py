"""What a user may say about training, and the settings that come of it. No torch here."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from limpq_deploy.train.settings import (
    BATCH_SIZE,
    FinetuneSettings,
    FloatSettings,
    JointSettings,
    Precision,
    Start,
    TrainSettings,
    finetune_settings,
    float_settings,
    joint_settings,
)

S = TypeVar("S", bound=TrainSettings)

JOINT_ONLY = ("freeze_weights", "inplace_distill")
QUANTIZED_ONLY = (*JOINT_ONLY, "data_fraction", "distill", "temperature", "ema")
"""Settings of joint training and fine-tuning, beside those that have ``joint_`` or ``finetune_`` in their name."""

MAY_BE_ZERO = ("label_smoothing", "warmup", "distill", "ema", "workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What replaces the defaults (`settings`); None keeps what suits the number of images.

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


AS_SUITS = Training()
"""Everything as suits the number of images."""


def float_recipe(training: Training, images: int) -> FloatSettings:
    """Training of the float model on so many images."""
    return _recipe(float_settings(images, _batch(training)), training, images, "float")


def joint_recipe(training: Training, images: int) -> JointSettings:
    """Joint training; ``data_fraction`` of the images make its epochs."""
    fraction = training.data_fraction or 1.0
    given = training.given()
    chosen = {name: given[name] for name in ("distill", *JOINT_ONLY) if name in given}
    if training.inplace_distill:  # the highest width teaches instead of the float model
        chosen["distill"] = 0.0
    defaults = joint_settings(round(images * fraction), _batch(training))
    defaults = replace(defaults, data_fraction=fraction, **chosen)
    return _recipe(defaults, training, round(images * fraction), "joint")


def finetune_recipe(training: Training, images: int) -> FinetuneSettings:
    """Fine-tuning, of the mixed policy and of the uniform one alike."""
    defaults = finetune_settings(images, _batch(training))
    chosen: dict[str, Any] = {
        name: training.given()[name] for name in ("distill", "temperature", "ema") if name in training.given()
    }
    if training.finetune_start is not None:
        chosen["start"] = training.finetune_start
    return _recipe(replace(defaults, **chosen), training, images, "finetune")


def _batch(training: Training) -> int:
    return training.batch_size or BATCH_SIZE


def _recipe(defaults: S, training: Training, images: int, kind: str) -> S:
    given = training.given()
    changes: dict[str, Any] = {
        name: given[name]
        for name in ("label_smoothing", "accumulate", "precision", "channels_last", "freeze_batchnorm")
        if name in given
    }
    if (rate := given.get(f"{kind}_lr")) is not None:
        changes["learning_rate"] = rate
    steps = given.get(f"{kind}_steps", defaults.steps)
    if (epochs := given.get(f"{kind}_epochs")) is not None:
        steps = max(1, round(epochs * images / min(defaults.batch_size, images)))
    if isinstance(defaults, FinetuneSettings):
        changes["candidates"] = min(defaults.candidates, steps)
    return replace(defaults, steps=steps, warmup_steps=int(steps * given.get("warmup", 1 / 20)), **changes)
