"""A loaded engine of TensorRT-RTX. Written to its documentation; it has never run (no GPU was at hand).

It is TensorRT's session but for how contexts are made: engines are finished on the GPU when their first context is
made, and what that took can be kept.
"""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.files import keep, kept_bytes
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.records.targets.tensorrt_rtx import TENSORRT_RTX_GPU
from limpq_deploy.export.runtimes.cuda.memory import CudaMemory
from limpq_deploy.export.runtimes.tensorrt.session import TensorRtSession
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import PRODUCT

if TYPE_CHECKING:
    import tensorrt_rtx_bindings as trt


class TensorRtRtxSession(TensorRtSession):
    """See `TensorRtSession`. Kernels that are finished at the first context are kept in ``cache``, of one GPU and
    driver; the library itself refuses a cache of others. They are code: what is not what was kept raises
    CacheRefused before it is loaded."""

    name = TENSORRT_RTX_GPU.name
    product = PRODUCT

    def __init__(
        self,
        trt: ModuleType,
        plan: bytes,
        memory: CudaMemory,
        machine: Machine,
        facts: dict[str, Any],
        cache: Path,
    ) -> None:
        super().__init__(trt, plan, memory, machine, facts)
        self._cache = cache

    def _context(self, engine: "trt.ICudaEngine") -> "trt.IExecutionContext":
        config = engine.create_runtime_config()
        kept = config.create_runtime_cache()
        if (kernels := kept_bytes(self._cache)) is not None:
            kept.deserialize(kernels)  # refused where it is of another GPU or driver
        config.set_runtime_cache(kept)
        context = engine.create_execution_context(config)
        if context is None:
            raise ModelError(
                f"{PRODUCT} makes no execution context of the engine; free memory of the GPU and try again"
            )
        keep(self._cache, bytes(kept.serialize()))
        return context
