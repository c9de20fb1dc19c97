"""The self-test passes where the file is computed as written, and finds what an engine may do wrong."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import numpy_helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.cli.main import main
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.reference.self_test import SelfTest, self_test, tiny_model
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, OrtSession, open_as_written

Change = Callable[[onnx.ModelProto], None]


class AsWritten(OnnxRuntime):
    """Executes files as they are written, changed a little first; says that every layer runs in integers."""

    def __init__(self, change: Change = lambda model: None) -> None:
        super().__init__()
        self._change = change

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        return Engine(
            model_sha256="0",
            runtime=self.name,
            version="0",
            provider="none",
            threads=None,
            options={},
            layer_precision={"stem": "s8s8"},
        )

    def load(self, path: Path, *, threads: int | None = None) -> OrtSession:
        model = load_model(path)
        self._change(model)
        return open_as_written(model)


def set_constant(name: str, change: Callable[[NDArray[Any]], Any]) -> Change:
    def apply(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(value), value.dtype), name))

    return apply


def outcome(found: SelfTest) -> Mapping[str, bool]:
    return {one.name: one.passed for one in found.tried}


def test_a_runtime_that_computes_as_written_passes_and_the_record_survives_json() -> None:
    found = self_test(AsWritten())
    assert found.passed, found.tried
    assert list(outcome(found)) == ["engine", "logits", "layer by layer", "saturating inputs"]
    assert from_json(SelfTest, to_json(found), "self-test.json") == found


def test_a_lost_upper_bound_is_found_behind_a_gemm() -> None:
    found = outcome(self_test(AsWritten(set_constant("fc2.in_high", lambda value: 1e9))))
    assert not found["saturating inputs"]


def test_a_wrong_bias_is_found_layer_by_layer() -> None:
    found = outcome(self_test(AsWritten(set_constant("conv1.bias", lambda value: value + 0.1))))
    assert not found["layer by layer"]


def test_a_layer_kept_in_float_and_a_runtime_that_fails_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "float_layers", property(lambda self: ("stem",)))
    found = self_test(AsWritten(lambda model: model.graph.node[0].input.append("nothing")))
    assert not any(outcome(found).values())
    assert "nothing" in found.tried[1].detail


def test_the_tiny_model_reaches_both_ends_of_no_grid_by_chance() -> None:
    model = tiny_model()
    assert {node.op_type for node in model.graph.node} >= {"Conv", "Gemm", "Add", "Clip", "GlobalAveragePool"}
    assert model.SerializeToString() == tiny_model().SerializeToString()


def test_a_runtime_without_integer_kernels_for_the_dialect_fails() -> None:
    """ONNX Runtime reads the dialect and computes its convolutions with s8 weights in FP32 pairs: no integer engine."""
    found = {one.name: one for one in self_test(OnnxRuntime()).tried}
    assert not found["engine"].passed
    assert found["engine"].detail.startswith("convolutions are not shown to run in integers: stem float32, ")
    assert found["saturating inputs"].detail.startswith("7 quantizers keep their grids")


def test_the_command_takes_the_runtime_of_the_dialect_alone() -> None:
    refused = CliRunner().invoke(main, ["doctor", "--self-test", "onnxruntime"])
    assert (refused.exit_code, "'tensorrt'" in refused.stderr) == (2, True)
    if runtime_named("tensorrt").unavailable() is not None:
        refused = CliRunner().invoke(main, ["doctor", "--self-test", "tensorrt"])
        assert (refused.exit_code, "TensorRT is not available here" in refused.stderr) == (1, True)
        assert "--no-engine" not in refused.stderr
