"""The arithmetic of the integer reference, against exact rational numbers and against its own limits."""

from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.reference import operators as ops
from limpq_deploy.export.reference.executor import IntegerReference

UINT8 = np.dtype(np.uint8)
SCALES = st.floats(2.0**-20, 2.0**10, width=32)


def rounded_to_float32(exact: Fraction) -> np.float32:
    """Nearest float32, ties to even, by looking at the neighbours of a first guess."""
    guess = np.float32(float(exact))
    candidates = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    key = [(abs(Fraction(float(entry)) - exact), int(entry.view(np.int32)) & 1) for entry in candidates]
    return np.float32(candidates[key.index(min(key))])


@given(code=st.integers(0, 255), ratio=SCALES, addend=st.floats(-1e6, 1e6, width=32))
@settings(max_examples=300)
def test_fma_rounds_once(code: int, ratio: float, addend: float) -> None:
    exact = Fraction(code) * Fraction(ratio) + Fraction(addend)
    found = ops.fma(np.array([code], np.float32), np.float32(ratio), np.array([addend], np.float32))
    assert found[0] == rounded_to_float32(exact)


def test_fma_rounds_once_where_float64_alone_would_round_twice() -> None:
    """1 + 2^-24 is a tie in float32; the bit at 2^-60 that decides it is lost in a float64 sum."""
    found = ops.fma(np.array([1], np.float32), np.float32(2.0**-60), np.array([1], np.float32))
    assert found[0] == np.float32(1)
    tie = np.float32(1 + 2.0**-23)
    decided = ops.fma(np.array([2.0**-24 + 2.0**-47], np.float32), np.float32(1), np.array([tie], np.float32))
    assert decided[0] == np.float32(1 + 2.0**-22)


ONE_TO_TWO = st.floats(1, 2, width=32, exclude_max=True)


@given(scale=ONE_TO_TWO, out=ONE_TO_TWO, accumulator=st.integers(-(2**24), 2**24))
@settings(max_examples=300)
def test_an_accumulator_is_multiplied_by_the_quotient_of_the_scales_each_rounded_once(
    scale: float, out: float, accumulator: int
) -> None:
    """int32 codes show every bit of the product. ``scale * (1 / out)`` is another factor for about every third pair."""
    factor = rounded_to_float32(Fraction(scale) / Fraction(out))
    product = rounded_to_float32(Fraction(accumulator) * Fraction(float(factor)))
    found = ops.requantize(
        np.array([[accumulator]], np.float64), np.array([scale], np.float32), np.float32(out), 0, np.dtype(np.int32), 1
    )
    assert found.item() == round(Fraction(float(product)))


@given(value=st.floats(2.0**20, 2.0**21, width=32), scale=ONE_TO_TWO)
@settings(max_examples=300)
def test_a_value_is_divided_by_its_scale(value: float, scale: float) -> None:
    quotient = rounded_to_float32(Fraction(value) / Fraction(scale))
    found = ops.quantize(np.array([value], np.float32), np.float32(scale), 0, np.dtype(np.int32))
    assert found.item() == round(Fraction(float(quotient)))


GRID = st.tuples(st.floats(0.5, 2, width=32).map(np.float32), st.sampled_from([0, 16, 128]))


@given(first=GRID, second=GRID, out=GRID, codes=st.tuples(st.integers(0, 255), st.integers(0, 255)))
@settings(max_examples=100)
def test_a_sum_of_codes_is_rounded_after_each_of_its_steps(
    first: tuple[np.float32, int], second: tuple[np.float32, int], out: tuple[np.float32, int], codes: tuple[int, int]
) -> None:
    """rA and rB quotients; fix = zC - (rA * zA + rB * zB), product by product; fma(a, rA, fma(b, rB, fix))."""
    (scale_a, zero_a), (scale_b, zero_b), (scale_c, zero_c) = first, second, out
    ratio_a, ratio_b = (
        Fraction(float(rounded_to_float32(Fraction(float(scale)) / Fraction(float(scale_c)))))
        for scale in (scale_a, scale_b)
    )
    both = Fraction(0)
    for ratio, zero in ((ratio_a, zero_a), (ratio_b, zero_b)):
        both += Fraction(float(rounded_to_float32(ratio * zero)))
    fix = Fraction(float(rounded_to_float32(zero_c - Fraction(float(rounded_to_float32(both))))))
    inner = Fraction(float(rounded_to_float32(codes[1] * ratio_b + fix)))
    exact = rounded_to_float32(codes[0] * ratio_a + inner)
    table = ops.add_table((scale_a, zero_a, UINT8), (scale_b, zero_b, UINT8), (scale_c, zero_c, np.dtype(np.int32)))
    assert table[codes] == round(Fraction(float(exact)))


