"""ONNX Runtime's placement rules: on files that break one, and on what onnxruntime.quantization itself writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from limpq_deploy.export.lint.check import LintReport, lint, static_findings
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT

from ..editing import node_of, replace, value_of, with_a_batchnorm

Change = Callable[[onnx.ModelProto], None]


def rules(model: onnx.ModelProto) -> set[str]:
    return {finding.rule for finding in static_findings(model, ONNXRUNTIME)}


def without(model: onnx.ModelProto, quantizer: str) -> None:
    """Take a QuantizeLinear and its DequantizeLinear away."""
    quantize = node_of(model, f"{quantizer}_codes")
    dequantize = node_of(model, f"{quantizer}_dequantized")
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == dequantize.output[0]:
                node.input[index] = quantize.input[0]
    model.graph.node.remove(quantize)
    model.graph.node.remove(dequantize)


def with_signed_codes_behind_a_relu(model: onnx.ModelProto) -> None:
    replace(model, "block1.mid_zero_point", np.array(0, np.int8))


def with_16_bit_codes(model: onnx.ModelProto) -> None:
    replace(model, "block1.mid_zero_point", np.array(0, np.uint16))


def with_a_zero_in_the_middle_behind_a_relu(model: onnx.ModelProto) -> None:
    replace(model, "block1.mid_zero_point", np.array(128, np.uint8))


def with_a_clip_of_floats(model: onnx.ModelProto) -> None:
    quantize = node_of(model, "block1.mid_codes")
    high = np.float32(15 * value_of(model, "block1.mid_scale"))
    ends = {"low": np.array(0, np.float32), "high": np.array(high)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in ends.items())
    relu = node_of(model, quantize.input[0])
    relu.op_type = "Clip"
    relu.input.extend(ends)


def with_a_float_input(model: onnx.ModelProto) -> None:
    node_of(model, "block1.conv2").input[0] = "block1.conv1_relu"


def with_a_bias_scale_of_its_own(model: onnx.ModelProto) -> None:
    replace(model, "block1.conv1.bias_scale", value_of(model, "block1.conv1.bias_scale") * np.float32(1.1))


def with_a_float_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "float_weight"))
    node_of(model, "block1.conv1").input[1] = "float_weight"


def with_a_4_bit_weight(model: onnx.ModelProto) -> None:
    codes = value_of(model, "block1.conv1.weight_codes")
    packed = helper.make_tensor("narrow", onnx.TensorProto.INT4, codes.shape, np.sign(codes).ravel().tolist())
    model.graph.initializer.append(packed)
    node_of(model, "block1.conv1.weight_dequantized").input[0] = "narrow"


def with_a_sigmoid_behind_a_layer(model: onnx.ModelProto) -> None:
    relu = node_of(model, "block1.conv1_relu")
    relu.op_type = "Sigmoid"


def without_a_quantizer_before_the_pool(model: onnx.ModelProto) -> None:
    without(model, "block2.out")


def with_a_layer_left_out(model: onnx.ModelProto) -> None:
    with_a_float_input(model)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "float_weight"))
    node_of(model, "block1.conv2").input[1] = "float_weight"


def with_a_scale_for_each_channel_of_an_activation(model: onnx.ModelProto) -> None:
    replace(model, "block1.mid_scale", np.full(8, 0.1, np.float32))


def with_a_bias_zero_point(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.full(8, 9, np.int32), "nine"))
    dequantize = node_of(model, node_of(model, "block1.conv1").input[2])
    del dequantize.input[2:]
    dequantize.input.append("nine")


def with_a_weight_scale_along_axis_1(model: onnx.ModelProto) -> None:
    attribute = next(entry for entry in node_of(model, "block1.conv1.weight_dequantized").attribute)
    assert attribute.name == "axis"
    attribute.i = 1


def with_an_infinite_scale(model: onnx.ModelProto) -> None:
    value = value_of(model, "block1.conv1.weight_scale").copy()
    value[3] = np.inf
    replace(model, "block1.conv1.weight_scale", value)


def with_fewer_scales_than_channels(model: onnx.ModelProto) -> None:
    for name in ("scale", "zero_point"):
        replace(model, f"block1.conv1.weight_{name}", value_of(model, f"block1.conv1.weight_{name}")[:7])


def with_a_scale_of_another_type(model: onnx.ModelProto) -> None:
    replace(model, "block1.mid_scale", value_of(model, "block1.mid_scale").astype(np.float16))


def with_a_second_quantizer(model: onnx.ModelProto) -> None:
    quantize = node_of(model, "block1.mid_codes")
    place = list(model.graph.node).index(quantize)
    again = helper.make_node("QuantizeLinear", quantize.input, ["again"], name="again")
    model.graph.node.insert(place, again)


BREACHES: dict[Change, str] = {
    with_signed_codes_behind_a_relu: "relu-zero-point",
    with_16_bit_codes: "codes-16-bit",
    with_a_zero_in_the_middle_behind_a_relu: "relu-zero-point",
    with_a_clip_of_floats: "clip-float",
    with_a_float_input: "input-float",
    with_a_bias_scale_of_its_own: "bias-scale",
    with_a_bias_zero_point: "bias-scale",
    with_a_float_weight: "weight-rounded",
    with_a_4_bit_weight: "weight-form",
    with_a_weight_scale_along_axis_1: "weight-axis-0",
    with_an_infinite_scale: "scale-finite",
    with_fewer_scales_than_channels: "scale-length",
    with_a_scale_of_another_type: "input-types",
    with_a_sigmoid_behind_a_layer: "result-float",
    with_a_second_quantizer: "result-float",
    without_a_quantizer_before_the_pool: "pool-float",
    with_a_layer_left_out: "not-quantized",
    with_a_batchnorm: "batchnorm",
    with_a_scale_for_each_channel_of_an_activation: "zero-point-count",
}


@pytest.mark.parametrize("change", BREACHES, ids=lambda change: change.__name__)
def test_a_breach_is_found_by_its_rule(residual: Any, change: Change) -> None:
    net, logits = residual(0)
    model = net.qdq(logits)
    assert rules(model) == set()
    change(model)
    assert BREACHES[change] in rules(model)


def test_a_pools_finding_says_which_side_is_float(residual: Any) -> None:
    net, logits = residual(0)
    cut = net.qdq(logits)
    without(cut, "block2.out")
    half = net.qdq(logits)
    quantize = next(node for node in half.graph.node if node.op_type == "QuantizeLinear" and "pool" in node.input[0])
    quantize.op_type = "Sigmoid"
    del quantize.input[1:]
    for model, side in ((cut, "its input is float"), (half, "its result is float")):
        told = [one.consequence for one in static_findings(model, ONNXRUNTIME) if one.rule == "pool-float"]
        assert told == [f"{side}, so this pool runs in float32"]


def test_a_clip_that_the_quantizer_makes_anyway_is_no_fault(residual: Any) -> None:
    net, logits = residual(0)
    model = net.qdq(logits)
    with_a_clip_of_floats(model)
    replace(model, "high", np.array(300 * value_of(model, "block1.mid_scale"), np.float32))
    assert rules(model) == set()


def test_a_float_model_gets_one_static_finding_for_each_layer(residual: Any) -> None:
    net, logits = residual(0)
    found = list(static_findings(strip_markers(net.template(logits)), ONNXRUNTIME))
    assert sum(finding.rule == "not-quantized" for finding in found) == len(net.layers)


def test_a_file_for_tensorrt_breaks_the_rules_of_onnxruntime(edges: Any) -> None:
    net, logits = edges(3, act_bits=(8, 8, 8))
    found = {finding.rule for finding in static_findings(net.qdq(logits), ONNXRUNTIME)}
    assert found == {"add-float", "result-float", "pool-float", "relu-zero-point"}


@pytest.mark.parametrize("op", ["Mul", "Concat"])
def test_a_product_or_concatenation_is_quantized_on_all_inputs_or_on_none(tiny_net: Any, op: str) -> None:
    net = tiny_net(5)
    images = net.quantize(net.input, "images", 8, signed=True)
    left = net.quantize(net.conv(images, "left", 8), "left.carrier", 8)
    right = net.conv(images, "right", 8)
    attributes = {"axis": 1} if op == "Concat" else {}
    net.node(op, [left.name, right.name], "both", **attributes)
    left.name = "both"
    left.channels = 16 if op == "Concat" else 8
    flat = net.flatten(net.quantize(net.mean(net.quantize(left, "both.carrier", 8), "pool"), "pool.out", 8), "flat")
    left_float, finding = static_findings(net.qdq(net.gemm(flat, "head", 10)), ONNXRUNTIME)
    assert (left_float.rule, left_float.node) == ("result-float", "right")
    assert finding.rule == "join-float"
    assert finding.consequence == f"input 'right_relu' is float, so this {op} runs in float"


class Calibration:
    """What onnxruntime.quantization asks for images: one batch, then nothing."""

    def __init__(self, images: Any) -> None:
        self.batches = iter([{"images": images}])

    def get_next(self) -> Any:
        return next(self.batches, None)


def quantized_by_onnxruntime(built: Any, folder: Path, kind: str) -> Path:
    """A float net (of its net and logits) as onnxruntime.quantization writes it: Q/DQ, weights int8 per channel."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs the extra limpq-deploy[cpu]")
    net, logits = built
    onnx.save(strip_markers(net.template(logits)), folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx",
        folder / f"{kind}.onnx",
        Calibration(net.images(4)),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType[kind],
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )
    return folder / f"{kind}.onnx"


def found_in(report: LintReport) -> set[str]:
    assert all(entry.node and entry.rule and entry.consequence and entry.remedy for entry in report.findings)
    return {finding.rule for finding in report.findings}


def test_onnxruntimes_own_uint8_file_passes_here_and_is_told_what_tensorrt_would_refuse(
    residual: Any, tmp_path: Path
) -> None:
    path = quantized_by_onnxruntime(residual(0), tmp_path, "QUInt8")
    report = lint(path, ONNXRUNTIME)
    assert report.optimized
    assert report.passed
    assert {"zero-point", "codes-type", "uint8-codes"} <= found_in(lint(path, TENSORRT))
    assert {"opset", "weight-for-8.6"} <= found_in(lint(path, TENSORRT, version="8.6"))


def test_onnxruntimes_own_int8_file_is_told_why_layers_stay_float(residual: Any, tmp_path: Path) -> None:
    report = lint(quantized_by_onnxruntime(residual(0), tmp_path, "QInt8"), ONNXRUNTIME)
    assert report.float_compute
    assert {finding.node for finding in report.findings} == {name.split(" (")[0] for name in report.float_compute}
    assert "signed-codes" in found_in(report)
    assert {finding.severity for finding in report.findings} == {"float"}
