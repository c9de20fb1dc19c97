"""What TensorRT's parser refuses is found before it is asked; what is written here it is not refused for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from limpq_deploy.export.lint.check import lint, static_findings
from limpq_deploy.export.records.targets import TENSORRT
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from limpq_deploy.export.reference.self_test import tiny_model

from ..editing import node_of, replace, value_of

Change = Callable[[onnx.ModelProto], None]


def rules(model: onnx.ModelProto, version: str = "11") -> set[str]:
    return {finding.rule for finding in static_findings(model, TENSORRT, TENSORRT_FORMS[version])}


def drop(node: onnx.NodeProto, name: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def without_a_kernel_shape(model: onnx.ModelProto) -> None:
    drop(node_of(model, "conv2"), "kernel_shape")


def with_a_scale_of_0(model: onnx.ModelProto) -> None:
    replace(model, "conv1.in_scale", np.array(0, np.float32))


def with_a_negative_weight_scale(model: onnx.ModelProto) -> None:
    value = value_of(model, "conv1.weight_scale").copy()
    value[3] *= -1
    replace(model, "conv1.weight_scale", value)


def with_a_scale_that_is_no_number(model: onnx.ModelProto) -> None:
    replace(model, "conv1.in_scale", np.array(np.nan, np.float32))


def with_an_infinite_scale(model: onnx.ModelProto) -> None:
    replace(model, "conv1.in_scale", np.array(np.inf, np.float32))


def with_a_scale_without_a_reciprocal(model: onnx.ModelProto) -> None:
    replace(model, "conv1.in_scale", np.array(1e-40, np.float32))


def with_fewer_scales_than_channels(model: onnx.ModelProto) -> None:
    for name in ("scale", "zero"):
        replace(model, f"conv1.weight_{name}", value_of(model, f"conv1.weight_{name}")[:-1])


def with_a_scale_from_the_images(model: onnx.ModelProto) -> None:
    images = model.graph.input[0].name
    model.graph.node.insert(0, helper.make_node("ReduceMax", [images], ["largest"], name="largest", keepdims=0))
    node_of(model, "conv1.in_codes").input[1] = "largest"


def with_a_computed_zero_point(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Identity", ["conv1.in_zero"], ["same"], name="same"))
    node_of(model, "conv1.in_codes").input[2] = "same"


def with_16_bit_codes(model: onnx.ModelProto) -> None:
    replace(model, "conv1.in_zero", np.array(0, np.int16))


def with_an_unused_constant_of_16_bits(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.uint16), "unused"))


def weight_as_codes(model: onnx.ModelProto, codes: onnx.TensorProto, zero: onnx.TensorProto) -> None:
    """The first convolution's weight as codes with a DequantizeLinear alone."""
    dequantize = node_of(model, node_of(model, "conv1").input[1])
    model.graph.node.remove(node_of(model, dequantize.input[0]))
    model.graph.initializer.extend([codes, zero])
    dequantize.input[0], dequantize.input[2] = codes.name, zero.name


def with_a_weight_of_unsigned_codes(model: onnx.ModelProto) -> None:
    shape = value_of(model, "conv1.weight").shape
    codes = numpy_helper.from_array(np.ones(shape, np.uint8), "bytes")
    weight_as_codes(model, codes, numpy_helper.from_array(np.zeros(shape[0], np.uint8), "byte_zeros"))


def with_a_weight_of_4_bits(model: onnx.ModelProto) -> None:
    shape = value_of(model, "conv1.weight").shape
    four = onnx.TensorProto.INT4
    codes = helper.make_tensor("narrow", four, shape, np.ones(int(np.prod(shape)), int).tolist())
    weight_as_codes(model, codes, helper.make_tensor("narrow_zeros", four, shape[:1], [0] * shape[0]))


def with_a_scale_of_half_a_width(model: onnx.ModelProto) -> None:
    half = value_of(model, "conv1.in_scale").astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(half, "half"))
    node_of(model, node_of(model, "conv1").input[0]).input[1] = "half"


def with_a_weight_that_is_not_dequantized(model: onnx.ModelProto) -> None:
    node_of(model, "conv1").input[1] = node_of(model, node_of(model, "conv1").input[1]).input[0]


def with_a_constant_added_to_codes(model: onnx.ModelProto) -> None:
    dequantize = node_of(model, node_of(model, "conv1").input[0])
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int8), "one"))
    place = list(model.graph.node).index(dequantize)
    model.graph.node.insert(place, helper.make_node("Add", [dequantize.input[0], "one"], ["more"], name="more"))
    dequantize.input[0] = "more"


