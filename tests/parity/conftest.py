"""Graphs executed as they are written."""

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

Executed = tuple[NDArray[Any], dict[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def executed() -> Callable[[onnx.ModelProto, NDArray[Any]], Executed]:
    """Logits, and the int8 codes of every quantizer, from the graph as written: (model, images) -> (logits, codes)."""
    ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

    def execute(model: onnx.ModelProto, images: NDArray[Any]) -> Executed:
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        values = (helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None) for name in names)
        watched.graph.output.extend(values)
        casts = [node for node in model.graph.node if node.op_type == "Cast"]  # left out, were both ends not results
        ends = {name for node in casts for name in (node.input[0], node.output[0])} - {"images", "logits"}
        watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(ends))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        logits, *codes = session.run(["logits", *names], {"images": images})
        return logits, dict(zip(names, codes, strict=True))

    return execute
