"""Layers in FP16 around exact integers: what TensorRT-RTX's dialect computes, by the definition in its docstring."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.half_sums import LARGEST_SUM
from limpq_deploy.export.lint.check import static_findings
from limpq_deploy.export.records.targets import TENSORRT_RTX

ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written  # noqa: E402


def written(net: Any, logits: Any) -> onnx.ModelProto:
    """A tiny net's file, of the opset that TensorRT-RTX reads."""
    model = net.qdq(logits)
    assert list(static_findings(model, TENSORRT_RTX)) == []
    return model


def executed(model: onnx.ModelProto, images: NDArray[np.float32]) -> dict[str, Any]:
    """Every tensor of the file as written, by name."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name != "logits"]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(["logits", *names], session.run(["logits", *names], {"images": images}), strict=True))


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def integer_sums(codes_NCHW: NDArray[np.int64], layer: IntegerLayer, stride: int) -> NDArray[np.int64]:
    """A 3x3 convolution with a padding of 1, in int64."""
    padded = np.pad(codes_NCHW, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    found: NDArray[np.int64] = np.einsum("nchwij,ocij->nohw", windows, layer.codes.astype(np.int64))
    return found


@pytest.mark.parametrize(
    ("layer", "codes", "stride"), [("block1.conv1", "block1.in", 1), ("block2.conv", "block2.in", 2)]
)
@pytest.mark.parametrize("saturating", [False, True])
def test_a_layer_is_its_integer_sum_at_11_bits_times_a_factor_plus_a_bias(
    edges: Any, layer: str, codes: str, stride: int, saturating: bool
) -> None:
    net, logits = edges(3, target="tensorrt_rtx", weight_bits=(8, 8, 8), act_bits=(8, 6, 5), signed_stream=True)
    model = written(net, logits)
    found, folded = executed(model, net.images(4, saturating=saturating)), net.layers[layer]
    sums = integer_sums(found[f"{codes}_codes"].astype(np.int64), folded, stride)
    step = constants(model)[f"{layer}.weight_scale"].astype(np.float64)
    half = (sums * step).astype(np.float16)
    np.testing.assert_array_equal(found[f"{layer}.sum"], half)
    assert np.isfinite(half).all()
    factor = folded.bias_scale / np.float32(step)
    column = (slice(None), None, None)
    expected = half.astype(np.float32) * factor[column] + folded.float_bias[column]
    np.testing.assert_array_equal(found[layer], expected)
    # a half has 11 bits: the sum is off by at most half of its last one
    np.testing.assert_allclose(half / step, sums, rtol=2.0**-11)


def test_a_file_executed_as_written_rounds_its_sums_whoever_asks_for_them(edges: Any) -> None:
    """ONNX Runtime alone leaves that rounding away where nobody asks."""
    net, logits = edges(3, target="tensorrt_rtx")
    model, images = written(net, logits), net.images(4)
    asked = open_as_written(model).run_feeds({"images": images})
    assert asked.keys() == {"logits"}
    np.testing.assert_array_equal(asked["logits"], executed(model, images)["logits"])


def test_no_sum_can_pass_what_fp16_holds_and_none_is_subnormal(edges: Any) -> None:
    net, logits = edges(4, target="tensorrt_rtx")
    fixed = constants(written(net, logits))
    for name, layer in net.layers.items():
        step = float(fixed[f"{name}.weight_scale"])
        assert step == 2.0 ** np.round(np.log2(step))
        largest = np.abs(layer.codes.astype(np.int64)).reshape(len(layer.codes), -1).sum(1).max() * 128
        assert LARGEST_SUM / 2 < largest * step <= LARGEST_SUM
        assert step >= np.finfo(np.float16).smallest_normal


def test_both_inputs_of_a_layer_have_one_scale_and_only_reals_that_are_read_are_written(edges: Any) -> None:
    """One scale for the tensor lets the compiler end a convolution in FP16."""
    net, logits = edges(5, target="tensorrt_rtx")
    model = written(net, logits)
    fixed = constants(model)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            made = [node_of(model, name) for name in node.input]
            assert [one.op_type for one in made] == ["DequantizeLinear"] * 2 or made[0].op_type == "Flatten"
            scales = [fixed[one.input[1]] for one in made if one.op_type == "DequantizeLinear"]
            assert all(scale.dtype == np.float16 and scale.shape == () for scale in scales)
    read = {name for node in model.graph.node for name in node.input} | {"logits"}
    assert all(read.intersection(node.output) for node in model.graph.node)


def test_a_pool_behind_a_layer_reads_its_sums_and_gives_the_same_codes(tiny_net: Any) -> None:
    """A ReLU of 8 bits and one that a narrow grid's Clip replaces."""
    for bits in (8, 4):
        net = tiny_net(15, "tensorrt_rtx")
        images = net.quantize(net.input, "images", 8, signed=True)
        pooled = net.quantize(net.maxpool(net.conv(images, "layer", 8), "pooled"), "next", bits)
        flat = net.flatten(net.mean(net.conv(pooled, "second", 8), "mean"), "flat")
        logits = net.gemm(net.quantize(flat, "pool.out", 8), "head", 10)
        model = written(net, logits)
        [pool] = [node for node in model.graph.node if node.op_type == "MaxPool"]
        assert list(pool.input) == ["layer.sum"]
        found = executed(model, net.images(4))
        fixed, folded = constants(model), net.layers["layer"]
        real = found["layer.sum"].astype(np.float32) * fixed["layer.factor"] + folded.float_bias[:, None, None]
        scale, padded = (
            np.float32(net.acts["next"].scale[0]),
            np.pad(real, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf),
        )
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
        high = net.acts["next"].grid.qmax
        expected = np.clip(np.rint(np.clip(windows.max((4, 5)), 0, np.float32(high) * scale) / scale), 0, 127)
        np.testing.assert_array_equal(found["next_codes"], expected)


def test_a_pool_that_another_reader_shares_its_input_with_stays_where_it_is(tiny_net: Any) -> None:
    net = tiny_net(16, "tensorrt_rtx")
    images = net.quantize(net.input, "images", 8, signed=True)
    stem = net.conv(images, "layer", 8)
    first = net.conv(net.quantize(net.maxpool(stem, "pooled"), "left.in", 8), "left", 8)
    second = net.conv(net.quantize(stem, "right.in", 8), "right", 8, stride=2)
    total = net.add(first, net.quantize(second, "carrier", 8), "sum")
    flat = net.flatten(net.mean(total, "mean"), "flat")
    model = written(net, net.gemm(net.quantize(flat, "pool.out", 8), "head", 10))
    [pool] = [node for node in model.graph.node if node.op_type == "MaxPool"]
    assert list(pool.input) == ["layer_relu"]
    assert executed(model, net.images(2))["logits"].shape == (2, 10)


def test_padding_between_quantizer_and_convolution_pads_the_integers(tiny_net: Any) -> None:
    net = tiny_net(10, "tensorrt_rtx")
    pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    images = net.quantize(net.input, "images", 8, signed=True)
    images.name = net.node("Pad", [images.name, pads], "padded")
    pooled = net.flatten(net.mean(net.conv(images, "stem", 8), "pool"), "flat")
    model = written(net, net.gemm(net.quantize(pooled, "pool.out", 8), "head", 10))
    found = executed(model, net.images(2))
    codes = np.pad(found["images_codes"], ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = integer_sums(codes.astype(np.int64), net.layers["stem"], 1)
    step = constants(model)["stem.weight_scale"].astype(np.float64)
    np.testing.assert_array_equal(found["stem.sum"], (sums * step).astype(np.float16))
