"""NVIDIA's compiler beside the rules: the real one, on files that the rules judge too."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.lint.compiled import compiled_findings
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")


def refused() -> onnx.ModelProto:
    """Its operator is known to ONNX and to no version of TensorRT."""
    node = helper.make_node("Det", ["images"], ["logits"], name="det")
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("images", 1, ["n", 2, 2])], [value("logits", 1, ["n"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_good_file_is_accepted_and_gets_no_finding(edges: Any) -> None:
    net, logits = edges(0)
    report = lint(net.qdq(logits), TENSORRT, compiler=True)
    assert report.compiler is not None
    assert report.compiler.as_planned
    assert report.compiler.detail.endswith("; not run, and not the compiler of your TensorRT 8.6")
    assert report.passed
    assert lint(net.qdq(logits), TENSORRT).compiler is None


def test_a_file_that_it_refuses_is_refused_once_by_a_rule_or_with_its_reason() -> None:
    report = lint(refused(), TENSORRT, compiler=True)
    assert [one.rule for one in report.findings if one.severity == "refused"] == ["operator"]
    assert report.compiler is not None
    [own] = compiled_findings(report.compiler, (), refused())
    assert (own.rule, own.severity, own.node) == ("compiler-refuses", "refused", "det")
    assert "Det 'det'" in own.consequence


def test_a_layer_that_it_computes_in_floats_is_named_once() -> None:
    """A Gemm whose weight has scales along its inputs: no kernel of integers takes it."""
    code = numpy_helper.from_array
    tensors = [
        code(np.ones((4, 3), np.int8), "fc.weight_codes"),
        code(np.linspace(0.1, 0.4, 4, dtype=np.float32), "ws"),
        code(np.zeros(4, np.int8), "wz"),
        code(np.asarray(0.1, np.float32), "s"),
        code(np.asarray(0, np.int8), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"], name="x"),
        helper.make_node("DequantizeLinear", ["fc.weight_codes", "ws", "wz"], ["w"], axis=0, name="w"),
        helper.make_node("Gemm", ["x", "w"], ["logits"], name="fc"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("images", TensorProto.FLOAT, ["n", 4])], [value("logits", 1, ["n", 3])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    report = lint(model, TENSORRT, version="10", compiler=True)
    assert report.compiler is not None
    assert report.compiler.as_floats == ("fc",)
    assert [(one.node, one.severity) for one in report.findings if one.severity == "float"] == [("fc", "float")]
    [own] = compiled_findings(report.compiler, (), model)
    assert (own.rule, own.node) == ("compiled-to-float", "fc")


def test_other_targets_and_an_absent_compiler_add_nothing(edges: Any) -> None:
    net, logits = edges(0)
    model = net.qdq(logits)
    assert lint(model, ONNXRUNTIME, compiler=True).compiler is None
    assert list(compiled_findings(CompilerWord(accepted=None, detail="not here"), (), model)) == []
