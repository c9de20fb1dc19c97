"""Onnx's own checker on a model that is in memory, without copies of its weights.

The checker takes a model as bytes, and infers shapes on a copy: three times the weights at once. What it says of nodes
and shapes depends on the types and shapes of large tensors alone.
"""

import onnx
from onnx import helper

from limpq_deploy.export.graph.onnx_files import copied_fields

LARGE = 1024
"""Tensors of more numbers are weights; the checker needs the values of shapes, axes and ends of slices."""


def check(model: onnx.ModelProto) -> None:
    """Check types, shapes and attributes of the whole graph, and what stands beside it. Raises onnx's ValidationError
    or InferenceError."""
    graph = model.graph
    large = [tensor for tensor in graph.initializer if _numbers(tensor) > LARGE]
    for tensor in large:
        onnx.checker.check_tensor(tensor)
    names = {value.name for value in graph.input}
    declared = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large
        if tensor.name not in names
    ]
    light = onnx.ModelProto()
    copied_fields(model, light, without=("graph",))
    copied_fields(graph, light.graph, without=("initializer",))
    light.graph.input.extend(declared)
    light.graph.initializer.extend(tensor for tensor in graph.initializer if _numbers(tensor) <= LARGE)
    onnx.checker.check_model(light, full_check=True)


def _numbers(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
