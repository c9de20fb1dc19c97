"""Q/DQ in TensorRT's dialect: the graph, and what it computes.

Numbers come from ONNX Runtime with every optimisation off, which executes the graph as written, and are set against
another evaluation of the same thing: the float template, with a fake quantizer in place of each marker, in ONNX's
reference evaluator (NumPy, float32).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.lint.check import static_findings
from limpq_deploy.export.qdq.build import build_qdq, strip_markers
from limpq_deploy.export.records.targets import TENSORRT
from limpq_deploy.export.reference.parity import TensorParity, compare_codes, merged

from ..editing import node_of, value_of

ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

BITS = st.integers(2, 8)
TIE = 1e-3
"""Largest distance from a tie at which two float32 evaluations may round apart: sums of 200 products of up to 127 steps
differ by a few 1e-5 steps when they are added in another order."""


def executed(model: onnx.ModelProto, images: NDArray[np.float32]) -> dict[str, Any]:
    """Logits and all codes, by tensor name, from the graph as written."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    watched.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(["logits", *names], session.run(["logits", *names], {"images": images}), strict=True))


def compared(
    net: Any, logits: Any, found: Mapping[str, Any], images: NDArray[np.float32]
) -> tuple[tuple[TensorParity, ...], NDArray[np.float32]]:
    """Every quantizer's own codes against the executed ones, on which the evaluation then goes on; and its logits."""
    parts: list[TensorParity] = []
    calls: dict[str, int] = {}

    class Quantizer(OpRun):
        op_domain = "limpq"

        def _run(self, x: NDArray[np.float32], name: str = "") -> tuple[NDArray[np.float32]]:
            if name not in net.acts:  # a re-quantizer that would do nothing
                return (x,)
            calls[name] = calls.get(name, 0) + 1
            codes = found[f"{name}_codes" + ("" if calls[name] == 1 else f"_{calls[name]}")]
            params = net.acts[name]
            steps = x / np.float32(params.scale[0])
            own = np.rint(np.clip(steps, params.grid.qmin, params.grid.qmax))
            off = steps[own != codes]
            tie = float(np.abs(np.abs(off - np.floor(off)) - 0.5).max()) if off.size else None
            parts.append(compare_codes(name, own, codes.astype(np.float32), tie))
            return (codes.astype(np.float32) * np.float32(params.scale[0]),)

    evaluator = ReferenceEvaluator(net.template(logits), new_ops=[Quantizer])
    expected: Any = evaluator.run(None, {"images": images})
    return merged(parts), expected[0]


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    weight_bits=st.tuples(BITS, BITS, BITS),
    act_bits=st.tuples(BITS, BITS, BITS),
    signed_stream=st.booleans(),
    saturating=st.booleans(),
)
def test_every_quantizer_gives_the_codes_of_the_fake_quantized_network_up_to_ties(
    edges: Any, seed: int, weight_bits: Any, act_bits: Any, signed_stream: bool, saturating: bool
) -> None:
    net, logits = edges(seed, weight_bits=weight_bits, act_bits=act_bits, signed_stream=signed_stream)
    images = net.images(6, saturating=saturating)
    found = executed(net.qdq(logits), images)
    parts, expected = compared(net, logits, found, images)
    assert {part.tensor for part in parts} == net.acts.keys()
    assert all(part.max_lsb <= 1 and (part.max_tie_distance or 0) <= TIE for part in parts)
    # one float32 matrix product, added in another order
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


FAULTS = {
    "an activation scale": ("block1.mid_scale", lambda value: value * np.float32(1.02)),
    "an upper clip": ("block1.in_high", lambda value: value * np.float32(0.8)),
    "one channel's weight scale": ("block1.conv1.weight_scale", lambda value: changed(value, 3, value[3] / 8)),
    "one weight": ("block2.conv.weight", lambda value: changed(value, 5, value.reshape(-1)[5] + value.max())),
    "one bias": ("block1.conv1.bias", lambda value: changed(value, 2, value[2] + 0.5)),
}


def changed(value: Any, index: int, entry: Any) -> Any:
    result = value.copy()
    result.reshape(-1)[index] = entry
    return result


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_finds_a_fault_in_the_file(edges: Any, fault: str) -> None:
    net, logits = edges(2)
    model, images = net.qdq(logits), net.images(16)
    name, change = FAULTS[fault]
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    parts, _ = compared(net, logits, executed(model, images), images)
    assert any(part.mismatches and (part.max_lsb > 1 or (part.max_tie_distance or 0) > TIE) for part in parts)


def test_weights_are_floats_that_quantize_back_to_exactly_the_codes(edges: Any) -> None:
    net, logits = edges(3)
    model = net.qdq(logits)
    found = executed(model, net.images(1))
    for name, layer in net.layers.items():
        weight = value_of(model, f"{name}.weight")
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(found[f"{name}.weight_codes"], layer.codes)
        assert value_of(model, f"{name}.weight_scale").shape == layer.codes.shape[:1]
        for op in ("codes", "dequantized"):
            node = node_of(model, f"{name}.weight_{op}")
            assert [entry.i for entry in node.attribute if entry.name == "axis"] == [0]


