"""Runtimes by name. A runtime is imported when it is asked for."""

from limpq_deploy.calibration.errors import ModelError, RuntimeUnavailable
from limpq_deploy.export.runtimes.base import Runtime

RUNTIMES = ("onnxruntime", "tensorrt")


def runtime_named(name: str) -> Runtime:
    """The runtime of this name. Raises RuntimeUnavailable where this version has none, ModelError for unknown names."""
    if name == "onnxruntime":
        from limpq_deploy.export.runtimes.ort import OnnxRuntime

        return OnnxRuntime()
    if name == "tensorrt":
        raise RuntimeUnavailable(
            "TensorRT is not available here: this version exports for it but builds no TensorRT engine; "
            "use --no-engine to stop after export"
        )
    raise ModelError(f"unknown runtime {name!r}; known runtimes: {', '.join(RUNTIMES)}")
