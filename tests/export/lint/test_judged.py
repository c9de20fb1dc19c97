"""ONNX Runtime's own word on files: it is loaded, run, and compared with the file as written."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from limpq_deploy.export.lint.check import LintReport, lint
from limpq_deploy.export.records.targets import ONNXRUNTIME
from tests.export.lint.lint_cases import SmallNet

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

U8 = np.uint8


def two_layers(*, zeros: tuple[Any, Any] = (U8(128), U8(0)), middle_scale: Any = 0.05, **weight: Any) -> SmallNet:
    """x -> pair -> Conv -> Relu -> pair -> Conv -> Relu -> pair, and the name of its result in ``result``."""
    net = SmallNet(21)
    x = net.pair("x", 0.03, zeros[0])
    for scale in (middle_scale, 0.05):
        shape = np.shape(scale)
        zero = np.full(shape, zeros[1]) if shape else zeros[1]
        x = net.pair(net.op("Relu", net.conv(x, net.weight(8, 8, 3, 3, **weight))), scale, zero)
    net.result = x  # type: ignore[attr-defined]
    return net


def looked(net: SmallNet) -> LintReport:
    return lint(net.model(net.result), ONNXRUNTIME)  # type: ignore[attr-defined]


def found(report: LintReport) -> set[tuple[str, str]]:
    return {(finding.rule, finding.severity) for finding in report.findings}


def test_a_file_that_runs_in_integers_has_no_finding() -> None:
    report = looked(two_layers())
    assert (report.findings, report.float_compute, report.passed) == ((), (), True)
    assert report.op_counts["com.microsoft:QLinearConv"] == 2


def test_signed_codes_that_are_fused_have_none() -> None:
    net = SmallNet(21)
    x = net.pair("x", 0.03)
    for _ in range(2):
        x = net.pair(net.conv(x))
    assert lint(net.model(x), ONNXRUNTIME).findings == ()


def test_scales_along_axis_1_are_read_along_axis_0(monkeypatch: pytest.MonkeyPatch) -> None:
    report = looked(two_layers(axis=1))
    assert found(report) == {("weight-axis-0", "differs")}
    assert not report.passed
    monkeypatch.setattr("limpq_deploy.export.lint.check.static_findings", lambda *_: iter(()))
    (measured,) = looked(two_layers(axis=1)).findings
    assert (measured.rule, measured.severity, measured.node) == ("numbers-differ", "differs", "the model")


def test_scales_along_axis_1_that_are_all_alike_change_nothing() -> None:
    assert looked(two_layers(axis=1, scale=np.full(8, 0.01))).findings == ()


def test_what_fails_only_when_it_runs_is_refused() -> None:
    report = looked(two_layers(scale=np.full(7, 0.01)))
    assert found(report) == {("scale-length", "refused")}
    per_channel = looked(two_layers(middle_scale=[0.05] * 7))
    assert {severity for _, severity in found(per_channel)} == {"refused"}


def test_numbers_that_are_no_index_of_the_model_refuse_no_file() -> None:
    """A table of two rows: 0 and 1 are given, where 127 would end the call; of one row not even those are taken."""
    for rows in (2, 1):
        net = SmallNet(21)
        taken = net.pair(net.op("Gather", net.const(np.ones((rows, 8), np.float32)), "x"), 0.05, U8(128))
        model = net.model(taken, shape=(1, 6))
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        assert not [one for one in lint(model, ONNXRUNTIME).findings if one.severity == "refused"]


def test_what_does_not_load_is_refused_in_the_runtimes_words_with_its_node() -> None:
    net = SmallNet(21)
    grid = net.grid(0.03, U8(128))
    relu = net.op("Relu", net.op("QuantizeLinear", "x", *grid))
    report = lint(net.model(net.conv(net.op("DequantizeLinear", relu, *grid))), ONNXRUNTIME)
    (finding,) = report.findings
    assert (finding.rule, finding.severity, finding.node) == ("runtime-refuses", "refused", "Relu1")
    assert "tensor(uint8)" in finding.consequence
    assert not report.optimized


def test_a_rule_that_the_runtime_contradicts_is_dropped_and_a_float_node_without_a_rule_is_told() -> None:
    net = SmallNet(21)
    x = net.pair(
        net.op("MaxPool", net.op("Relu", net.conv(net.pair("x", 0.03, U8(128)))), kernel_shape=[2, 2]), 0.05, U8(0)
    )
    assert lint(net.model(x), ONNXRUNTIME).findings == ()
    net = SmallNet(21)
    codes = net.pair("x", 0.03, U8(128))
    moved = net.op("Gather", codes, net.const(np.arange(8)), axis=1)
    x = net.pair(net.conv(moved), 0.05, U8(128))
    (finding,) = lint(net.model(x), ONNXRUNTIME).findings
    assert (finding.severity, finding.node.startswith("Conv")) == ("float", True)


def test_a_node_without_a_name_is_found_again(tmp_path: Path) -> None:
    net = two_layers(zeros=(U8(128), U8(3)))
    model = net.model(net.result)  # type: ignore[attr-defined]
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "model.onnx")
    report = lint(tmp_path / "model.onnx", ONNXRUNTIME)
    outputs = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    assert {finding.node for finding in report.findings} == outputs
    assert found(report) == {("relu-zero-point", "float")}
