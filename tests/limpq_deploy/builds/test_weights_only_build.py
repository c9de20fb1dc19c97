"""Builds whose weights alone are integers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.graph.exported import ExportRecord
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.policy.policy import Policy
from limpq_deploy.verdict.record import Verdict

from .conftest import Command


def test_with_float_activations_a_file_has_integer_weights_and_no_quantizer(
    copy: Path, settings: Path, run: Command
) -> None:
    result = run(
        *("build", "--config", settings, "--out", "out", "--act-bits", "float", "--like", "w4a32"),
        *("--ptq", "--importance", "scale", "--storage", "int4"),
    )
    assert result.exit_code == 0, result.output
    assert {act for _, act in load_record(Policy, copy / "policy.json").pairs().values()} == {32}
    model = onnx.load(copy / "model.qdq.onnx")
    kinds = [node.op_type for node in model.graph.node]
    record = load_record(ExportRecord, copy / "export.json")
    assert ("QuantizeLinear" in kinds, kinds.count("DequantizeLinear")) == (False, len(record.float_layers))
    fixed = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {fixed[f"{name}.weight_codes"].dtype for name in record.float_layers} == {np.dtype(np.int8)}
    assert record.stored is not None
    assert record.stored.weights < 0.6 * record.model.weights
    assert load_record(LintReport, copy / "lint.json").findings == ()
    assert set(load_record(Engine, copy / "engine.json").layer_precision.values()) == {"float32"}
    verdict = load_record(Verdict, copy / "verdict.json")
    assert verdict.outcome == "incomplete"
    assert {one.name for one in verdict.not_measured} == {"parity_end_to_end", "parity_layer_by_layer"}
    assert all("nothing is executed in integers" in one.reason for one in verdict.not_measured)


def test_for_tensorrt_such_a_file_is_in_fp16_where_types_are_taken_from_it(
    copy: Path, settings: Path, run: Command
) -> None:
    result = run(
        *("export", "--config", settings, "--out", "out", "--act-bits", "float", "--like", "w4a16"),
        *("--target", "tensorrt", "--tensorrt", "10", "--ptq", "--importance", "scale"),
    )
    assert result.exit_code == 0, result.output
    assert load_record(LintReport, copy / "lint.json").findings == ()
    model = onnx.load(copy / "model.qdq.onnx")
    scales = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".weight_scale")]
    assert len(scales) == 10
    assert {tensor.data_type for tensor in scales} == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
def test_for_tensorrt_rtx_convolutions_are_told_to_dequantize_and_numpy_computes_the_same(
    copy: Path, settings: Path, run: Command
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")
    result = run(
        *("build", "--config", settings, "--out", "out", "--act-bits", "float", "--like", "w4a16", "--no-engine"),
        *("--target", "tensorrt_rtx", "--ptq", "--importance", "scale"),
    )
    assert result.exit_code == 0, result.output
    found = load_record(LintReport, copy / "lint.json")
    assert {one.rule for one in found.findings} == {"weights-at-every-call"}
    assert len(found.findings) == 9  # every convolution, and not the Gemm
    assert any("NumPy" in note for note in load_record(ParityReport, copy / "parity.json").notes)


def test_float_activations_beside_a_space_or_powers_of_two_are_refused(here: Path, refused: Callable[..., str]) -> None:
    refused("build", "--act-bits", "float", "--space", "w*a8", words=("act_bits is float".replace("_", "-"), "space"))
    refused("build", "--act-bits", "float", "--scales", "pow2", words=("scales pow2 says otherwise",))


def test_weights_alone_are_learned_searched_and_fine_tuned(copy: Path, settings: Path, run: Command) -> None:
    result = run("finetune", "--config", settings, "--out", "out", "--act-bits", "float", "--like", "w4a32")
    assert result.exit_code == 0, result.output
    assert {act for _, act in load_record(Policy, copy / "policy.json").pairs().values()} == {32}
