"""Runtimes by name. A runtime is imported when it is asked for."""

from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes.base import Runtime

RUNTIMES = ("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt_rtx")
BUILDERS = ("tensorrt", "tensorrt_rtx")
"""Those that build engines."""


def runtime_named(name: str, options: EngineOptions | None = None) -> Runtime:
    """The runtime of this name, usable here or not (see `Runtime.unavailable`). ``options``: how it builds engines.

    Raises ModelError for unknown names, SettingError for options where the runtime builds no engines.
    """
    if options is not None and name in RUNTIMES and name not in BUILDERS:
        raise SettingError(
            f"the runtime is {name}, which builds no engines: settings of TensorRT's builder (batch range, float type, "
            "TF32, workspace, level, number of builds) have no effect; leave them away, or give --runtime tensorrt"
        )
    if name == "onnxruntime":
        from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime

        return OnnxRuntime()
    if name == "onnxruntime-cuda":
        from limpq_deploy.export.runtimes.onnxruntime.cuda_session import OnnxRuntimeCuda

        return OnnxRuntimeCuda()
    if name == "tensorrt":
        from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

        return TensorRt(options)
    if name == "tensorrt_rtx":
        from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import TensorRtRtx

        return TensorRtRtx(options)
    raise ModelError(f"unknown runtime {name!r}; known runtimes: {', '.join(RUNTIMES)}")
