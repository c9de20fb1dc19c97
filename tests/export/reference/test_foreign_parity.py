"""Files of other tools: the integer reference against ONNX Runtime's optimised graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from limpq_deploy.calibration.errors import ModelError

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.reference.foreign_parity import FileParity, compare_file
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime

from .foreign_nets import S8, U8, Graph, images_of, saved

FILES = Path(__file__).parent / "foreign"


def compared(model: onnx.ModelProto, folder: Path) -> FileParity:
    return compare_file(saved(model, folder), images_of(model), OnnxRuntime(), threads=1)


def weights_with_a_zero_point() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    inner = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3, axis=None, zero=77, dtype=U8))
    outer = net.node("Conv", net.pair(inner, 0.05, 117), net.weight(6, 6, 1, 1, zero=128, dtype=U8))
    return net.model(net.pair(outer, 0.1, 99))


def float_bias() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    bias = net.constant(net.random.normal(0, 0.5, 6), np.float32)
    conv = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3), bias)
    return net.model(net.pair(net.node("Relu", conv), 0.05, 0))


def automatic_padding() -> onnx.ModelProto:
    net = Graph([2, 4, 9, 8])
    source = net.pair("x", 0.03, 128)
    first = net.node("Conv", source, net.weight(6, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    second = net.node("Conv", net.pair(first, 0.05, 117), net.weight(6, 6, 4, 4), auto_pad="SAME_LOWER")
    return net.model(net.pair(second, 0.1, 99))


def one_dimension() -> onnx.ModelProto:
    net = Graph([2, 4, 20])
    conv = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3), strides=[2], pads=[1, 0])
    return net.model(net.pair(conv, 0.05, 117))


def moves_between_pairs() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    conv = net.pair(net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3)), 0.05, 117)
    pooled = net.node("MaxPool", conv, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    flat = net.pair(net.node("Flatten", net.node("Transpose", pooled, perm=[0, 3, 2, 1])), 0.05, 117)
    return net.model(net.pair(net.node("Gemm", flat, net.weight(54, 5, axis=1)), 0.2, 117))


def quantizer_behind_a_pool() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    conv = net.node("Relu", net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3)))
    pooled = net.pair(net.node("MaxPool", conv, kernel_shape=[2, 2]), 0.05, 0)
    return net.model(net.pair(net.node("Conv", pooled, net.weight(6, 6, 1, 1)), 0.05, 5))


def absorbed_clip() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    conv = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3))
    cut = net.node("Clip", conv, net.constant(0, np.float32), net.constant(6, np.float32))
    return net.model(net.pair(cut, 6 / 255, 0))


def signed_sums_products_and_means() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    pooled = net.pair(net.node("AveragePool", net.pair("x", 0.03, 5, S8), kernel_shape=[2, 2]), 0.027, -7, S8)
    total = net.pair(net.node("Add", pooled, pooled), 0.05, 3, S8)
    return net.model(net.pair(net.node("Mul", total, total), 0.05, -9, S8))


def windows_with_padding() -> onnx.ModelProto:
    net = Graph([2, 4, 9, 9])
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    inside = net.pair(net.node("AveragePool", net.pair("x", 0.03, 101), **window), 0.03, 99)
    return net.model(net.pair(net.node("AveragePool", inside, count_include_pad=1, **window), 0.02, 90))


def constant_summands() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    channels = net.dequantize(net.constant(net.codes((4, 1, 1), U8)), 0.01, 3)
    total = net.pair(net.node("Add", net.pair("x", 0.03, 113), channels), 0.04, 99)
    return net.model(net.pair(net.node("Add", total, net.dequantize(net.constant(77, U8), 0.01, 3)), 0.04, 17))


def products_of_matrices() -> onnx.ModelProto:
    net = Graph([2, 6, 8])
    source = net.pair("x", 0.03, 128)
    turned = net.pair(net.node("Transpose", source, perm=[0, 2, 1]), 0.03, 128)
    squares = net.pair(net.node("MatMul", source, turned), 0.05, 117)
    per_channel = net.node("MatMul", squares, net.weight(6, 5, axis=1))
    whole = net.node("MatMul", net.pair(per_channel, 0.05, 120), net.weight(5, 3, axis=None, zero=120, dtype=U8))
    return net.model(net.pair(whole, 0.05, 100))


def several_parts() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    source = net.pair("x", 0.03, 128)
    conv = net.node("Conv", source, net.weight(6, 4, 3, 3), pads=[1, 1, 1, 1])
    fixed = net.dequantize(net.constant(net.codes((2, 4, 8, 8), U8)), 0.02, 9)
    joined = net.pair(net.node("Concat", source, net.pair(conv, 0.05, 117), fixed, axis=1), 0.05, 120)
    left, right = net.node("Split", joined, net.constant([7, 7], np.int64), outputs=2, axis=1)
    pairs = [net.pair(part, 0.05, 120) for part in (left, right)]
    return net.model(net.pair(net.node("Add", *pairs), 0.1, 130))


def padding_with_a_value() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    amounts = net.constant([0, 0, 1, 1, 0, 0, 0, 2], np.int64)
    padded = net.pair(net.node("Pad", net.pair("x", 0.03, 100), amounts, net.constant(0.6, np.float32)), 0.03, 100)
    return net.model(net.pair(net.node("Conv", padded, net.weight(6, 4, 3, 3)), 0.05, 117))


def grids_written_short() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    scale = net.constant([0.03], np.float32)
    plain = net.node("DequantizeLinear", net.node("QuantizeLinear", "x", scale), scale)
    return net.model(net.pair(net.node("Conv", plain, net.weight(6, 4, 3, 3)), 0.05, 117))


def codes_in_and_out() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8], kind=TensorProto.UINT8)
    conv = net.node("Conv", net.dequantize("x", 0.03, 128), net.weight(6, 4, 3, 3))
    return net.model(net.quantize(conv, 0.05, 117), kind=TensorProto.UINT8)


def dynamic_batch() -> onnx.ModelProto:
    net = Graph(["batch", 4, 8, 8])
    conv = net.pair(net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3)), 0.05, 117)
    mean = net.pair(net.node("GlobalAveragePool", conv), 0.02, 117)
    size = net.node("Gather", net.node("Shape", mean), net.constant([0], np.int64))
    shape = net.node("Concat", size, net.constant([-1], np.int64), axis=0)
    rows = net.pair(net.node("Reshape", mean, shape), 0.02, 117)
    return net.model(net.pair(net.node("Gemm", rows, net.weight(6, 5, axis=1)), 0.05, 117))


def integer_operators() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    grid = [(net.constant(s, np.float32), net.constant(z, U8)) for s, z in ((0.03, 120), (0.05, 117), (0.06, 99))]
    weight = net.constant(net.codes((4, 4, 3, 3)))
    scales = net.constant(net.random.uniform(0.001, 0.006, 4), np.float32)
    zeros, bias = net.constant(np.zeros(4), S8), net.constant(net.random.integers(-999, 999, 4), np.int32)
    image = net.node("QuantizeLinear", "x", *grid[0])
    layer = [weight, scales, zeros]
    conv = net.node("QLinearConv", image, *grid[0], *layer, *grid[1], bias, pads=[1, 1, 1, 1])
    total = net.node("QLinearAdd", conv, *grid[1], image, *grid[0], *grid[2], domain="com.microsoft")
    leaky = net.node("QLinearLeakyRelu", total, *grid[2], *grid[1], domain="com.microsoft", alpha=0.2)
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pooled = net.node("QLinearAveragePool", leaky, *grid[1], *grid[0], domain="com.microsoft", **window)
    joined = net.node("QLinearConcat", *grid[2], pooled, *grid[0], pooled, *grid[0], domain="com.microsoft", axis=1)
    mean = net.node("QLinearGlobalAveragePool", joined, *grid[2], *grid[0], domain="com.microsoft", channels_last=0)
    return net.model(net.node("DequantizeLinear", mean, *grid[0]), rank=4)


IN_INTEGERS: list[Callable[[], onnx.ModelProto]] = [
    weights_with_a_zero_point,
    float_bias,
    automatic_padding,
    one_dimension,
    moves_between_pairs,
    quantizer_behind_a_pool,
    absorbed_clip,
    windows_with_padding,
    constant_summands,
    products_of_matrices,
    several_parts,
    padding_with_a_value,
    grids_written_short,
    codes_in_and_out,
    dynamic_batch,
    integer_operators,
]


@pytest.mark.parametrize("make", IN_INTEGERS, ids=lambda make: make.__name__)
def test_what_the_runtime_executes_in_integers_equals_the_reference(make: Any, tmp_path: Path) -> None:
    found = compared(make(), tmp_path)
    assert found.codes > 0
    assert (found.mismatches, found.logits_equal, found.islands) == (0, True, ())
    assert found.exact


def test_signed_codes_that_the_runtime_holds_unsigned_decide_ties_as_it_does(tmp_path: Path) -> None:
    found = compared(signed_sums_products_and_means(), tmp_path)
    assert found.codes > 0
    assert (found.mismatches, found.logits_equal) == (0, True)


def middle_zero_behind_a_relu() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    bias = net.constant(net.random.normal(0, 0.5, 6), np.float32)
    conv = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3), bias)
    return net.model(net.pair(net.node("Relu", conv), 0.05, 17))


def unknown_integers() -> onnx.ModelProto:
    net = Graph([2, 2, 6, 6, 6])
    conv = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 2, 3, 3, 3))
    return net.model(net.pair(conv, 0.05, 117))


def normalisation_behind_a_softmax() -> onnx.ModelProto:
    net = Graph([2, 6, 8])
    shares = net.pair(net.node("Softmax", net.pair("x", 0.03, 128), axis=-1), 1 / 256, 0)
    ones, zeros = net.constant(np.ones(8), np.float32), net.constant(np.zeros(8), np.float32)
    return net.model(net.pair(net.node("LayerNormalization", shares, ones, zeros), 0.02, 128))


def joined_codes_of_16_bits() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8], opset=21)
    parts = [net.pair("x", scale, 30000, np.uint16) for scale in (0.0001, 0.0002)]
    whole = net.pair(net.node("Concat", *parts, axis=1), 0.00015, 32000, np.uint16)
    return net.model(net.pair(net.node("Conv", whole, net.weight(6, 8, 3, 3)), 0.05, 120))


def resized_bilinearly() -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    conv = net.pair(net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3)), 0.05, 117)
    wide = net.node("Resize", conv, "", net.constant(np.array([1, 1, 2, 2]), np.float32), mode="linear")
    return net.model(net.pair(net.node("Conv", net.pair(wide, 0.05, 117), net.weight(6, 6, 1, 1)), 0.05, 120))


ISLANDS: list[tuple[Callable[[], onnx.ModelProto], list[tuple[str, ...]]]] = [
    (middle_zero_behind_a_relu, [("Conv",)]),
    (joined_codes_of_16_bits, [("Conv",)]),
    (unknown_integers, [("Conv",)]),
    (resized_bilinearly, [("Resize",)]),
    (normalisation_behind_a_softmax, [("Softmax",), ("LayerNormalization",)]),
]


@pytest.mark.parametrize(("make", "operators"), ISLANDS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_integer_arithmetic_of_ours_is_executed_apart_and_counted_apart(
    make: Any, operators: Any, tmp_path: Path
) -> None:
    found = compared(make(), tmp_path)
    assert [island.operators for island in found.islands] == operators
    assert all(island.codes > 0 and island.mismatches == 0 for island in found.islands)
    assert (found.mismatches, found.logits_equal) == (0, True)


def two_pairs(second: float) -> onnx.ModelProto:
    net = Graph([2, 4, 8, 8])
    conv = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3))
    twice = net.pair(net.pair(conv, 0.05, 117), second, 117)
    return net.model(net.pair(net.node("Conv", twice, net.weight(6, 6, 1, 1)), 0.1, 100))


def test_two_pairs_of_one_grid_are_one(tmp_path: Path) -> None:
    found = compared(two_pairs(0.05), tmp_path)
    assert found.exact
    assert not found.otherwise


def test_two_pairs_that_the_runtime_merges_differ_from_the_file_and_it_is_said_why(tmp_path: Path) -> None:
    found = compared(two_pairs(0.07), tmp_path)
    assert not found.exact
    assert found.mismatches > 0
    assert any("merges the two pairs" in note for note in found.otherwise)


def test_integers_that_differ_before_an_island_are_no_rounding_of_floats(tmp_path: Path) -> None:
    net = Graph([2, 4, 8, 8])
    twice = net.pair(net.pair("x", 0.03, 128), 0.02, 120)
    total = net.node("Add", twice, net.constant(net.random.normal(0, 1, (4, 1, 1)), np.float32))
    found = compared(net.model(net.pair(total, 0.04, 100)), tmp_path)
    assert found.mismatches == 0  # behind the island the reference goes on with the runtime's codes
    assert found.islands[0].mismatches > 0
    assert not found.exact


def test_a_bias_at_another_scale_differs_and_it_is_said_why(tmp_path: Path) -> None:
    net = Graph([2, 4, 8, 8])
    bias = net.dequantize(
        net.constant(net.random.integers(-99_999, 99_999, 6), np.int32), 0.03 * 0.004 * 1.001, 0, np.int32
    )
    conv = net.node("Conv", net.pair("x", 0.03, 128), net.weight(6, 4, 3, 3, axis=None), bias)
    found = compared(net.model(net.pair(conv, 0.05, 117)), tmp_path)
    assert found.mismatches > 0
    assert any("bias at another scale" in note for note in found.otherwise)


def test_nodes_without_names_or_with_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("", "same", "conv_token_3"):
        model = moves_between_pairs()
        for node in model.graph.node:
            node.name = name
        assert compared(model, tmp_path).exact


FOREIGN = {
    "o_maxpool_dq": (0, True),
    "o_two_q": (0, True),
    "h_transpose_on_codes": (0, True),
    "h_avgpool_both": (0, True),
    "o_matmul_q_out": (0, True),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_were_wrong_or_refused(name: str) -> None:
    path = FILES / f"{name}.onnx"
    found = compare_file(path, images_of(onnx.load(path)), OnnxRuntime(), threads=1)
    assert (found.mismatches, found.logits_equal) == FOREIGN[name]
    assert sum(island.mismatches for island in found.islands) == 0


def test_weight_scales_along_inputs_are_not_what_the_runtime_computes() -> None:
    path = FILES / "o_axis1.onnx"
    found = compare_file(path, images_of(onnx.load(path)), OnnxRuntime(), threads=1)
    assert not found.exact
    assert found.mismatches > found.codes / 10
    assert any("'conv0' has weight scales along its inputs" in note for note in found.otherwise)


def test_scales_that_do_not_fit_the_channels_are_refused_by_name() -> None:
    path = FILES / "o_scale31.onnx"
    with pytest.raises(ModelError, match=r"node 'conv0' \(Conv\) has 31 scales"):
        compare_file(path, images_of(onnx.load(path)), OnnxRuntime(), threads=1)


def scale_of(model: onnx.ModelProto, value: Any) -> onnx.ModelProto:
    name = model.graph.node[0].input[1]
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return model


def with_a_second_input(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "y"
    return model


def without_quantizers() -> onnx.ModelProto:
    net = Graph([2, 4])
    return net.model(net.node("Relu", "x"))


def four_bits() -> onnx.ModelProto:
    net = Graph([2, 4], opset=21)
    return net.model(net.pair("x", 0.1, 8, onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.UINT4)))


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "two inputs": (lambda: with_a_second_input(float_bias()), r"2 inputs \(x, y\)"),
    "codes of 4 bits": (four_bits, "makes codes of type uint4"),
    "no quantizer": (without_quantizers, "quantizes nothing"),
    "a scale that is no number": (lambda: scale_of(float_bias(), np.float32(np.nan)), "not finite"),
    "a scale of half precision": (lambda: scale_of(float_bias(), np.float16(0.03)), "float16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_outside_is_one_sentence_that_names_it(name: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=sentence):
        compared(make(), tmp_path)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([U8, S8]),
    zeros=st.lists(st.integers(0, 255), min_size=4, max_size=4),
    scales=st.lists(st.floats(0.01, 0.1), min_size=4, max_size=4),
    axis=st.sampled_from([0, None]),
    groups=st.sampled_from([1, 2]),
)
def test_a_residual_block_of_any_grids_is_exact(
    seed: int, dtype: Any, zeros: list[int], scales: list[float], axis: int | None, groups: int, tmp_path: Path
) -> None:
    net = Graph([2, 4, 7, 7], seed=seed)
    grids = [(scale, zero + np.iinfo(dtype).min, dtype) for scale, zero in zip(scales, zeros, strict=True)]
    source = net.pair("x", *grids[0])
    inner = net.pair(net.node("Conv", source, net.weight(4, 4, 1, 1, axis=axis)), *grids[1])
    weight = net.weight(4, 4 // groups, 3, 3, axis=axis)
    outer = net.pair(net.node("Conv", inner, weight, pads=[1, 1, 1, 1], group=groups), *grids[2])
    found = compared(net.model(net.pair(net.node("Add", outer, source), *grids[3])), tmp_path)
    assert found.codes > 0
    assert (found.mismatches, found.logits_equal) == (0, True)
    assert sum(island.mismatches for island in found.islands) == 0
