"""How an engine is to be built: the settings that a TensorRT builder takes, checked once."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from limpq_deploy.calibration.errors import SettingError

LEVELS = range(6)
"""Builder optimisation levels: 0 builds fastest, 5 tries most; TensorRT's own default is 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRange:
    """Images per call that an engine takes: at least ``least``, at most ``most``, fastest at ``best``.

    Raises SettingError unless 1 <= least <= best <= most.
    """

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise SettingError(f"the batch range is {self}; expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")

    def __str__(self) -> str:
        return f"{self.least}:{self.best}:{self.most}"

    @classmethod
    def parse(cls, text: str) -> "BatchRange":
        """``"1:8:32"``, or one number for all three. Raises SettingError for anything else."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts):
            raise SettingError(f"the batch range is {text!r}; expected MIN:OPT:MAX, such as 1:8:32, or one number")
        least, best, most = (int(part) for part in (parts * 3)[:3])
        return cls(least=least, best=best, most=most)


DEFAULT_BATCH = BatchRange(least=1, best=1, most=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Settings of one engine.

    ``float_type``: of layers without integers, where the file does not say: "float16" lets the builder choose between
    that and float32 where typing is weak, and writes float models in float16 where it is strong. ``typing``:
    "strong" takes every type from the file (10; always 11), "weak" lets the builder choose (8.6, 10); "auto": strong
    for a file written with its types. ``tf32``: whether float32 products may drop 13 bits of the mantissa, as TensorRT
    does by default. ``batch``: for files whose batch is free; None: the runtime's own, `DEFAULT_BATCH` of TensorRT.
    ``workspace_mib`` None: all of the GPU's memory. ``level``: see `LEVELS`. ``builds``: engines built to choose the
    fastest of; beyond one, each times its kernels anew, so that their spread is known. ``gpus``: compute capabilities,
    such as "sm89", that an engine built ahead of time is for; None: those of `tensorrt_rtx.capabilities.DEFAULT`.
    TensorRT builds for the GPU that is here.

    Raises SettingError for a value out of range.
    """

    float_type: Literal["float32", "float16"] = "float16"
    typing: Literal["auto", "weak", "strong"] = "auto"
    tf32: bool = True
    batch: BatchRange | None = None
    workspace_mib: int | None = None
    level: int = 3
    builds: int = 1
    gpus: tuple[str, ...] | None = None

    @property
    def sizes(self) -> BatchRange:
        """The batch, or the default."""
        return self.batch or DEFAULT_BATCH

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise SettingError(f"the builder level is {self.level}; expected {LEVELS[0]} to {LEVELS[-1]}")
        if self.builds < 1:
            raise SettingError(f"{self.builds} builds were asked for; expected at least one")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise SettingError(f"the workspace is {self.workspace_mib} MiB; expected at least 1")


def given_options(**settings: Any) -> EngineOptions | None:
    """Options with these settings, None standing for a default; None where all are. Raises SettingError as they do."""
    given = {name: value for name, value in settings.items() if value is not None}
    return EngineOptions(**given) if given else None