@given(first=GRID, second=GRID, out=GRID, codes=st.tuples(st.integers(0, 255), st.integers(0, 255)))
@settings(max_examples=50)
def test_a_product_of_codes_takes_the_product_of_both_scales_first(
    first: tuple[np.float32, int], second: tuple[np.float32, int], out: tuple[np.float32, int], codes: tuple[int, int]
) -> None:
    """float32(float32((a - zA) * (b - zB) * r) + zC), r = float32(float32(sA * sB) / sC); sC is so small that int32
    codes show every bit."""
    (scale_a, zero_a), (scale_b, zero_b), (scale_c, zero_c) = first, second, out
    scale_c = np.float32(scale_c * np.float32(2.0**-8))
    both = rounded_to_float32(Fraction(float(scale_a)) * Fraction(float(scale_b)))
    ratio = rounded_to_float32(Fraction(float(both)) / Fraction(float(scale_c)))
    scaled = rounded_to_float32((codes[0] - zero_a) * (codes[1] - zero_b) * Fraction(float(ratio)))
    exact = rounded_to_float32(Fraction(float(scaled)) + zero_c)
    table = ops.product_table((scale_a, zero_a, UINT8), (scale_b, zero_b, UINT8), (scale_c, zero_c, np.dtype(np.int32)))
    assert table[codes] == round(Fraction(float(exact)))