def with_a_cast_to_bytes(model: onnx.ModelProto) -> None:
    between(model, "Cast", [], to=onnx.TensorProto.UINT8)


def with_one_zero_point_for_all_channels(model: onnx.ModelProto) -> None:
    replace(model, "conv1.weight_zero", np.array(0, np.int8))


def with_a_computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["conv1.in_scale"], ["computed"], name="computed"))
    node_of(model, "conv1.in_codes").input[1] = "computed"


def with_a_dilated_pool(model: onnx.ModelProto) -> None:
    between(model, "MaxPool", [], kernel_shape=[3, 3], pads=[2] * 4, dilations=[2, 2])


def with_a_pad_that_cuts(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 0, 0, 0, -1, 0], np.int64), "amounts"))
    between(model, "Pad", ["amounts"])


def with_a_pad_of_named_axes(model: onnx.ModelProto) -> None:
    for name, value in (("amounts", [1, 1]), ("axes", [2])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    between(model, "Pad", ["amounts", "", "axes"])


def with_an_operator_that_is_not_read(model: onnx.ModelProto) -> None:
    between(model, "Det", [])


def between(model: onnx.ModelProto, op: str, more: list[str], **attributes: Any) -> None:
    """A node before the quantizer of the third convolution."""
    quantize = node_of(model, "conv3.in_codes")
    place = list(model.graph.node).index(quantize)
    node = helper.make_node(op, [quantize.input[0], *more], ["between"], name="between", **attributes)
    model.graph.node.insert(place, node)
    quantize.input[0] = "between"


BREACHES: dict[Change, str] = {
    with_a_scale_of_0: "scale-positive",
    with_a_scale_that_is_no_number: "scale-positive",
    with_a_negative_weight_scale: "scale-positive",
    with_an_infinite_scale: "scale-finite",
    with_a_scale_without_a_reciprocal: "scale-finite",
    with_one_zero_point_for_all_channels: "zero-point-count",
    with_fewer_scales_than_channels: "scale-length",
    with_a_scale_from_the_images: "scale-constant",
    with_a_computed_zero_point: "zero-point-constant",
    with_16_bit_codes: "constant-type",
    with_an_unused_constant_of_16_bits: "constant-type",
    with_a_weight_of_unsigned_codes: "codes-type",
    with_a_weight_of_4_bits: "convolution-codes",
    with_a_scale_of_half_a_width: "types-agree",
    with_a_weight_that_is_not_dequantized: "types-agree",
    with_a_constant_added_to_codes: "codes-constant",
    with_a_cast_to_bytes: "cast-type",
    with_a_dilated_pool: "pool-dilation",
    with_an_operator_that_is_not_read: "operator",
}

OF_OLDER: dict[Change, str] = {
    without_a_kernel_shape: "kernel-shape",
    with_a_computed_scale: "scale-constant",
    with_a_pad_that_cuts: "pad-adds",
    with_a_pad_of_named_axes: "pad-axes",
}
"""What 8.6 and 10 do not read, and 11 does."""


def test_the_model_of_the_self_test_breaks_no_rule() -> None:
    assert rules(tiny_model()) == set()


@pytest.mark.parametrize("change", BREACHES, ids=lambda change: change.__name__)
def test_a_node_that_the_parser_refuses_is_found(change: Change) -> None:
    model = tiny_model()
    change(model)
    assert BREACHES[change] in rules(model)


@pytest.mark.parametrize("version", ["8.6", "10"])
@pytest.mark.parametrize("change", OF_OLDER, ids=lambda change: change.__name__)
def test_what_older_parsers_refuse_is_found_for_them_alone(change: Change, version: str) -> None:
    model = tiny_model()
    change(model)
    assert OF_OLDER[change] in rules(model, version)
    assert rules(model) <= {"pad-between"}


def test_the_version_is_the_files_own_or_the_newest() -> None:
    model = tiny_model()
    without_a_kernel_shape(model)
    assert lint(model, TENSORRT).tensorrt == "11"
    assert not lint(model, TENSORRT, version="10").passed
    for version, found in (("8.6", True), ("10", True), ("11", False)):
        helper.set_model_props(model, {"limpq.tensorrt": version})
        report = lint(model, TENSORRT)
        assert (report.tensorrt, not report.passed) == (version, found)
    assert lint(model, TENSORRT, version="8.6").tensorrt == "8.6"
    assert set(TENSORRT_FORMS) == {"8.6", "10", "11"}
