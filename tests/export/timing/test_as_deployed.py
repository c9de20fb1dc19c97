"""Files that are timed where they are not deployed: what is said of them, and that it is true."""

from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.graph.storage import pack_weights
from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from limpq_deploy.export.timing.as_deployed import misfit
from limpq_deploy.latency.bench import bench_models


@pytest.fixture
def engine_file(residual: Any) -> onnx.ModelProto:
    net, logits = residual(0, weight_bits=(8, 4, 2))
    return net.qdq(logits)


@pytest.fixture
def stored(residual: Any) -> onnx.ModelProto:
    net, logits = residual(0, weight_bits=(8, 4, 2))
    return pack_weights(net.qdq(logits), {name: layer.bits for name, layer in net.layers.items()}, "int4")


@pytest.fixture
def for_tensorrt(edges: Any) -> onnx.ModelProto:
    net, logits = edges(1)
    template = net.template(logits)
    template.opset_import[0].version = TENSORRT_FORMS["10"].opset
    return build_qdq(template, net.placement, net.layers, net.acts, {}, TENSORRT_FORMS["10"])


def test_files_of_their_own_runtime_and_float_models_are_not_doubted(
    engine_file: onnx.ModelProto, for_tensorrt: onnx.ModelProto, residual: Any
) -> None:
    assert misfit(engine_file, "onnxruntime") is None
    assert misfit(for_tensorrt, "tensorrt") is None
    net, logits = residual(0)
    assert misfit(net.template(logits), "onnxruntime") is None


@pytest.mark.parametrize(("file", "words"), [("stored", "limpq-deploy unpack"), ("for_tensorrt", "for TensorRT 10")])
def test_files_that_run_in_float_here_are_doubted_and_really_do(
    request: pytest.FixtureRequest, file: str, words: str
) -> None:
    model = request.getfixturevalue(file)
    said = misfit(model, "onnxruntime")
    assert said is not None
    assert words in said
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    in_float = lint(model, ONNXRUNTIME).float_compute
    assert len(in_float) >= 2
    if file == "for_tensorrt":
        assert len(in_float) > len(layers) / 2


def test_the_doubt_stands_in_every_series_of_the_file_and_in_no_other(
    engine_file: onnx.ModelProto, stored: onnx.ModelProto, tmp_path: Path
) -> None:
    files = [tmp_path / "model.qdq.onnx", tmp_path / "model.stored.onnx"]
    for model, file in zip((engine_file, stored), files, strict=True):
        onnx.save(model, file)
    report = bench_models(files, batches=(1, 2), threads=1, seconds=0.1)
    assert len(report.series) == 4
    for series in report.series:
        assert any("is for storing" in doubt for doubt in series.doubts) == (series.name == files[1].name)
