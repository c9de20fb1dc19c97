"""TensorRT's bindings: loaded late, and what differs between 8.6, 10 and 11 chosen by what is there.

Everything that only some versions have is asked for with ``hasattr`` right where it is used; a test holds every name
that these files use against the bindings of the three versions.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable, SettingError
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_GPU
from limpq_deploy.export.runtimes.cuda.driver import ask_driver, too_old
from limpq_deploy.export.runtimes.cuda.memory import package_problem

if TYPE_CHECKING:
    import tensorrt as trt

Typing = Literal["weak", "strong"]

DISTRIBUTIONS = TENSORRT_GPU.distributions

OLDEST = (8, 6)
"""The oldest version that this program drives; tensors by name and `execute_async_v3` came with 8.5."""


def unavailable() -> str | None:
    """Why TensorRT cannot be used here, every reason in one sentence; None where it can.

    The driver is asked first: ``trt.Runtime`` of 8.6 ends the process where there is none.
    """
    reasons = []
    if find_bindings() is None:
        reasons.append("the package tensorrt is not installed (run pip install 'limpq-deploy[gpu]')")
    driver = ask_driver()
    if driver.problem is not None:
        reasons.append(driver.problem)
    if (no_package := package_problem()) is not None:
        reasons.append(no_package)
    if not reasons:
        try:
            reasons += _unfit(load_bindings())
        except (MissingExtra, RuntimeUnavailable) as error:
            reasons.append(str(error))
    if not reasons:
        return None
    return f"TensorRT is not available here: {'; '.join(reasons)}"


def load_bindings() -> ModuleType:
    """The module ``tensorrt``. Call `ask_driver` before anything of it is called. Raises MissingExtra without the
    package, RuntimeUnavailable where its libraries do not load."""
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        raise MissingExtra("tensorrt is not installed; run pip install 'limpq-deploy[gpu]'") from error
    except (ImportError, OSError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise RuntimeUnavailable(
            f"tensorrt {installed_version() or ''} is installed but does not load ({why}); install its libraries, of "
            "the same version, or put their folder on LD_LIBRARY_PATH"
        ) from error
    return tensorrt


def find_bindings() -> str | None:
    """Where the module ``tensorrt`` would come from; None where it is not installed. Does not import it."""
    try:
        found = find_spec("tensorrt")
    except (ImportError, ValueError):
        return None
    return None if found is None else str(found.origin or found.name)


def installed_version() -> str | None:
    """Version of the installed package, without importing it; None where it is not known."""
    for distribution in DISTRIBUTIONS:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def choose_typing(trt: ModuleType, options: EngineOptions, *, typed: bool) -> Typing:
    """Whether types come from the file ("strong") or from the builder ("weak").

    ``typed``: the file was written with its types (`tensorrt_versions.FileForm`). One that was not, a float model or a
    file for 8.6, would run its float layers in FP32 if it were taken at its word; where weak typing is known, the
    builder's flags decide for it, elsewhere a float model gets its types first (`to_float16`). Raises
    SettingError where this version does not know what the options ask for.
    """
    knows_strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    knows_weak = hasattr(trt.BuilderFlag, "INT8")
    if options.typing == "auto":
        return "strong" if knows_strong and (typed or not knows_weak) else "weak"
    if options.typing == "strong" and not knows_strong:
        raise SettingError(f"TensorRT {trt.__version__} has no strong typing; leave the setting at auto")
    if options.typing == "weak" and not knows_weak:
        raise SettingError(f"TensorRT {trt.__version__} knows strong typing alone; leave the setting at auto")
    return options.typing


def network_flags(trt: ModuleType, typing: Typing) -> dict[str, int]:
    """Flags of the network by name, each with its bit. Batches are explicit everywhere, since 11 without a flag."""
    flags = {}
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags["EXPLICIT_BATCH"] = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if typing == "strong" and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags["STRONGLY_TYPED"] = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def set_precision(
    trt: ModuleType, config: "trt.IBuilderConfig", typing: Typing, options: EngineOptions, *, quantized: bool
) -> tuple[str, ...]:
    """Set the builder's precision flags and return the names of those that are on.

    Weak typing: INT8 for a file with Q/DQ, FP16 where the options let float layers have it. Strong typing: none of them
    may be set. TF32 is on by default in all versions.
    """
    names = []
    if typing == "weak":
        if quantized and hasattr(trt.BuilderFlag, "INT8"):
            config.set_flag(trt.BuilderFlag.INT8)
            names.append("INT8")
        if options.float_type == "float16" and hasattr(trt.BuilderFlag, "FP16"):
            config.set_flag(trt.BuilderFlag.FP16)
            names.append("FP16")
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
        names.append("TF32")
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    return tuple(names)


def needs_cuda(major: int, distribution: str = "") -> tuple[int, int]:
    """CUDA that the driver must serve: 13 for a package of CUDA 13 and for TensorRT 11, else 12.

    From NVIDIA's support matrices: the wheels of 8.6 and 10 are built with CUDA 12, those named cu13 with CUDA 13.
    """
    return (13, 0) if "cu13" in distribution or major >= 11 else (12, 0)


def _unfit(trt: ModuleType) -> list[str]:
    """Reasons why bindings that load cannot be used all the same."""
    numbers = tuple(int(part) for part in str(trt.__version__).split(".")[:2])
    if numbers < OLDEST:
        return [f"TensorRT {trt.__version__} is older than {OLDEST[0]}.{OLDEST[1]}; install a newer one"]
    needed = needs_cuda(numbers[0], _distribution() or "")
    old = too_old(ask_driver(), needed, f"TensorRT {trt.__version__}")
    return [] if old is None else [old]


def _distribution() -> str | None:
    for distribution in DISTRIBUTIONS[1:]:
        try:
            version(distribution)
        except PackageNotFoundError:
            continue
        return distribution
    return None