def test_biases_are_the_float_biases_and_differ_from_the_integer_form_by_at_most_half_a_step(edges: Any) -> None:
    net, logits = edges(4)
    model = net.qdq(logits)
    for name, layer in net.layers.items():
        bias = value_of(model, f"{name}.bias")
        assert bias.dtype == np.float32
        np.testing.assert_array_equal(bias, layer.bias.astype(np.float32))
        rounded = layer.bias_codes * layer.bias_scale.astype(np.float64)
        # float32 rounds the bias itself by 2^-24 of its size
        assert (np.abs(bias - rounded) <= 0.5 * layer.bias_scale + 1e-7 * np.abs(bias)).all()


def test_grids_narrower_than_int8_are_clipped_on_the_floats_and_an_unsigned_one_at_0(edges: Any) -> None:
    net, logits = edges(5, act_bits=(8, 4, 3), signed_stream=True)
    model = net.qdq(logits)
    clips = {node.output[0]: node for node in model.graph.node if node.op_type == "Clip"}
    assert clips.keys() == {"block1.in_clipped", "block2.in_clipped"}
    for name, low, high in (("block1.in", 0, 15), ("block2.in", -4, 3)):
        scale = np.float32(net.acts[name].scale[0])
        assert node_of(model, f"{name}_codes").input[0] == f"{name}_clipped"
        assert value_of(model, f"{name}_low") == np.float32(low) * scale
        assert value_of(model, f"{name}_high") == np.float32(high) * scale


def test_a_relu_that_a_narrow_grid_alone_reads_is_left_to_its_clip(edges: Any) -> None:
    """The second convolution's ReLU; the stem's is read by a pool."""
    net, logits = edges(14, act_bits=(4, 4, 4))
    model = net.qdq(logits)
    assert node_of(model, "block1.mid_clipped").input[0] == "block1.conv1"
    relus = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    assert ("block1.conv1" in relus, "stem" in relus) == (False, True)


def one_layer(tiny_net: Any, activation: str, *, gemm: bool = False, bits: int = 4) -> tuple[Any, onnx.ModelProto]:
    """A layer, its activation and a quantizer behind it; the input reaches beyond 6."""
    net = tiny_net(15, "tensorrt")
    images = net.quantize(net.input, "images", 8, signed=True, spread=20.0)
    if gemm:
        flat = net.flatten(net.mean(net.conv(images, "stem", 8), "mean"), "flat")
        made = net.gemm(net.quantize(flat, "flat.in", 8), "layer", 8)
    else:
        made = net.conv(images, "layer", 8, relu=False)
    bounds = [net.constant(name, np.array(value, np.float32)) for name, value in (("zero", 0), ("six", 6))]
    cut = net.node(activation, [made.name, *(bounds if activation == "Clip" else [])], "cut")
    made = net.quantize(replace(made, name=cut), "narrow", bits, spread=9.0)
    flat = made if gemm else net.flatten(net.mean(made, "pool"), "end")
    return net, net.qdq(net.gemm(flat if gemm else net.quantize(flat, "pool.out", 8), "head", 10))


def test_a_relu6_is_one_clip_with_the_smaller_of_both_bounds(tiny_net: Any) -> None:
    net, model = one_layer(tiny_net, "Clip")
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    assert [node.input[0] for node in clips] == ["layer"]
    scale = net.acts["narrow"].scale[0]
    assert 15 * scale > 6
    assert value_of(model, "narrow_high") == np.float32(6)
    codes = executed(model, net.images(8, saturating=True))["narrow_codes"]
    assert (codes.min(), codes.max()) == (0, round(6 / scale))


def test_behind_a_gemm_the_relu_stays(tiny_net: Any) -> None:
    """TensorRT 10.12 and 10.13 forget the bound of a Clip from 0 that follows a matrix product and its bias."""
    _, model = one_layer(tiny_net, "Relu", gemm=True)
    assert node_of(model, node_of(model, "narrow_clipped").input[0]).op_type == "Relu"
    _, model = one_layer(tiny_net, "Relu")
    assert node_of(model, "narrow_clipped").input[0] == "layer"


def test_eight_bits_after_a_relu_are_0_to_127_and_need_no_clip(edges: Any) -> None:
    net, logits = edges(6)
    assert net.acts["stem.carrier"].grid.qmax == 127
    codes = executed(net.qdq(logits), net.images(4, saturating=True))["stem.carrier_codes"]
    assert (codes.dtype, codes.min(), codes.max()) == (np.int8, 0, 127)


