"""What is usable on this machine, and in a sentence why not. Never crashes; imports no heavy library unless present."""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.records.environment import Environment, read_environment
from limpq_deploy.export.records.targets import RUNTIMES
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsElsewhere
from limpq_deploy.export.runtimes.cpu import describe_cpu
from limpq_deploy.export.runtimes.cuda.driver import CudaDriver, ask_driver
from limpq_deploy.export.runtimes.vnni_advice import saturation_note
from limpq_deploy.optional_packages import EXTRAS, missing_modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Facility:
    """Something that may be usable; ``detail`` is its version, or why it is not. ``builds``: of a runtime whose engines
    are built without a GPU, whether they are here; None for all else. ``usable`` is then about running them."""

    name: str
    usable: bool
    detail: str
    builds: bool | None = None


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
    """A runtime may fail in any way while it is loaded (another library's fault), and doctor still has to say so."""
    builds = None
    try:
        runtime = runtime_named(name)
        why = runtime.unavailable()
        if isinstance(runtime, BuildsElsewhere):
            builds = runtime.cannot_build() is None
    except LimpqError as error:
        why = str(error)
    except Exception as error:
        why = f"it does not load ({type(error).__name__}: {_line(error)}); install it again"
    detail = why or _version(RUNTIMES[name].distributions)
    if why is not None and builds:
        detail = f"{_version(RUNTIMES[name].distributions)} builds engines; {why}"
    return Facility(name=name, usable=why is None, detail=detail, builds=builds)


def _extra(name: str, modules: tuple[str, ...]) -> Facility:
    missing = missing_modules(modules)
    if missing:
        detail = f"{', '.join(missing)} not installed; run: pip install 'limpq-deploy[{name}]'"
        return Facility(name=name, usable=False, detail=detail)
    return Facility(name=name, usable=True, detail="installed")


def _nvidia() -> Facility:
    """The driver is asked before any library that would need it."""
    driver = ask_driver()
    detail = driver.problem if driver.problem is not None else gpu_line(driver)
    return Facility(name="NVIDIA GPU", usable=driver.problem is None, detail=detail)


def gpu_line(driver: CudaDriver) -> str:
    """The GPUs of a driver, and the CUDA that it serves."""
    gpus = [f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mib:,} MiB" for gpu in driver.gpus]
    return f"{'; '.join(gpus)} (CUDA {'.'.join(map(str, driver.cuda or ('?',)))})"


def advice(environment: Environment) -> tuple[str, ...]:
    """Sentences worth reading before a build on such a machine."""
    note = saturation_note(describe_cpu(environment.cpu, set(environment.instruction_sets), environment.architecture))
    return () if note is None else (note,)


def _version(distributions: tuple[str, ...]) -> str:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "installed"


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")
