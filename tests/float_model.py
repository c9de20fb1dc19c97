"""A tiny float model, made with ONNX alone."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def float_model(batch: int | str = "batch", epsilon: float = 1.0) -> onnx.ModelProto:
    """A convolution, a sum with a constant, a pool and a Gemm, for images [batch, 3, 16, 16]."""
    random = np.random.default_rng(0)
    numbers = {
        "stem.weight": random.normal(0, 0.2, (8, 3, 3, 3)),
        "stem.bias": random.normal(0, 0.2, 8),
        "epsilon": np.full((1, 8, 1, 1), epsilon),
        "head.weight": random.normal(0, 0.3, (10, 8)),
    }
    nodes = [
        helper.make_node("Conv", ["images", "stem.weight", "stem.bias"], ["a"], "node_stem"),
        helper.make_node("Add", ["a", "epsilon"], ["b"], "node_sum"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "node_pool"),
        helper.make_node("Flatten", ["c"], ["d"], "node_flat"),
        helper.make_node("Gemm", ["d", "head.weight"], ["logits"], "node_head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in numbers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
