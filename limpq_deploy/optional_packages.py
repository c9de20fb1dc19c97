"""Optional dependencies: which extra brings which module, and one sentence where one is missing."""

import importlib.util
from collections.abc import Iterable

from limpq_deploy.calibration.errors import MissingExtra

EXTRAS = {
    "train": ("torch", "torchvision", "safetensors", "sklearn", "onnxscript"),
    "timm": ("timm",),
    "cpu": ("onnxruntime",),
    "gpu": ("tensorrt", "pycuda", "pynvml"),
    "rtx": ("tensorrt_rtx_bindings", "tensorrt_rtx_libs"),
    "highs": ("highspy",),
    "serve": ("tritonclient", "cryptography"),
}
"""Extras and the modules that they bring."""


def missing_modules(names: Iterable[str]) -> list[str]:
    """Those of these modules that are not installed; none of them is imported."""
    return [name for name in names if not _found(name)]


def require_modules(names: Iterable[str], purpose: str) -> None:
    """Raise MissingExtra, naming the extra, unless all of these modules are installed."""
    missing = missing_modules(names)
    if missing:
        extras = ",".join(extra for extra, modules in EXTRAS.items() if set(modules) & set(missing))
        verb = "are" if len(missing) > 1 else "is"
        raise MissingExtra(
            f"{purpose} needs {' and '.join(missing)}, which {verb} not installed; "
            f"run: pip install 'limpq-deploy[{extras}]'"
        )


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a broken package, or one that something has blocked
        return False
