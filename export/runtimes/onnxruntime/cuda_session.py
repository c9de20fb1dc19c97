"""ONNX Runtime on an NVIDIA GPU: its CUDA provider alone, with no work quietly left to the CPU."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import MissingExtra, ModelError, RuntimeUnavailable
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.runtimes.base import Engine, NoGraph, WatchedSession
from limpq_deploy.export.runtimes.cuda.driver import CudaDriver, ask_driver
from limpq_deploy.export.runtimes.cuda.watch import driver_release
from limpq_deploy.export.runtimes.onnxruntime.package import compute_on, load_onnxruntime

PROVIDER = "CUDAExecutionProvider"
NO_FALLBACK = "session.disable_cpu_ep_fallback"
"""Session option with which a node that the provider has no kernel for is an error, not work for the CPU."""


class OnnxRuntimeCuda:
    """ONNX Runtime's CUDA provider. A Q/DQ file runs there in float between its pairs: it is a second opinion on
    values, not a fast integer engine."""

    name = "onnxruntime-cuda"

    def unavailable(self) -> str | None:
        try:
            ort = _onnxruntime()
        except (MissingExtra, RuntimeUnavailable) as error:
            return str(error)
        if PROVIDER not in ort.get_available_providers():
            return (
                f"onnxruntime {ort.__version__} has no {PROVIDER}; replace it by onnxruntime-gpu (never install both), "
                "which is in limpq-deploy[gpu]"
            )
        return ask_driver().problem

    def load(self, path: Path, *, threads: int | None = None) -> "OrtCudaSession":
        return OrtCudaSession(open_on_gpu(load_model(path).SerializeToString()))

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        """Raises ModelError where the provider cannot run all of the model."""
        model = load_model(path)
        open_on_gpu(model.SerializeToString())
        return Engine(
            model_sha256=sha256_of(path),
            runtime=self.name,
            version=_onnxruntime().__version__,
            provider=PROVIDER,
            threads=None,
            options={NO_FALLBACK: "1"},
            layer_precision={},
        )

    def watch(self, path: Path, *, threads: int | None = None) -> WatchedSession:
        """Raises NoGraph: integers are compared on the runtimes that compute in integers."""
        raise NoGraph(f"{self.name} computes in float and has no inner codes to watch; compare on onnxruntime")

    def optimized_graph(self, path: Path) -> onnx.ModelProto:
        """Raises NoGraph, as `watch`."""
        raise NoGraph(f"{self.name} shows no optimised graph; look at onnxruntime's")


class OrtCudaSession:
    """A model on the GPU; images and logits are copied in and out by each call."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0]
        self._output = session.get_outputs()[0].name

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return tuple(size if isinstance(size, int) else None for size in self._input.shape)

    def run(self, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run([self._output], {self._input.name: images_NCHW})[0]
        return logits

    def environment(self) -> dict[str, Any]:
        driver = ask_driver()
        return {
            "runtime": "onnxruntime-cuda",
            "version": _onnxruntime().__version__,
            "provider": self._session.get_providers()[0],
            "threads": None,
            "accelerator": accelerator(driver, driver_release()),
            "options": {NO_FALLBACK: "1"},
        }


def accelerator(driver: CudaDriver, release: str | None) -> dict[str, str | int | None]:
    """What `Environment.accelerator` keeps of the first GPU, as TensorRT's sessions tell it; ``release``: the driver's.
    Figures are filed under it, and NVML watches it."""
    if not driver.gpus:
        return {"name": "a GPU that the driver does not show", "driver": release}
    gpu = driver.gpus[0]
    return {
        "name": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": release,
        "cuda": f"{driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda is not None else None,
        "memory_mib": gpu.memory_mib,
    }


def open_on_gpu(data: bytes) -> Any:
    """A session whose every node runs on the CUDA provider.

    ONNX Runtime goes on with the CPU, and says nothing, where the provider does not load. Raises RuntimeUnavailable
    then, and ModelError where a node has no kernel there or the model is refused.
    """
    ort = _onnxruntime()
    missing = _load_cuda(ort)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    compute_on(settings, None)
    settings.add_session_config_entry(NO_FALLBACK, "1")
    try:
        session = ort.InferenceSession(data, settings, providers=[PROVIDER])
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        why = str(error).splitlines()[0]
        if PROVIDER not in ort.get_available_providers() or "fallback to cpu" in why.lower():
            raise RuntimeUnavailable(
                f"onnxruntime would run this model on the CPU, not on {PROVIDER} ({why})"
            ) from error
        raise ModelError(f"onnxruntime's {PROVIDER} refuses the model: {why}; export it again") from error
    found = session.get_providers()[0]
    if found != PROVIDER:
        raise RuntimeUnavailable(
            f"onnxruntime took {found} where {PROVIDER} was asked for; it does so without an error when CUDA's or "
            f"cuDNN's libraries do not load{missing and f' ({missing})'}: pip install 'onnxruntime-gpu[cuda,cudnn]', "
            "or use the runtime onnxruntime"
        )
    return session


def _load_cuda(ort: ModuleType) -> str:
    """Load CUDA's and cuDNN's libraries where pip has put them, beside onnxruntime, where no loader would look; what
    did not load, as it says it. Versions before 1.21 cannot."""
    load = getattr(ort, "preload_dlls", None)
    if load is None or PROVIDER not in ort.get_available_providers():
        return ""
    said = io.StringIO()  # it prints what it misses, and standard output may be somebody's JSON
    with redirect_stdout(said):
        try:
            load()
        except (OSError, RuntimeError) as error:
            return str(error)
    return "; ".join(line for line in said.getvalue().splitlines() if line.startswith("Failed to load"))


def _onnxruntime() -> ModuleType:
    return load_onnxruntime("onnxruntime-gpu", "gpu")