@given(scale=ONE_TO_TWO, out=ONE_TO_TWO, height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_mean_is_the_sum_times_one_factor_of_both_scales_and_the_area(
    scale: float, out: float, height: int, width: int
) -> None:
    """float32(scale / float32(out * area)). The sum is 2^24 less the zero-points, seen whole in int32 codes."""
    area = height * width
    divisor = rounded_to_float32(Fraction(out) * area)
    factor = Fraction(float(rounded_to_float32(Fraction(scale) / Fraction(float(divisor)))))
    codes = np.zeros((1, 1, height, width), np.int64)
    codes[0, 0, 0, 0] = 2**24 - 3 * area
    found = ops.mean_codes(codes, np.float32(scale), -3, np.float32(out), 0, np.dtype(np.int32))
    assert found.item() == round(Fraction(float(rounded_to_float32(2**24 * factor))))


@given(
    seed=st.integers(0, 2**32 - 1),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 2),
    pad=st.integers(0, 2),
    groups=st.sampled_from([1, 2]),
    zero_point=st.sampled_from([0, 128]),
)
@settings(max_examples=25, deadline=None)
def test_convolution_equals_sums_of_integers(
    seed: int, kernel: int, stride: int, pad: int, groups: int, zero_point: int
) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 256, (2, 4, 6, 7)).astype(np.uint8)
    weight = random.integers(-128, 128, (6, 4 // groups, kernel, kernel)).astype(np.int8)
    bias = random.integers(-1000, 1000, 6).astype(np.int32)
    found = ops.convolve(
        codes,
        zero_point,
        weight.astype(ops.exact_type(weight, bias, 255, "conv")),
        bias,
        strides=[stride, stride],
        pads=[pad] * 4,
        dilations=[1, 1],
        groups=groups,
    )
    padded = np.pad(codes.astype(np.int64) - zero_point, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    image, out = int(random.integers(2)), int(random.integers(6))
    row, column = int(random.integers(found.shape[2])), int(random.integers(found.shape[3]))
    start = out // (6 // groups) * (4 // groups)
    window = padded[
        image,
        start : start + 4 // groups,
        row * stride : row * stride + kernel,
        column * stride : column * stride + kernel,
    ]
    assert found[image, out, row, column] == (window * weight[out].astype(np.int64)).sum() + bias[out]


def test_sums_beyond_float32_are_computed_in_float64_and_beyond_int32_refused() -> None:
    bias = np.zeros(1, np.int32)
    small, large = np.full((1, 64, 3, 3), 100, np.int8), np.full((1, 1024, 3, 3), 100, np.int8)
    assert ops.exact_type(small, bias, 255, "small") is np.float32
    assert ops.exact_type(large, bias, 255, "large") is np.float64
    with pytest.raises(ModelError, match=r"'wide'.*int32"):
        ops.exact_type(large, np.full(1, 2**31 - 1, np.int32), 255, "wide")


def test_rounding_is_half_to_even_and_clamps() -> None:
    values = np.array([0.5, 1.5, -0.5, 254.5, 300.0, -7.0], np.float32)
    assert ops.quantize(values, np.float32(1), 0, UINT8).tolist() == [0, 2, 0, 254, 255, 0]
    assert ops.quantize(values, np.float32(1), 128, UINT8).tolist() == [128, 130, 128, 255, 255, 121]


def test_max_pool_takes_the_largest_code_and_never_the_padding() -> None:
    codes = np.array([[[[1, 2], [3, 0]]]], np.uint8)
    found = ops.max_pool(codes, [2, 2], [1, 1], [1, 1, 1, 1], [1, 1])
    assert found[0, 0].tolist() == [[1, 2, 2], [3, 3, 2], [3, 3, 0]]


def test_codes_of_any_tensor_come_out_on_request(residual: Any) -> None:
    net, logits = residual(1, act_bits=(8, 3, 4))
    reference = IntegerReference(net.qdq(logits))
    found, codes = reference.run(net.images(4), keep=["stem.out_codes", "block1.in_codes"])
    assert found.shape == (4, 10)
    assert found.dtype == np.float32
    assert codes["stem.out_codes"].shape == (4, 8, 8, 8)
    assert codes["block1.in_codes"].max() <= 7
    assert reference.run(net.images(1))[1] == {}
    everything = reference.run(net.images(1), keep=reference.code_tensors)[1]
    assert list(everything)[:3] == ["images_codes", "stem.out_codes", "block1.in_wide"]
    assert all(values.dtype == np.uint8 for values in everything.values())


def test_the_reference_does_not_depend_on_the_batch(residual: Any) -> None:
    net, logits = residual(2)
    reference = IntegerReference(net.qdq(logits))
    images = net.images(6)
    together = reference.run(images)[0]
    apart = np.concatenate([reference.run(images[i : i + 1])[0] for i in range(6)])
    np.testing.assert_array_equal(together, apart)


def replaced(model: onnx.ModelProto, name: str, value: Any) -> onnx.ModelProto:
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return model


def test_a_bias_at_another_scale_is_refused(residual: Any) -> None:
    net, logits = residual(3)
    model = replaced(net.qdq(logits), "stem.bias_scale", np.full(8, 0.5, np.float32))
    with pytest.raises(ModelError, match=r"'stem'.*bias scale"):
        IntegerReference(model)


def test_a_relu_before_a_zero_point_in_the_middle_is_refused(residual: Any) -> None:
    net, logits = residual(3)
    model = replaced(net.qdq(logits), "stem.out_zero_point", np.array(128, np.uint8))
    with pytest.raises(ModelError, match=r"'stem.out_codes'.*zero-point has to be the lowest code"):
        IntegerReference(model).run(net.images(1))


def test_an_unknown_operator_is_refused_by_name(residual: Any) -> None:
    net, logits = residual(3)
    model = net.qdq(logits)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    with pytest.raises(ModelError, match="Sigmoid"):
        IntegerReference(model).run(net.images(1))


def test_a_float_layer_is_refused(residual: Any) -> None:
    net, logits = residual(3)
    model = net.qdq(logits)
    next(node for node in model.graph.node if node.name == "stem").input[0] = "images"
    with pytest.raises(ModelError, match=r"'stem'.*not quantized"):
        IntegerReference(model)


@pytest.mark.parametrize(
    ("operator", "attributes", "moved"),
    [
        ("Transpose", {"perm": [1, 0]}, lambda values: values.T),
        ("Concat", {"axis": 1}, lambda values: values),
        ("Flatten", {"axis": 0}, lambda values: values.reshape(1, -1)),
    ],
)
def test_results_of_a_last_layer_are_moved_as_reals(
    operator: str, attributes: dict[str, Any], moved: Any, residual: Any
) -> None:
    net, logits = residual(4)
    model, images = net.qdq(logits), net.images(3)
    expected = IntegerReference(model).run(images)[0]
    result = model.graph.output[0].name
    model.graph.node.append(helper.make_node(operator, [result], ["moved"], name="mover", **attributes))
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("moved"))
    found = IntegerReference(model).run(images)[0]
    np.testing.assert_array_equal(found, moved(expected))
