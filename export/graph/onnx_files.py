"""Reading nodes and constants of ONNX graphs."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute; strings come as str, lists as list."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


SMALL = 4096
"""Bytes up to which an array is kept once it was asked for."""


class Constants(Mapping[str, NDArray[Any]]):
    """Arrays of tensors, each made when it is asked for: all weights at once would be the model again."""

    def __init__(self, tensors: Mapping[str, onnx.TensorProto], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._tensors, self._arrays = tensors, dict(arrays)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self._arrays:
            return self._arrays[name]
        found: NDArray[Any] = numpy_helper.to_array(self._tensors[name])
        if found.nbytes <= SMALL:
            self._arrays[name] = found
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._arrays

    def __iter__(self) -> Iterator[str]:
        yield from self._tensors
        yield from (name for name in self._arrays if name not in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors.keys() | self._arrays.keys())


def constants(graph: onnx.GraphProto) -> Mapping[str, NDArray[Any]]:
    """Initializers and the outputs of Constant nodes that are numbers, by tensor name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type != onnx.TensorProto.STRING}
    arrays: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain == "":
            value = helper.get_attribute_value(node.attribute[0])
            is_tensor = isinstance(value, onnx.TensorProto)
            array = numpy_helper.to_array(value) if is_tensor else np.asarray(value)
            if array.dtype.kind not in "OSU":
                arrays[node.output[0]] = array
    return Constants(tensors, arrays)


def copied_fields(source: Message, made: Message, *, without: Collection[str]) -> None:
    """Copy the fields of a message into another of its kind, but for those of these names."""
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if hasattr(value, "extend"):
            getattr(made, field.name).extend(value)
        elif isinstance(value, Message):
            getattr(made, field.name).CopyFrom(value)
        else:
            setattr(made, field.name, value)


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
