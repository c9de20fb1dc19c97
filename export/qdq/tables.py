"""Functions of codes as tables of 256 entries, written into the file: what was trained is what any machine looks up.

    codes -> Cast(int32) -> Gather(table) -> codes

A table holds ``clamp(round(f(value) / scale) + zero_point)`` for the value of each code; ``f`` is whatever chain of
nodes the template has, evaluated by ONNX's own reference in float32.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

OPERATORS = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "Ceil", "Celu", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu"),
        *("Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual"),
        *("Log", "Max", "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round"),
        *("Selu", "Shrink", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu"),
        "Where",
    )
)
"""Operators on single values."""


def evaluated(
    nodes: Sequence[onnx.NodeProto],
    source: str,
    result: str,
    values: NDArray[np.float32],
    constants: Mapping[str, NDArray[Any]],
    opset: int,
) -> NDArray[np.float32]:
    """What a chain of nodes makes of ``values`` [n]: its tensor ``result``, where ``source`` has them. ``constants``:
    one number each."""
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes),
        "function",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value.reshape(()), name) for name, value in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):
        found: Any = ReferenceEvaluator(model).run(None, {source: values})
    return np.broadcast_to(found[0], values.shape).astype(np.float32)
