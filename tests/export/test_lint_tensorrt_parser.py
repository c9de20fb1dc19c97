"""What TensorRT's parser refuses is found before it is asked; what is written here it is not refused for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from limpq_deploy.export.file_forms import TENSORRT_FORMS, TENSORRT_KEY
from limpq_deploy.export.lint import static_findings
from limpq_deploy.export.self_test import tiny_model
from limpq_deploy.export.targets import TENSORRT

Change = Callable[[onnx.ModelProto], None]


def rules(model: onnx.ModelProto) -> set[str]:
    return {finding.rule for finding in static_findings(model, TENSORRT)}


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def drop(node: onnx.NodeProto, name: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def without_a_kernel_shape(model: onnx.ModelProto) -> None:
    drop(node_of(model, "conv2"), "kernel_shape")


def with_a_scale_of_0(model: onnx.ModelProto) -> None:
    replace(model, "conv1.in_scale", np.array(0, np.float32))


def with_a_negative_weight_scale(model: onnx.ModelProto) -> None:
    value = constant(model, "conv1.weight_scale").copy()
    value[3] *= -1
    replace(model, "conv1.weight_scale", value)


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


def constant(model: onnx.ModelProto, name: str) -> Any:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def replace(model: onnx.ModelProto, name: str, value: Any) -> None:
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


KERNEL = "a convolution whose weight is computed says its kernel_shape"
SCALE = "a scale is a positive constant, of as many numbers as the zero-point"
BREACHES: dict[Change, str] = {
    without_a_kernel_shape: KERNEL,
    with_a_scale_of_0: SCALE,
    with_a_negative_weight_scale: SCALE,
    with_one_zero_point_for_all_channels: SCALE,
    with_a_computed_scale: SCALE,
    with_a_dilated_pool: "a pool has no dilation",
    with_a_pad_that_cuts: "a Pad adds",
    with_a_pad_of_named_axes: "a Pad has amounts for all axes",
    with_an_operator_that_is_not_read: "operators are those that the parser reads",
}


def test_the_model_of_the_self_test_breaks_no_rule() -> None:
    assert rules(tiny_model()) == set()


@pytest.mark.parametrize("change", BREACHES, ids=lambda change: change.__name__)
def test_a_node_that_the_parser_refuses_is_found(change: Change) -> None:
    model = tiny_model()
    change(model)
    assert BREACHES[change] in rules(model)


def test_version_11_finds_a_kernel_in_the_weight() -> None:
    model = tiny_model()
    without_a_kernel_shape(model)
    for version, found in (("8.6", True), ("10", True), ("11", False)):
        helper.set_model_props(model, {TENSORRT_KEY: version})
        assert (KERNEL in rules(model)) == found, version
    assert set(TENSORRT_FORMS) == {"8.6", "10", "11"}
