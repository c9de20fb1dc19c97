"""Compute capabilities that TensorRT-RTX builds for, and what its compiler admits on each.

Measured with 1.7.1 by building files of one layer; NVIDIA's support matrix names the same GPUs. "int8" of a convolution
is its product: what it hands out is float, for no form gives an int8 result here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from limpq_deploy.calibration.errors import SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """``name``: as users give it; ``number``: as drivers tell it; ``gpus``: examples. ``convolutions``, ``products``:
    types that convolutions and Gemms may compute in (activations x weights where they differ). ``alone``: no engine is
    for it and others: the convolutions of all would be floats."""

    name: str
    number: str
    gpus: str
    convolutions: tuple[str, ...]
    products: tuple[str, ...]
    alone: bool = False

    @property
    def enum(self) -> str:
        """Member of the bindings' ``ComputeCapability``."""
        return self.name.upper()


FP8 = "fp8"
"""E4M3, as `Capability` names it: from compute capability 8.9 on."""

_FLOATS = ("float32", "float16")
_AMPERE = ("int8", "float x int4")
_ADA = (*_AMPERE, FP8)

CAPABILITIES = {
    one.name: one
    for one in (
        Capability(
            name="sm75",
            number="7.5",
            gpus="GeForce RTX 20, T4",
            convolutions=_FLOATS,
            products=("float16",),
            alone=True,
        ),
        Capability(
            name="sm86",
            number="8.6",
            gpus="GeForce RTX 30, A10, A40",
            convolutions=(*_FLOATS, "int8"),
            products=(*_FLOATS, *_AMPERE),
        ),
        Capability(
            name="sm89",
            number="8.9",
            gpus="GeForce RTX 40, L4, L40S",
            convolutions=(*_FLOATS, "int8", FP8),
            products=(*_FLOATS, *_ADA),
        ),
        Capability(
            name="sm120",
            number="12.0",
            gpus="GeForce RTX 50, RTX PRO Blackwell",
            convolutions=(*_FLOATS, "int8", FP8),
            products=(*_FLOATS, *_ADA, "nvfp4"),
        ),
        Capability(
            name="sm121",
            number="12.1",
            gpus="GB10",
            convolutions=(*_FLOATS, "int8", FP8),
            products=(*_FLOATS, *_ADA, "nvfp4"),
        ),
    )
}
"""All that are known, by name."""

BY_NUMBER = {one.number: one for one in CAPABILITIES.values()}

DEFAULT = ("sm86", "sm89", "sm120")
"""GPUs since 2020, in one engine."""

DATA_CENTRE = {"sm80": "A100", "sm90": "H100, H200", "sm100": "B200", "sm103": "B300"}
"""GPUs that it does not run on."""


def split(text: str) -> tuple[str, ...]:
    """Names of a list such as "sm86,sm89"."""
    return tuple(name.strip() for name in text.split(","))


def capabilities_named(names: Sequence[str]) -> tuple[Capability, ...]:
    """Capabilities of one engine, in the table's order. Raises SettingError for none, unknown ones, those of data
    centres, and combinations that one engine cannot be for."""
    known = ", ".join(CAPABILITIES)
    for name in names:
        if name in DATA_CENTRE:
            raise SettingError(
                f"gpus names {name} ({DATA_CENTRE[name]}), which TensorRT-RTX does not run on; expected some of "
                f"{known}, or build with --target tensorrt on such a GPU"
            )
        if name not in CAPABILITIES:
            raise SettingError(f"gpus names {name or 'nothing'!r}; expected some of {known}")
    if not names:
        raise SettingError(f"gpus names no GPU; expected some of {known}")
    chosen = tuple(one for one in CAPABILITIES.values() if one.name in names)
    lonely = next((one for one in chosen if one.alone), None)
    if lonely is not None and len(chosen) > 1:
        raise SettingError(
            f"gpus names {lonely.name} beside {', '.join(one.name for one in chosen if one is not lonely)}; an "
            f"engine for both has no int8 convolutions at all; build one with --gpus {lonely.name}, one for the others"
        )
    return chosen
