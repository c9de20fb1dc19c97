"""Q/DQ in ONNX Runtime's dialect, as a graph."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.qdq.build import build_qdq, strip_markers

from ..editing import node_of, value_of


def test_scales_zero_points_and_clips_are_scalars_without_dimensions(residual: Any) -> None:
    net, logits = residual(0, act_bits=(8, 4, 3))
    model = net.qdq(logits)
    for name in ("images_scale", "images_zero_point", "block1.in_qmin", "block1.in_qmax"):
        assert value_of(model, name).shape == ()
    assert value_of(model, "images_zero_point") == 128
    assert value_of(model, "stem.out_zero_point") == 0
    assert value_of(model, "block1.in_qmax") == 15


def test_a_signed_grid_below_8_bits_is_clipped_around_the_zero_point(residual: Any) -> None:
    net, logits = residual(0, act_bits=(8, 4, 3), signed_stream=True)
    model = net.qdq(logits)
    assert (value_of(model, "block2.in_qmin"), value_of(model, "block2.in_qmax")) == (124, 131)


def test_weights_are_int8_and_biases_int32_along_axis_0(residual: Any) -> None:
    net, logits = residual(0)
    model = net.qdq(logits)
    conv = next(node for node in model.graph.node if node.name == "block1.conv1")
    weight, bias = node_of(model, conv.input[1]), node_of(model, conv.input[2])
    assert value_of(model, weight.input[0]).dtype == np.int8
    assert value_of(model, bias.input[0]).dtype == np.int32
    np.testing.assert_array_equal(value_of(model, weight.input[0]), net.layers["block1.conv1"].codes)
    assert [entry.i for node in (weight, bias) for entry in node.attribute if entry.name == "axis"] == [0, 0]


def test_pool_slice_pad_and_flatten_act_on_codes(residual: Any) -> None:
    net, logits = residual(0)
    model = net.qdq(logits)
    movers = {node.op_type: node for node in model.graph.node if node.op_type in ("MaxPool", "Slice", "Pad", "Flatten")}
    assert movers["MaxPool"].input[0] == "stem.out_codes"
    assert movers["Slice"].input[0] == "block1.out_codes"
    assert movers["Pad"].input[2] == "block1.out_zero_point"
    assert movers["Flatten"].input[0] == "pool.out_codes"


def test_every_float_tensor_has_one_quantizer(residual: Any) -> None:
    net, logits = residual(0)
    sources = Counter(node.input[0] for node in net.qdq(logits).graph.node if node.op_type == "QuantizeLinear")
    assert max(sources.values()) == 1


def test_a_requantizer_as_wide_as_its_parent_leaves_no_trace(residual: Any) -> None:
    net, logits = residual(0, act_bits=(8, 8, 8))
    model = net.qdq(logits)
    assert "block1.in" not in net.acts
    assert not any(node.op_type == "LeakyRelu" for node in model.graph.node)
    conv = next(node for node in model.graph.node if node.name == "block1.conv1")
    assert node_of(model, conv.input[0]).input[0] == "stem.pool"


def test_a_requantizer_on_two_edges_gets_two_names_and_one_scale(tiny_net: Any) -> None:
    net = tiny_net(1)
    images = net.quantize(net.input, "images", 8, signed=True)
    stem = net.quantize(net.conv(images, "stem", 8), "stem.out", 8)
    first = net.quantize(stem, "narrow", 4, parent="stem.out")
    second = net.quantize(stem, "narrow", 4, parent="stem.out")
    left = net.quantize(net.conv(first, "left", 8, bits=4, relu=False), "left.out", 8, signed=True)
    right = net.quantize(net.conv(second, "right", 8, bits=4, relu=False), "right.out", 8, signed=True)
    pooled = net.quantize(net.mean(net.quantize(net.add(left, right, "sum"), "sum.out", 8), "pool"), "pool.out", 8)
    model = net.qdq(net.gemm(net.flatten(pooled, "flat"), "head", 10))
    outputs = {output for node in model.graph.node for output in node.output}
    assert {"narrow_codes", "narrow_codes_2"} <= outputs
    assert [tensor.name for tensor in model.graph.initializer].count("narrow_scale") == 1


def test_the_float_model_is_the_template_without_markers(residual: Any) -> None:
    net, logits = residual(0)
    model = strip_markers(net.template(logits))
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(model)
    images = net.images(2)
    found = evaluator.run(None, {"images": images})[0]
    assert found.shape == (2, 10)
    assert np.isfinite(found).all()


def test_the_same_input_gives_the_same_bytes(residual: Any) -> None:
    first, second = (net.qdq(logits).SerializeToString() for net, logits in (residual(7), residual(7)))
    assert first == second


def test_metadata_is_kept(residual: Any) -> None:
    net, logits = residual(0)
    model = build_qdq(net.template(logits), net.placement, net.layers, net.acts, {"policy": "abc", "model": "tiny"})
    assert {entry.key: entry.value for entry in model.metadata_props} == {"model": "tiny", "policy": "abc"}


def test_a_target_that_is_never_exported_is_refused(tiny_net: Any) -> None:
    net = tiny_net(0, "reference")
    images = net.quantize(net.input, "images", 8, signed=True)
    logits = net.conv(images, "stem", 8)
    with pytest.raises(ModelError, match=r"'reference' is trained and never exported"):
        net.qdq(logits)


def test_a_template_of_another_opset_is_refused(residual: Any) -> None:
    net, logits = residual(0)
    template = net.template(logits)
    template.opset_import[0].version = 18
    with pytest.raises(ModelError, match="the template has opset 18; the target takes 21"):
        build_qdq(template, net.placement, net.layers, net.acts, {})


def test_missing_layers_grids_and_markers_are_refused_by_name(residual: Any) -> None:
    net, logits = residual(0)
    template, placement = net.template(logits), net.placement
    layers = {name: layer for name, layer in net.layers.items() if name != "block1.conv1"}
    with pytest.raises(ModelError, match=r"'block1\.conv1'.*no integer weights"):
        build_qdq(template, placement, layers, net.acts, {})
    acts = {name: params for name, params in net.acts.items() if name != "stem.out"}
    with pytest.raises(ModelError, match=r"'stem\.out'.*no grid"):
        build_qdq(template, placement, net.layers, acts, {})
    with pytest.raises(ModelError, match=r"lacks stem.out"):
        build_qdq(without_marker(template, "stem.out"), placement, net.layers, net.acts, {})


def without_marker(template: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The stem's quantizer moved to a name of an existing re-quantizer, so that its own is nowhere."""
    model = onnx.ModelProto()
    model.CopyFrom(template)
    for node in model.graph.node:
        for entry in node.attribute:
            if entry.name == "name" and entry.s.decode() == name:
                entry.s = b"block1.mid"
    return model


def test_a_bias_folded_at_another_input_scale_is_refused(residual: Any) -> None:
    net, logits = residual(0)
    net.acts["images"] = type(net.acts["images"])(grid=net.acts["images"].grid, scale=(0.5,))
    with pytest.raises(ModelError, match=r"'stem'.*bias scale"):
        net.qdq(logits)
