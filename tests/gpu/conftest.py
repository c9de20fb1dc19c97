"""What needs an NVIDIA GPU is skipped without one, with the reason."""

import pytest

from limpq_deploy.export.runtimes import runtime_named


@pytest.fixture(scope="session")
def tensorrt() -> None:
    """Skips where TensorRT cannot be used."""
    why = runtime_named("tensorrt").unavailable()
    if why is not None:
        pytest.skip(why)


@pytest.fixture(scope="session")
def onnxruntime_cuda() -> None:
    """Skips where ONNX Runtime has no GPU."""
    why = runtime_named("onnxruntime-cuda").unavailable()
    if why is not None:
        pytest.skip(why)
