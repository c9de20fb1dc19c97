"""TensorRT-RTX's bindings, loaded late. Building needs them alone; running needs a driver and a GPU that it knows.

They are asked apart: `cannot_build` and `cannot_run`. NVIDIA's packages are proprietary: depended on, never shipped.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable
from limpq_deploy.export.records.targets.tensorrt_rtx import TENSORRT_RTX_GPU
from limpq_deploy.export.runtimes.cuda.driver import ask_driver, too_old
from limpq_deploy.export.runtimes.cuda.memory import package_problem
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import BY_NUMBER

MODULE = "tensorrt_rtx_bindings"
LIBRARIES = "tensorrt_rtx_libs"
"""What `MODULE` loads the libraries from."""

DISTRIBUTIONS = TENSORRT_RTX_GPU.distributions

PRODUCT = TENSORRT_RTX_GPU.title
"""What sentences call it."""

INSTALL = "run pip install 'limpq-deploy[rtx]'"


def cannot_build() -> str | None:
    """Why no engine can be built here, in one sentence; None where one can. Loads nothing."""
    missing = [name for name in (MODULE, LIBRARIES) if not _found(name)]
    if missing:
        return f"NVIDIA's compiler {PRODUCT} is not here: {' and '.join(missing)} not installed ({INSTALL})"
    return None


def cannot_run() -> str | None:
    """Why no engine can be run here, every reason in one sentence; None where one can."""
    reasons = [why] if (why := cannot_build()) is not None else []
    driver = ask_driver()
    if driver.problem is not None:
        reasons.append(driver.problem)
    elif driver.gpus[0].compute_capability not in BY_NUMBER:
        gpu = driver.gpus[0]
        reasons.append(
            f"{gpu.name} has compute capability {gpu.compute_capability}, and {PRODUCT} runs on "
            f"{', '.join(BY_NUMBER)}; use the target tensorrt"
        )
    elif (old := too_old(driver, (12, 0), PRODUCT)) is not None:
        reasons.append(old)
    if (no_package := package_problem()) is not None:
        reasons.append(no_package)
    return f"{PRODUCT} runs no engine here: {'; '.join(reasons)}" if reasons else None


def load_bindings() -> ModuleType:
    """The module. Raises MissingExtra without the packages, RuntimeUnavailable where they do not load."""
    why = cannot_build()
    if why is not None:
        raise MissingExtra(why)
    try:
        import tensorrt_rtx_bindings
    except (ImportError, OSError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise RuntimeUnavailable(
            f"{PRODUCT} {installed_version() or ''} is installed but does not load ({said}); install its bindings and "
            "libraries of one version again"
        ) from error
    return tensorrt_rtx_bindings


def installed_version() -> str | None:
    """Version of the installed package, without importing it; None where it is not known."""
    for distribution in DISTRIBUTIONS:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def compiler_name() -> str:
    """Product and version to two places, such as "TensorRT-RTX 1.7"."""
    numbers = (installed_version() or "").split(".")[:2]
    return " ".join((PRODUCT, ".".join(numbers))).strip()


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # a broken package, or one that something has blocked
        return False
