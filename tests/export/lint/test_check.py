"""The placement rules, on graphs that keep them and on graphs that break one."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.lint.check import LintReport, lint, static_findings
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT

from ..editing import replace, value_of

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")


def test_a_whole_integer_graph_passes(residual: Any, saved: Any) -> None:
    net, logits = residual(0)
    report = lint(saved(net.qdq(logits)), ONNXRUNTIME)
    assert report.passed
    assert report.optimized
    assert report.op_counts["com.microsoft:QLinearConv"] == 4
    assert report.op_counts["com.microsoft:QLinearAdd"] == 2
    assert from_json(LintReport, to_json(report), "lint.json") == report


def test_every_layer_of_a_float_model_is_found_also_in_its_fused_forms(residual: Any) -> None:
    net, logits = residual(0)
    report = lint(strip_markers(net.template(logits)), ONNXRUNTIME)
    assert len(report.float_compute) >= 5
    assert any("stem" in name for name in report.float_compute)
    assert not report.passed


def test_an_add_with_a_float_input_is_found_with_the_convolution_before_it(residual: Any) -> None:
    net, logits = residual(0)
    model = net.qdq(logits)
    add = next(node for node in model.graph.node if node.op_type == "Add")
    add.input[0] = "block1.conv2"
    report = lint(model, ONNXRUNTIME)
    assert "add-float" in {finding.rule for finding in report.findings}
    assert any("block1.conv2" in name for name in report.float_compute)


def test_a_second_quantizer_on_a_float_tensor_is_found_and_costs_the_producer(residual: Any) -> None:
    net, logits = residual(0, act_bits=(8, 4, 3))
    model = net.qdq(logits)
    table = next(node for node in model.graph.node if node.output[0] == "block2.in_table")
    reader = next(node for node in model.graph.node if table.output[0] in node.input)
    stream = next(node for node in model.graph.node if "block1.out_codes" in node.output)
    reader.input[0] = stream.input[0]
    model.graph.node.remove(table)
    report = lint(model, ONNXRUNTIME)
    assert "runs-in-float" in {finding.rule for finding in report.findings}
    assert any("(Add)" in name for name in report.float_compute)


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_scale_that_is_not_positive_is_found(residual: Any, scale: float) -> None:
    net, logits = residual(0)
    model = net.qdq(logits)
    replace(model, "stem.out_scale", np.array(scale, np.float32))
    rules = {finding.rule for finding in lint(model, TENSORRT).findings}
    assert "scale-positive" in rules


def test_a_scale_of_one_dimension_keeps_a_convolution_of_tensorrt_in_float_and_not_one_of_onnxruntime(
    residual: Any,
) -> None:
    net, logits = residual(0)
    model = net.qdq(logits)
    replace(model, "block1.mid_scale", value_of(model, "block1.mid_scale").reshape(1))
    found = [one for one in lint(model, TENSORRT).findings if one.rule == "activation-scale"]
    assert {finding.node for finding in found} == {"block1.conv2"}
    assert lint(model, ONNXRUNTIME).passed


def test_without_its_runtime_the_static_rules_are_checked_and_the_reason_is_told(residual: Any) -> None:
    net, logits = residual(0)
    report = lint(net.qdq(logits), TENSORRT)
    assert not report.optimized
    assert "TensorRT" in (report.unavailable or "")


def test_a_scale_for_the_one_channel_of_a_layer_is_no_fault() -> None:
    codes = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.int8), "codes")
    scale = numpy_helper.from_array(np.ones(1, np.float32), "scale")
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["codes", "scale"], ["weight"], name="dq", axis=0)],
        "one",
        [],
        [helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [1, 1, 1, 1])],
        [codes, scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    assert list(static_findings(model, ONNXRUNTIME)) == []
