"""A float graph without its weights, and the same graph with other weights of the module that it was exported from.

Exporting takes seconds, and what training changes of a module is what its tensors hold.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.export.graph.onnx_files import copied_fields

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class EmptyGraph:
    """``model``: a graph of which the tensors ``open`` hold nothing. ``fixed``: digests of the module's other tensors;
    the exporter computed with them, made one of several that were equal, or left out those that are all zero."""

    model: onnx.ModelProto
    open: frozenset[str]
    fixed: Mapping[str, bytes]


def alone_in(program: Any) -> frozenset[str]:
    """Parameters and buffers that an ``ONNXProgram`` of torch reads as often in its graph as in the module, and where
    other inputs are not all constant: none was computed from them, and none that is equal was made one with them."""
    nodes, signature = list(program.exported_program.graph.nodes), program.exported_program.graph_signature
    own: dict[str, str] = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    images, computed = set(signature.user_inputs), set[Any]()
    for node in nodes:
        if node.name in images or computed.intersection(node.all_input_nodes):
            computed.add(node)
    graph = program.model.graph.initializers
    return frozenset(
        own[node.name]
        for node in nodes
        if node.name in own and own[node.name] in graph and computed.issuperset(node.users)
        if len(node.users) == len(graph[own[node.name]].uses())
    )


def emptied(model: onnx.ModelProto, state: Tensors, alone: Collection[str]) -> EmptyGraph:
    """A copy of the graph without those weights that it has from the module's ``state`` as they are, by their names.
    ``alone``: see `alone_in`."""
    digests = {name: _digest(array) for name, array in state.items()}
    own = {tensor.name for tensor in model.graph.initializer if _as_it_is(tensor, state)}.intersection(alone)
    times, shown = Counter(digests.values()), Counter(digests[name] for name in own)
    open_names = frozenset(name for name in own if times[digests[name]] == shown[digests[name]])
    empty = onnx.ModelProto()
    copied_fields(model, empty, without=("graph",))
    copied_fields(model.graph, empty.graph, without=("initializer",))
    for tensor in model.graph.initializer:
        left_out = ("raw_data",) if tensor.name in open_names else ()
        copied_fields(tensor, empty.graph.initializer.add(), without=left_out)
    return EmptyGraph(empty, open_names, {name: one for name, one in digests.items() if name not in open_names})


def refilled(graph: EmptyGraph, state: Tensors) -> onnx.ModelProto | None:
    """The graph with the weights of another ``state`` of the same module; None where that needs another export."""
    fixed = {name: _digest(array) for name, array in state.items() if name not in graph.open}
    if fixed != graph.fixed:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)  # small
    for tensor in model.graph.initializer:
        if tensor.name in graph.open:
            if not _fits(tensor, state) or not state[tensor.name].any():
                return None
            tensor.raw_data = state[tensor.name].tobytes()
    return model


def _as_it_is(tensor: onnx.TensorProto, state: Tensors) -> bool:
    if not _fits(tensor, state):
        return False
    array = state[tensor.name]
    return tensor.raw_data == array.tobytes() and bool(array.any())


def _fits(tensor: onnx.TensorProto, state: Tensors) -> bool:
    array = state.get(tensor.name)
    if array is None or array.shape != tuple(tensor.dims):
        return False
    return bool(array.dtype == helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _digest(array: NDArray[Any]) -> bytes:
    described = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).digest()
