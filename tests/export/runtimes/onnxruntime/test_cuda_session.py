"""ONNX Runtime's CUDA provider where its libraries are, or are not, beside it; the package is played."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from limpq_deploy.calibration.errors import RuntimeUnavailable
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.cuda import watch as gpu_watch
from limpq_deploy.export.runtimes.cuda.driver import CudaDriver, Gpu
from limpq_deploy.export.runtimes.onnxruntime import cuda_session as cuda_ort
from limpq_deploy.export.runtimes.onnxruntime.cuda_session import PROVIDER, open_on_gpu
from limpq_deploy.export.runtimes.tensorrt import session as trt_session
from limpq_deploy.export.timing.compare import merge
from limpq_deploy.export.timing.measure import measure_models
from limpq_deploy.export.timing.report import LatencyReport

MISSES = "Failed to load libcudnn.so.9: libcudnn.so.9: cannot open shared object file: No such file or directory"
"""As onnxruntime 1.31 prints it."""


class Package(ModuleType):
    """onnxruntime, whose CUDA provider loads when its libraries have been loaded before."""

    __version__ = "1.31.1"

    def __init__(self, providers: tuple[str, ...] = (PROVIDER, "CPUExecutionProvider")) -> None:
        super().__init__("onnxruntime")
        self.loaded, self.providers = False, providers

    def get_available_providers(self) -> list[str]:
        return list(self.providers)

    def SessionOptions(self) -> Any:  # noqa: N802 - its name
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def InferenceSession(self, data: bytes, settings: Any, providers: list[str]) -> Any:  # noqa: N802 - its name
        found = PROVIDER if self.loaded else "CPUExecutionProvider"
        return SimpleNamespace(get_providers=lambda: [found])


class Newer(Package):
    """Since 1.21. ``installed``: whether pip has put the libraries beside it."""

    installed = True

    def preload_dlls(self) -> None:
        self.loaded = self.installed
        if not self.installed:
            print(MISSES)
            print("Please follow https://onnxruntime.ai/docs/install/#cuda-and-cudnn to install CUDA.")


Use = Callable[[Package], Package]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def put(package: Package) -> Package:
        monkeypatch.setattr(cuda_ort, "_onnxruntime", lambda: package)
        return package

    return put


def test_libraries_that_pip_installed_are_loaded_before_the_provider_asks_for_them(use: Use) -> None:
    use(Newer())
    assert open_on_gpu(b"").get_providers() == [PROVIDER]


def test_what_is_missing_is_in_the_error_and_not_on_standard_output(
    use: Use, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Newer, "installed", False)
    use(Newer())
    with pytest.raises(RuntimeUnavailable) as caught:
        open_on_gpu(b"")
    assert f"do not load ({MISSES}): pip install 'onnxruntime-gpu[cuda,cudnn]'" in str(caught.value)
    assert capsys.readouterr().out == ""


def test_an_older_onnxruntime_is_taken_as_it_is(use: Use) -> None:
    use(Package()).loaded = True
    assert open_on_gpu(b"").get_providers() == [PROVIDER]
    use(Package())
    with pytest.raises(RuntimeUnavailable, match="libraries do not load: pip install"):
        open_on_gpu(b"")


def test_nothing_is_loaded_for_a_build_without_the_provider(use: Use) -> None:
    package = Newer(("CPUExecutionProvider",))
    use(package)
    with pytest.raises(RuntimeUnavailable, match="onnxruntime took CPUExecutionProvider"):
        open_on_gpu(b"")
    assert not package.loaded


H200 = CudaDriver(
    cuda=(12, 4), gpus=(Gpu(name="NVIDIA H200", compute_capability="9.0", memory_mib=143771),), problem=None
)


class Computing(Newer):
    """Its sessions compute, though on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self._real = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

    def InferenceSession(self, data: bytes, settings: Any, providers: list[str]) -> Any:  # noqa: N802 - its name
        session = self._real.InferenceSession(data)
        session.get_providers = lambda: providers
        return session


def timed_by(runtime: Any, model: Path) -> LatencyReport:
    return measure_models({"tiny": model}, settings=("default",), seconds=0.05, runtime=runtime, trtexec=False)


def test_figures_of_the_gpu_are_filed_under_it_and_its_clocks_are_asked_for(
    use: Use, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Computing())
    monkeypatch.setattr(cuda_ort, "ask_driver", lambda: H200)
    monkeypatch.setattr(cuda_ort, "driver_release", lambda: "580.159.04")
    asked: list[str] = []

    def watch() -> None:
        asked.append("watched")
        raise RuntimeUnavailable("NVML does not answer")

    monkeypatch.setattr(gpu_watch, "GpuWatch", watch)
    on_gpu = timed_by(cuda_ort.OnnxRuntimeCuda(), model)
    assert on_gpu.environment.device == "NVIDIA H200"
    assert asked == ["watched"]
    assert "clocks and temperature were not watched: NVML does not answer" in on_gpu.series[0].doubts
    on_cpu = timed_by(runtime_named("onnxruntime"), model)
    assert len(merge({"gpu.json": on_gpu, "cpu.json": on_cpu}).tables) == 2


def test_a_gpu_is_described_as_tensorrt_describes_it() -> None:
    machine = Machine(
        gpu="NVIDIA H200",
        compute_capability="9.0",
        tensorrt="10.16.1",
        system="Linux x86_64",
        driver="580.159.04",
        cuda="12.4",
        memory_mib=143771,
    )
    assert cuda_ort.accelerator(H200, "580.159.04") == trt_session.accelerator(machine)


def test_a_gpu_that_the_driver_does_not_show_is_no_cpu() -> None:
    hidden = CudaDriver(cuda=(12, 4), gpus=(), problem="the NVIDIA driver finds no GPU")
    assert cuda_ort.accelerator(hidden, None)["name"] == "a GPU that the driver does not show"
