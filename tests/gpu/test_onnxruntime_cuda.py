"""ONNX Runtime's CUDA provider: refused by name where it would fall back to the CPU; on a GPU, the CPU's logits."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu] or [gpu]")

from limpq_deploy.calibration.errors import RuntimeUnavailable
from limpq_deploy.export.reference.self_test import tiny_images, tiny_model
from limpq_deploy.export.runtimes.onnxruntime.cuda_session import OnnxRuntimeCuda, open_on_gpu
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written


def test_a_quiet_fall_back_to_the_cpu_is_refused_by_name() -> None:
    if OnnxRuntimeCuda().unavailable() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeUnavailable, match="CUDAExecutionProvider"):
        open_on_gpu(tiny_model().SerializeToString())


def test_what_is_missing_is_one_sentence() -> None:
    why = OnnxRuntimeCuda().unavailable()
    assert why is None or "onnxruntime-gpu" in why or "driver" in why


@pytest.mark.gpu
@pytest.mark.usefixtures("onnxruntime_cuda")
def test_the_gpu_gives_the_cpus_logits(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model().SerializeToString())
    images = tiny_images(4)
    expected = open_as_written(tiny_model()).run(images)
    np.testing.assert_allclose(OnnxRuntimeCuda().load(path).run(images), expected, atol=0.05 * float(np.ptp(expected)))