def test_a_layer_quantizes_the_codes_of_a_residual_stream_again(edges: Any) -> None:
    """Two quantizers side by side on the floats would make the compiler write those floats."""
    net, logits = edges(7, act_bits=(8, 4, 4))
    model = net.qdq(logits)
    assert node_of(model, "stem.carrier_codes").input[0] == "stem.pool"
    again = node_of(model, node_of(model, "block1.in_clipped").input[0])
    assert (again.op_type, list(again.input)) == ("LeakyRelu", ["stem.carrier_dequantized"])
    assert [entry.f for entry in again.attribute] == [1.0]
    assert node_of(model, "block1.conv1").input[0] == "block1.in_dequantized"
    assert "stem.carrier_dequantized" in node_of(model, "block1.add").input


@pytest.mark.parametrize(("bits", "again"), [(8, False), (7, False), (6, True)])
def test_where_the_layers_grid_is_the_streams_the_layer_reads_its_codes(edges: Any, bits: int, again: bool) -> None:
    """Behind a ReLU 7 bits are the 0 to 127 of 8."""
    net, logits = edges(7, act_bits=(8, bits, bits))
    model = net.qdq(logits)
    [read] = [node.input[0] for node in model.graph.node if node.name == "block1.conv1"]
    assert read == ("block1.in_dequantized" if again else "stem.carrier_dequantized")
    assert any(node.op_type == "LeakyRelu" for node in model.graph.node) == again


def test_a_second_edge_of_one_quantizer_has_another_name_than_a_quantizer_called_so(tiny_net: Any) -> None:
    """As in GoogLeNet, whose concatenations are called cat, cat_1, cat_2 and feed convolutions and pools."""
    net = tiny_net(12, "tensorrt")
    images = net.quantize(net.input, "images", 8, signed=True)
    stem = net.conv(images, "stem", 8)
    first = net.conv(net.quantize(stem, "cat", 8), "left", 8)
    second = net.conv(net.maxpool(net.quantize(stem, "cat", 8), "pooled"), "right", 8)
    third = net.conv(net.quantize(first, "cat_2", 8), "third", 8)
    net.node("Concat", [net.mean(second, "a").name, net.mean(third, "b").name], "joined", axis=1)
    flat = net.flatten(replace(third, name="joined", channels=16, quantizer=None), "flat")
    model = net.qdq(net.gemm(net.quantize(flat, "pool.out", 8), "head", 10))
    assert {"cat_dequantized", "cat_dequantized_2", "cat_2_dequantized"} <= {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    assert executed(model, net.images(2))["logits"].shape == (2, 10)


def test_every_convolution_says_its_kernel(edges: Any) -> None:
    net, logits = edges(13)
    template = net.template(logits)
    for node in template.graph.node:
        kept = [entry for entry in node.attribute if (node.op_type, entry.name) != ("Conv", "kernel_shape")]
        del node.attribute[:]
        node.attribute.extend(kept)
    model = build_qdq(template, net.placement, net.layers, net.acts, {})
    found = {
        node.name: [list(entry.ints) for entry in node.attribute if entry.name == "kernel_shape"]
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    assert found == {name: [list(layer.codes.shape[2:])] for name, layer in net.layers.items() if layer.codes.ndim == 4}


def test_the_file_is_of_opset_17_passes_the_rules_and_takes_any_batch(edges: Any) -> None:
    net, logits = edges(8)
    model = net.qdq(logits)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert list(static_findings(model, TENSORRT)) == []
    for count in (1, 5):
        assert executed(model, net.images(count))["logits"].shape == (count, 10)


def test_the_float_baseline_is_of_opset_17_too(edges: Any) -> None:
    net, logits = edges(9)
    model = strip_markers(net.template(logits))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]


def test_padding_between_quantizer_and_convolution_stays_there(tiny_net: Any) -> None:
    net = tiny_net(10, "tensorrt")
    pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    images = net.quantize(net.input, "images", 8, signed=True)
    images.name = net.node("Pad", [images.name, pads], "padded")
    pooled = net.flatten(net.mean(net.conv(images, "stem", 8), "pool"), "flat")
    logits = net.gemm(net.quantize(pooled, "pool.out", 8), "head", 10)
    model = net.qdq(logits)
    assert node_of(model, "padded").input[0] == "images_dequantized"
    assert list(static_findings(model, TENSORRT)) == []
    images = net.images(3)
    found = executed(model, images)
    parts, expected = compared(net, logits, found, images)
    assert all(part.max_lsb <= 1 and (part.max_tie_distance or 0) <= TIE for part in parts)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5, atol=1e-5)


def test_a_quantizer_without_grid_and_one_beyond_int8_are_refused(edges: Any) -> None:
    net, logits = edges(11)
    template, placement = net.template(logits), net.placement
    acts = {name: params for name, params in net.acts.items() if name != "block1.mid"}
    with pytest.raises(ModelError, match=r"'block1\.mid' has no grid and scale"):
        build_qdq(template, placement, net.layers, acts, {})
    wide = QuantParams(grid=QuantGrid(bits=8, signed=False), scale=net.acts["block1.mid"].scale)
    with pytest.raises(ModelError, match=r"'block1\.mid' has codes from 0 to 255; int8 holds -128 to 127"):
        build_qdq(template, placement, net.layers, net.acts | {"block1.mid": wide}, {})
