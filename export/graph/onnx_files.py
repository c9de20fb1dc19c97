"""Reading nodes and constants of ONNX graphs."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute; strings come as str, lists as list."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Initializers and the outputs of Constant nodes that are numbers, by tensor name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain == "":
            value = helper.get_attribute_value(node.attribute[0])
            is_tensor = isinstance(value, onnx.TensorProto)
            found[node.output[0]] = numpy_helper.to_array(value) if is_tensor else np.asarray(value)
    return {name: value for name, value in found.items() if value.dtype.kind not in "OSU"}


def int4_tensor(name: str, codes: NDArray[np.int8]) -> onnx.TensorProto:
    """An initializer of 4-bit integers, two in a byte, the first in its low half."""
    halves = np.pad(codes.reshape(-1).astype(np.uint8) & 0xF, (0, codes.size % 2))
    packed = (halves[0::2] | (halves[1::2] << 4)).astype(np.uint8)
    return helper.make_tensor(name, onnx.TensorProto.INT4, codes.shape, packed.tobytes(), raw=True)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor's numbers take in a file; those of 4 and 2 bits are packed."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return int(numpy_helper.to_array(tensor).nbytes)
