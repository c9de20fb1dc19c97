"""Tables, products and concatenations of the integer reference, against ONNX Runtime's kernels on all codes."""

import platform
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.export.reference.elementwise import TABLES, sigmoid_values
from limpq_deploy.export.reference.operators import Codes, add_table, all_values, product_table, quantize, requantize

ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

CODES = np.arange(256, dtype=np.uint8)
U8 = np.dtype(np.uint8)


def run(op: str, inputs: dict[str, NDArray[Any]], domain: str, **attributes: Any) -> NDArray[Any]:
    """One operator as ONNX Runtime computes it; a 0-d input is an initializer."""
    node = helper.make_node(op, list(inputs), ["y"], domain=domain, **attributes)
    fixed = [numpy_helper.from_array(value, name) for name, value in inputs.items() if value.ndim == 0]
    fed = {name: value for name, value in inputs.items() if value.ndim}
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in fed.items()
    ]
    first = next(iter(inputs.values())).dtype
    kind = helper.np_dtype_to_tensor_dtype(first) if domain else TensorProto.FLOAT
    graph = helper.make_graph([node], "one", values, [helper.make_tensor_value_info("y", kind, None)], fixed)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(None, fed)[0]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_sigmoid_of_codes_is_the_runtimes(seed: int) -> None:
    random = np.random.default_rng(seed)
    scale, out = np.float32(2.0 ** random.uniform(-9, -1)), np.float32(random.uniform(0.5, 1.5) / 255)
    zero = int(random.choice([0, 16, 128]))
    inputs: dict[str, NDArray[Any]] = {"x": CODES, "sx": np.array(scale), "zx": np.array(zero, np.uint8)}
    inputs |= {"sy": np.array(out), "zy": np.array(0, np.uint8)}
    expected = run("QLinearSigmoid", inputs, "com.microsoft")
    values = TABLES["Sigmoid"](onnx.NodeProto(), all_values(scale, zero, U8))
    np.testing.assert_array_equal(quantize(values, out, 0, U8), expected)


def test_the_hard_sigmoid_is_the_runtimes_bit_by_bit() -> None:
    values = np.random.default_rng(0).uniform(-4, 4, 10_000).astype(np.float32)
    alpha = float(np.float32(1 / 6))
    expected = run("HardSigmoid", {"x": values}, "", alpha=alpha, beta=0.5)
    node = helper.make_node("HardSigmoid", ["x"], ["y"], alpha=alpha, beta=0.5)
    assert TABLES["HardSigmoid"](node, values).tobytes() == expected.tobytes()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="Arm adds in fixed point")
@pytest.mark.parametrize("seed", [*range(6), 23, 26, 110, 124, 154, 272, 340])
def test_every_sum_of_codes_is_the_runtimes(seed: int) -> None:
    """Two zero-points tell apart how their part is rounded: from seed 23 on, another rounding changes codes."""
    random = np.random.default_rng(seed)
    scales = [np.float32(random.uniform(0.005, 0.1)) for _ in range(3)]
    dtype = (np.dtype(np.uint8), np.dtype(np.int8))[seed % 2]
    zeros = [int(random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max)) for _ in range(3)]
    inputs: dict[str, NDArray[Any]] = {"a": np.repeat(CODES, 256).reshape(256, 256).view(dtype)}
    inputs |= {"sa": np.array(scales[0]), "za": np.array(zeros[0], dtype)}
    inputs |= {"b": np.tile(CODES, 256).reshape(256, 256).view(dtype)}
    inputs |= {"sb": np.array(scales[1]), "zb": np.array(zeros[1], dtype)}
    inputs |= {"sc": np.array(scales[2]), "zc": np.array(zeros[2], dtype)}
    expected = run("QLinearAdd", inputs, "com.microsoft")
    first, second, out = [(scale, zero, dtype) for scale, zero in zip(scales, zeros, strict=True)]
    np.testing.assert_array_equal(add_table(first, second, out), expected)


def test_the_sigmoid_is_the_runtimes_bit_by_bit() -> None:
    """A rational function, each of whose multiply-adds is rounded once."""
    values = np.random.default_rng(0).uniform(-16, 16, 50_000).astype(np.float32)
    assert sigmoid_values(values).tobytes() == run("Sigmoid", {"x": values}, "").tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_every_product_of_codes_is_the_runtimes(seed: int) -> None:
    random = np.random.default_rng(seed)
    if seed % 2:  # ties in plenty
        scales = [np.float32(2.0 ** -int(random.integers(3, 9))) for _ in range(3)]
    else:
        scales = [np.float32(2.0 ** random.uniform(-9, -3)) for _ in range(3)]
    scales[2] = np.float32(max(scales[2], 8 * scales[0] * scales[1]))
    zeros = [int(random.choice([0, 16, 128])) for _ in range(3)]
    inputs: dict[str, NDArray[Any]] = {"a": np.repeat(CODES, 256).reshape(256, 256), "sa": np.array(scales[0])}
    inputs |= {"za": np.array(zeros[0], np.uint8), "b": np.tile(CODES, 256).reshape(256, 256)}
    inputs |= {"sb": np.array(scales[1]), "zb": np.array(zeros[1], np.uint8)}
    inputs |= {"sc": np.array(scales[2]), "zc": np.array(zeros[2], np.uint8)}
    expected = run("QLinearMul", inputs, "com.microsoft")
    first, second, out = [(scale, zero, U8) for scale, zero in zip(scales, zeros, strict=True)]
    np.testing.assert_array_equal(product_table(first, second, out), expected)


