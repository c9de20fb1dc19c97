"""TensorRT's placement rules, on a file that keeps them and on files that break one. No runtime is needed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.lint.check import lint, static_findings
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.targets import TENSORRT
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS

from ..editing import node_of, replace, with_a_batchnorm

Change = Callable[[onnx.ModelProto], None]


def rules(model: onnx.ModelProto, version: str = "11") -> set[str]:
    return {finding.rule for finding in static_findings(model, TENSORRT, TENSORRT_FORMS[version])}


def without_zero_point(model: onnx.ModelProto) -> None:
    del node_of(model, "stem.carrier_codes").input[2]


def with_unsigned_codes(model: onnx.ModelProto) -> None:
    replace(model, "stem.carrier_zero_point", np.array(0, np.uint8))


def with_another_zero(model: onnx.ModelProto) -> None:
    replace(model, "images_zero_point", np.array(3, np.int8))


def with_scales_along_another_axis(model: onnx.ModelProto) -> None:
    node_of(model, "block1.conv1.weight_dequantized").attribute[0].i = 1


def with_one_scale_for_a_weight(model: onnx.ModelProto) -> None:
    replace(model, "block1.conv1.weight_scale", np.array(0.1, np.float32))


def with_a_weight_of_codes(model: onnx.ModelProto) -> None:
    quantize = node_of(model, "block1.conv1.weight_codes")
    node_of(model, "block1.conv1.weight_dequantized").input[0] = "codes"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((8, 8, 3, 3), np.int8), "codes"))
    model.graph.node.remove(quantize)


def with_a_bias_of_codes(model: onnx.ModelProto) -> None:
    conv = node_of(model, "block1.conv1")
    inputs = [numpy_helper.from_array(np.zeros(8, np.int32), "bias_codes")]
    model.graph.initializer.extend(inputs)
    node = helper.make_node("DequantizeLinear", ["bias_codes", "block1.conv1.weight_scale"], ["b"], name="b", axis=0)
    model.graph.node.insert(0, node)
    conv.input[2] = "b"


def with_a_float_input(model: onnx.ModelProto) -> None:
    node_of(model, "block1.conv2").input[0] = "block1.conv1_relu"


def with_a_clip_on_codes(model: onnx.ModelProto) -> None:
    dequantize = node_of(model, "block1.mid_dequantized")
    model.graph.initializer.append(numpy_helper.from_array(np.array(7, np.int8), "seven"))
    place = list(model.graph.node).index(dequantize)
    model.graph.node.insert(place, helper.make_node("Clip", [dequantize.input[0], "", "seven"], ["cut"], name="cut"))
    dequantize.input[0] = "cut"


def with_a_bare_identity(model: onnx.ModelProto) -> None:
    node_of(model, "block1.add").input[1] = "stem.pool"


def quantize_between(model: onnx.ModelProto, reader: str, index: int, grid: str) -> None:
    """A further pair with the grid of another quantizer, on an input of ``reader``."""
    target = node_of(model, reader)
    source, numbers = target.input[index], [f"{grid}_scale", f"{grid}_zero_point"]
    place = list(model.graph.node).index(target)
    pair = [
        helper.make_node("QuantizeLinear", [source, *numbers], ["more_codes"], name="more_codes"),
        helper.make_node("DequantizeLinear", ["more_codes", *numbers], ["more"], name="more"),
    ]
    for node in reversed(pair):
        model.graph.node.insert(place, node)
    node_of(model, reader).input[index] = "more"


def with_both_addends_quantized(model: onnx.ModelProto) -> None:
    quantize_between(model, "block1.add", 0, "stem.carrier")


def with_the_layers_result_quantized_instead(model: onnx.ModelProto) -> None:
    with_both_addends_quantized(model)
    with_a_bare_identity(model)


def with_a_pair_behind_padding(model: onnx.ModelProto) -> None:
    quantize = node_of(model, "block1.mid_codes")
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads"))
    place = list(model.graph.node).index(quantize)
    model.graph.node.insert(place, helper.make_node("Pad", [quantize.input[0], "pads"], ["padded"], name="padded"))
    quantize.input[0] = "padded"


def with_a_contrib_operator(model: onnx.ModelProto) -> None:
    node_of(model, "stem.carrier_codes").domain = "com.microsoft"


def with_a_scale_for_each_channel_of_an_activation(model: onnx.ModelProto) -> None:
    replace(model, "block1.mid_scale", np.full(8, 0.1, np.float32))
    replace(model, "block1.mid_zero_point", np.zeros(8, np.int8))


def with_a_concat_of_two_scales(model: onnx.ModelProto) -> None:
    conv = node_of(model, "block1.conv1")
    parts = [conv.input[0], node_of(model, "block1.add").input[1]]
    place = list(model.graph.node).index(conv)
    model.graph.node.insert(place, helper.make_node("Concat", parts, ["joined"], name="joined", axis=1))


def of_a_newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


BREACHES: dict[Change, str] = {
    without_zero_point: "uint8-codes",
    with_unsigned_codes: "uint8-codes",
    with_another_zero: "zero-point",
    with_scales_along_another_axis: "weight-axis",
    with_one_scale_for_a_weight: "zero-point-count",
    with_a_bias_of_codes: "codes-type",
    with_a_float_input: "input-float",
    with_a_bare_identity: "add-bare",
    with_both_addends_quantized: "add-both",
    with_the_layers_result_quantized_instead: "add-both",
    with_a_pair_behind_padding: "pad-between",
    with_a_scale_for_each_channel_of_an_activation: "activation-scale",
    with_a_batchnorm: "batchnorm",
    with_a_concat_of_two_scales: "concat-scales",
}

OF_OLDER: dict[Change, str] = {
    with_a_weight_of_codes: "weight-for-8.6",
    with_a_clip_on_codes: "codes-read",
    of_a_newer_opset: "opset",
}
"""What 8.6 does not read, and 11 does."""


@pytest.mark.parametrize("change", BREACHES, ids=lambda change: change.__name__)
def test_a_breach_is_found_by_its_rule(edges: Any, change: Change) -> None:
    net, logits = edges(0)
    model = net.qdq(logits)
    assert rules(model) == set()
    change(model)
    assert BREACHES[change] in rules(model)


@pytest.mark.parametrize("change", OF_OLDER, ids=lambda change: change.__name__)
def test_what_an_older_version_does_not_read_is_found_for_that_version_alone(edges: Any, change: Change) -> None:
    net, logits = edges(0)
    model = net.qdq(logits)
    assert rules(model, "8.6") == set()
    change(model)
    assert OF_OLDER[change] in rules(model, "8.6")
    assert rules(model) == set()


def test_quantizers_of_other_domains_are_read_by_their_name(edges: Any) -> None:
    net, logits = edges(0)
    model = net.qdq(logits)
    with_a_contrib_operator(model)
    assert rules(model) == set()
    node_of(model, "stem.carrier_codes").op_type = "QLinearAdd"
    assert "operator" in rules(model)


def test_the_identity_may_itself_come_from_a_convolution(tiny_net: Any) -> None:
    net = tiny_net(1, "tensorrt")
    images = net.quantize(net.input, "images", 8, signed=True)
    left = net.conv(images, "left", 8, relu=False)
    right = net.quantize(net.conv(images, "right", 8, relu=False), "right.carrier", 8, signed=True)
    flat = net.flatten(net.mean(net.add(left, right, "sum"), "pool"), "flat")
    assert rules(net.qdq(net.gemm(net.quantize(flat, "pool.out", 8), "head", 10))) == set()


def test_a_clip_from_0_is_the_activation_between_a_layer_and_its_pair(tiny_net: Any) -> None:
    net = tiny_net(7, "tensorrt")
    images = net.quantize(net.input, "images", 8, signed=True)
    left, right = (net.quantize(net.conv(images, name, 8), f"{name}.q", 4) for name in ("left", "right"))
    flat = net.flatten(net.mean(net.add(left, right, "sum"), "pool"), "flat")
    model = net.qdq(net.gemm(net.quantize(flat, "pool.out", 8), "head", 10))
    assert "Relu" not in {node.op_type for node in model.graph.node if node.input[0] in ("left", "right")}
    assert rules(model) == set()


def test_a_layer_in_fp16_before_an_add_is_seen_through_its_cast(tiny_net: Any) -> None:
    net = tiny_net(6, "tensorrt")
    images = net.quantize(net.input, "images", 8, signed=True)
    left = net.conv(images, "left", 8, relu=False)
    right = net.quantize(net.conv(images, "right", 8, relu=False), "right.carrier", 8, signed=True)
    flat = net.flatten(net.mean(net.add(left, right, "sum"), "pool"), "flat")
    logits = net.gemm(net.quantize(flat, "pool.out", 8), "head", 10)
    one = net.layers["left"]
    half = FloatLayer(
        name="left", bits=16, weight_bits=16, weight=one.codes * one.scale[:, None, None, None], bias=one.bias
    )
    template, form = net.template(logits), TENSORRT_FORMS["10"]
    template.opset_import[0].version = form.opset
    model = build_qdq(template, net.placement, {**net.layers, "left": half}, net.acts, {}, form)
    assert node_of(model, node_of(model, "sum").input[0]).op_type == "Cast"
    assert rules(model) == set()


def test_a_file_of_the_other_dialect_breaks_the_rules_of_codes_zero_points_and_adds(residual: Any) -> None:
    net, logits = residual(2)
    model = net.qdq(logits)
    assert {"zero-point", "uint8-codes", "codes-type", "add-both"} <= rules(model)
    assert "codes-read" in rules(model, "10")


def test_the_report_says_that_the_runtime_did_not_look_and_counts_the_file_as_written(edges: Any) -> None:
    net, logits = edges(4)
    report = lint(net.qdq(logits), TENSORRT)
    assert report.passed
    assert not report.optimized
    assert "TensorRT is not available here" in (report.unavailable or "")
    assert (report.op_counts["Conv"], report.op_counts["Add"]) == (4, 2)
    assert report.float_compute == ()
