"""A float graph without its weights, and the same graph with other weights of the module that it was exported from.

Exporting takes seconds, and what training changes of a module is what its tensors hold.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class EmptyGraph:
    """``model``: a graph of which the tensors ``open`` hold nothing. ``fixed``: digests of the module's other tensors;
    the exporter computed with them, made one of several that were equal, or left out those that are all zero."""

    model: onnx.ModelProto
    open: frozenset[str]
    fixed: Mapping[str, bytes]


def emptied(model: onnx.ModelProto, state: Tensors) -> EmptyGraph:
    """A copy of the graph without those weights that it has from the module's ``state`` as they are, by their names."""
    held = {tensor.name: tensor.raw_data for tensor in model.graph.initializer if tensor.HasField("raw_data")}
    digests = {name: _digest(array) for name, array in state.items()}
    own = {name for name, array in state.items() if held.get(name) == array.tobytes() and array.any()}
    times, shown = Counter(digests.values()), Counter(digests[name] for name in own)
    open_names = frozenset(name for name in own if times[digests[name]] == shown[digests[name]])
    weights = [tensor for tensor in model.graph.initializer if tensor.name in open_names]
    for tensor in weights:
        tensor.ClearField("raw_data")
    empty = onnx.ModelProto()
    empty.CopyFrom(model)
    for tensor in weights:
        tensor.raw_data = held[tensor.name]
    return EmptyGraph(empty, open_names, {name: one for name, one in digests.items() if name not in open_names})


def refilled(graph: EmptyGraph, state: Tensors) -> onnx.ModelProto | None:
    """The graph with the weights of another ``state`` of the same module; None where that needs another export."""
    fixed = {name: _digest(array) for name, array in state.items() if name not in graph.open}
    if fixed != graph.fixed or not all(name in state and state[name].any() for name in graph.open):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        if tensor.name in graph.open:
            tensor.raw_data = state[tensor.name].tobytes()
    return model


def _digest(array: NDArray[Any]) -> bytes:
    described = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).digest()
