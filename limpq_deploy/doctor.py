"""What is usable on this machine, and in a sentence why not. Never crashes; imports no heavy library unless present."""

import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.environment import Environment, read_environment
from limpq_deploy.export.runtimes import RUNTIMES, runtime_named
from limpq_deploy.export.runtimes.cpu import describe_cpu
from limpq_deploy.export.saturation import saturation_note
from limpq_deploy.extras import EXTRAS, missing_modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Facility:
    """Something that may be usable; ``detail`` is its version, or why it is not."""

    name: str
    usable: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Runtimes, extras and devices; ``advice``: sentences worth reading before a build."""

    environment: Environment
    runtimes: tuple[Facility, ...]
    extras: tuple[Facility, ...]
    devices: tuple[Facility, ...]
    advice: tuple[str, ...]
    format: Literal["limpq.doctor/1"] = field(default="limpq.doctor/1")


def examine() -> Diagnosis:
    """Look at everything that a build may need."""
    environment = read_environment()
    return Diagnosis(
        environment=environment,
        runtimes=tuple(_runtime(name) for name in RUNTIMES),
        extras=tuple(_extra(name, modules) for name, modules in EXTRAS.items()),
        devices=(_nvidia(),),
        advice=advice(environment),
    )


def _runtime(name: str) -> Facility:
    try:
        why = runtime_named(name).unavailable()
    except LimpqError as error:
        why = str(error)
    return Facility(name=name, usable=why is None, detail=why or _version(name))


def _extra(name: str, modules: tuple[str, ...]) -> Facility:
    missing = missing_modules(modules)
    if missing:
        detail = f"{', '.join(missing)} not installed; run: pip install 'limpq-deploy[{name}]'"
        return Facility(name=name, usable=False, detail=detail)
    return Facility(name=name, usable=True, detail="installed")


def _nvidia() -> Facility:
    """The driver is asked before any library that would need it."""
    import ctypes

    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
        count = ctypes.c_int(0)
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
            return Facility(name="NVIDIA GPU", usable=False, detail="the driver is installed but finds no GPU")
    except (OSError, AttributeError):
        return Facility(name="NVIDIA GPU", usable=False, detail=f"no NVIDIA driver here ({name} cannot be loaded)")
    return Facility(name="NVIDIA GPU", usable=True, detail=f"{count.value} found")


def advice(environment: Environment) -> tuple[str, ...]:
    """Sentences worth reading before a build on such a machine."""
    note = saturation_note(describe_cpu(environment.cpu, set(environment.instruction_sets), environment.architecture))
    return () if note is None else (note,)


def _version(package: str) -> str:
    for name in (package, f"{package}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "installed"