def told_apart(count: int) -> tuple[NDArray[np.int32], NDArray[np.float32], np.float32]:
    """Accumulators and scales whose codes depend on it that scales are divided, in one operation: accumulator times
    ``scale / out`` and accumulator times ``scale * (1 / out)`` lie on two sides of a tie."""
    random = np.random.default_rng(0)
    out = np.float32(0.0437)
    accumulators: list[int] = []
    scales: list[np.float32] = []
    while len(accumulators) < count:
        scale = (2.0 ** random.uniform(-22, -20, 10_000)).astype(np.float32)
        divided, multiplied = scale / out, scale * (np.float32(1) / out)
        accumulator = np.rint((random.integers(0, 255, 10_000) + 0.5) / divided.astype(np.float64)).astype(np.int32)
        floats = accumulator.astype(np.float32)
        differ = np.flatnonzero(np.rint(floats * divided) != np.rint(floats * multiplied))
        accumulators += accumulator[differ].tolist()
        scales += list(scale[differ])
    return np.array(accumulators[:count], np.int32), np.array(scales[:count], np.float32), out


def test_an_accumulator_becomes_the_code_that_the_runtimes_convolution_gives() -> None:
    """One channel for each accumulator, which is its bias: the input is zero."""
    accumulators, scales, out = told_apart(64)
    fixed: dict[str, NDArray[Any]] = {
        "sx": np.array(1, np.float32),
        "zx": np.array(0, np.uint8),
        "w": np.ones((64, 1, 1, 1), np.int8),
        "sw": scales,
        "zw": np.zeros(64, np.int8),
        "sy": np.array(out),
        "zy": np.array(0, np.uint8),
        "bias": accumulators,
    }
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", ["x", *fixed], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 1, 1, 1))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in fixed.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": np.zeros((1, 1, 1, 1), np.uint8)})[0].reshape(1, 64)
    found = requantize(accumulators[None].astype(np.float64), scales, out, 0, U8, 1)
    np.testing.assert_array_equal(found, expected)


def test_a_value_becomes_the_code_that_the_runtime_gives() -> None:
    """Values beside the ties, where ``x / s`` and ``x * (1 / s)`` give two codes for some."""
    random = np.random.default_rng(0)
    scale = np.float32(0.0437)
    ties = (random.integers(0, 255, 200_000) + 0.5) * scale * (1 + random.uniform(-1.5e-7, 1.5e-7, 200_000))
    values = ties.astype(np.float32)
    divided, multiplied = np.rint(values / scale), np.rint(values * (np.float32(1) / scale))
    values = values[divided != multiplied]
    assert len(values) > 100
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    fixed = [numpy_helper.from_array(np.array(scale), "s"), numpy_helper.from_array(np.array(0, np.uint8), "z")]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)
    graph = helper.make_graph(
        [node], "one", [entry], [helper.make_tensor_value_info("y", TensorProto.UINT8, None)], fixed
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(quantize(values, scale, 0, U8), session.run(None, {"x": values})[0])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other machines add otherwise")
def test_every_sum_of_codes_is_the_runtimes_where_one_rounding_more_would_show() -> None:
    """Of random scales those whose tables change when the inner multiply-add rounds its product first, or when scales
    are multiplied by 1 / sC."""
    random = np.random.default_rng(0)
    seen = {"inner": 0, "ratio": 0}
    while min(seen.values()) < 3:
        scales = [np.float32(2.0 ** random.uniform(-3, 0)) for _ in range(3)]
        scales[1] = np.float32(scales[2] * int(random.integers(1, 16)) / 8)  # many sums next to ties
        scales[0] = np.float32(scales[2] * int(random.integers(1, 16)) / 8)
        scales = [np.float32(scale * (1 + random.uniform(-2e-7, 2e-7))) for scale in scales]
        zeros = [int(random.choice([0, 16, 128])) for _ in range(3)]
        first, second, out = [(scale, zero, U8) for scale, zero in zip(scales, zeros, strict=True)]
        table = add_table(first, second, out)
        others = {"inner": otherwise(scales, zeros, inner=True), "ratio": otherwise(scales, zeros, inner=False)}
        shows = [name for name, other in others.items() if (other != table).any() and seen[name] < 3]
        if not shows:
            continue
        for name in shows:
            seen[name] += 1
        inputs: dict[str, NDArray[Any]] = {"a": np.repeat(CODES, 256).reshape(256, 256), "sa": np.array(scales[0])}
        inputs |= {"za": np.array(zeros[0], np.uint8), "b": np.tile(CODES, 256).reshape(256, 256)}
        inputs |= {"sb": np.array(scales[1]), "zb": np.array(zeros[1], np.uint8)}
        inputs |= {"sc": np.array(scales[2]), "zc": np.array(zeros[2], np.uint8)}
        np.testing.assert_array_equal(table, run("QLinearAdd", inputs, "com.microsoft"))


def otherwise(scales: list[np.float32], zeros: list[int], *, inner: bool) -> Codes:
    """The table of sums with one rounding more: of the inner product, or of 1 / sC."""
    one = np.float32(1)
    ratio_a, ratio_b = (
        np.float32(scale / scales[2]) if inner else np.float32(scale * np.float32(one / scales[2]))
        for scale in scales[:2]
    )
    fix = np.float32(zeros[2]) - np.float32(ratio_a * np.float32(zeros[0]) + ratio_b * np.float32(zeros[1]))
    codes = CODES.astype(np.float32)
    added = codes * ratio_b + fix if inner else (codes.astype(np.float64) * ratio_b + fix).astype(np.float32)
    total = (codes.astype(np.float64)[:, None] * ratio_a + added[None]).astype(np.float32)
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)
