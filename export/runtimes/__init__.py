"""Runtimes by name. A runtime is imported when it is asked for."""

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.runtimes.base import Runtime

RUNTIMES = ("onnxruntime", "onnxruntime-cuda", "tensorrt")


def runtime_named(name: str) -> Runtime:
    """The runtime of this name, usable here or not (see `Runtime.unavailable`). Raises ModelError for unknown names."""
    if name == "onnxruntime":
        from limpq_deploy.export.runtimes.ort import OnnxRuntime

        return OnnxRuntime()
    if name == "onnxruntime-cuda":
        from limpq_deploy.export.runtimes.cuda_ort import OnnxRuntimeCuda

        return OnnxRuntimeCuda()
    if name == "tensorrt":
        from limpq_deploy.export.runtimes.trt import TensorRt

        return TensorRt()
    raise ModelError(f"unknown runtime {name!r}; known runtimes: {', '.join(RUNTIMES)}")
