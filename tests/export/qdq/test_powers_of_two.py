"""Scales that are powers of two: a file computes the same integers however its sums are added, in both dialects."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.parity import compare_runtime
from limpq_deploy.export.runtimes import runtime_named

ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

BITS = st.integers(2, 8)
NETS = {
    "seed": st.integers(0, 1000),
    "weight_bits": st.tuples(BITS, BITS, BITS),
    "act_bits": st.tuples(BITS, BITS, BITS),
    "signed_stream": st.booleans(),
    "saturating": st.booleans(),
}
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def watching(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with these tensors of codes as outputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    container = onnx.TensorProto.INT8 if model.opset_import[0].version == 17 else onnx.TensorProto.UINT8
    watched.graph.output.extend(helper.make_tensor_value_info(name, container, None) for name in names)
    return watched


def executed(model: onnx.ModelProto, images: NDArray[np.float32], names: list[str]) -> dict[str, NDArray[Any]]:
    """Logits and codes from the graph as written: every sum in float32."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    file = watching(model, names).SerializeToString()
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return dict(zip(["logits", *names], session.run(["logits", *names], {"images": images}), strict=True))


@FEW
@given(**NETS)
def test_integers_and_floats_give_the_same_codes_and_logits(
    residual: Any,
    tmp_path: Path,
    seed: int,
    weight_bits: Any,
    act_bits: Any,
    signed_stream: bool,
    saturating: bool,
) -> None:
    net, logits = residual(seed, weight_bits=weight_bits, act_bits=act_bits, signed_stream=signed_stream, pow2=True)
    model, images = net.qdq(logits), net.images(6, saturating=saturating)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert compare_runtime(path, [images], runtime_named("onnxruntime"), threads=1).exact
    reference = IntegerReference(path)
    expected, codes = reference.run(images, keep=reference.code_tensors)
    found = executed(model, images, list(codes))
    for name, values in codes.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert found["logits"].tobytes() == expected.tobytes()


@FEW
@given(**NETS)
def test_tensorrts_form_gives_the_same_codes_in_whatever_order_it_adds(
    edges: Any, seed: int, weight_bits: Any, act_bits: Any, signed_stream: bool, saturating: bool
) -> None:
    """ONNX Runtime with every optimisation off against ONNX's own evaluator (NumPy)."""
    net, logits = edges(seed, weight_bits=weight_bits, act_bits=act_bits, signed_stream=signed_stream, pow2=True)
    model, images = net.qdq(logits), net.images(6, saturating=saturating)
    names = [f"{name}_codes" for name in net.acts]
    found = executed(model, images, names)
    newer = watching(model, names)
    newer.opset_import[0].version = 19  # the evaluator knows no older DequantizeLinear; the graph is the same
    other: Any = ReferenceEvaluator(newer).run(["logits", *names], {"images": images})
    for name, values in zip(names, other[1:], strict=True):
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert found["logits"].tobytes() == np.asarray(other[0], np.float32).tobytes()


def test_every_scale_in_the_file_is_a_power_of_two(residual: Any) -> None:
    net, logits = residual(1, pow2=True)
    scales = [
        numpy_helper.to_array(tensor) for tensor in net.qdq(logits).graph.initializer if tensor.name.endswith("_scale")
    ]
    assert len(scales) > 15
    assert all((np.frexp(scale)[0] == 0.5).all() for scale in scales)
