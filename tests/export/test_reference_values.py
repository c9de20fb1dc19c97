"""Tables, products and concatenations of the integer reference, against ONNX Runtime's kernels on all codes."""

import platform
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.export.reference_ops import add_table, all_values, product_table, quantize
from limpq_deploy.export.reference_tables import TABLES

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
