"""A graph as the rules look at it: who makes and reads each tensor, what is constant, and float types."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from limpq_deploy.export.graph.onnx_files import attribute, constants

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FP8_QUANTIZE, FP8_DEQUANTIZE = "TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear"
"""ModelOpt's own, of the domain trt, for operator sets without FP8 types."""

FOLDED_NUMBERS = 4096
"""Largest constant that is computed here: scales and zero-points, never weights."""

FOLDED_NODES = 32

_NAMED = {"tensor(int64)": int(TensorProto.INT64), "tensor(float)": int(TensorProto.FLOAT)}


class LintGraph:
    """``fixed``: initializers and Constant nodes. ``types``: element type of each tensor as far as it is known; that of
    a DequantizeLinear's result is its scale's."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: Sequence[onnx.NodeProto] = model.graph.node
        self.fixed: Mapping[str, NDArray[Any]] = constants(model.graph)
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = frozenset(value.name for value in model.graph.output)
        self.types: dict[str, int] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        for value in model.graph.input:
            self.types.setdefault(value.name, value.type.tensor_type.elem_type)
        self._opset = max((entry.version for entry in model.opset_import if entry.domain == ""), default=1)
        self._known = set(self.fixed)
        self._folded: dict[str, NDArray[Any] | None] = {}
        for node in self.nodes:
            if node.op_type != "Constant" and node.input and all(name in self._known for name in node.input if name):
                self._known.update(node.output)
            self._type_results(node)
        self.quantized = any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in self.nodes)

    def maker(self, tensor: str, op: str | None = None) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for another operator than ``op``, and for inputs and constants."""
        node = self.producers.get(tensor)
        return node if node is not None and op in (None, node.op_type) else None

    def from_constants(self, tensor: str) -> bool:
        """Whether a tensor is the same for every input."""
        return tensor in self._known

    def value(self, tensor: str) -> NDArray[Any] | None:
        """A constant, or a small tensor that is computed from constants; None for others."""
        if tensor in self.fixed:
            return self.fixed[tensor]
        if tensor not in self._folded:
            self._folded[tensor] = self._fold(tensor) if self.from_constants(tensor) else None
        return self._folded[tensor]

    def given(self, node: onnx.NodeProto, index: int) -> str:
        """An input's name; "" where it is left out."""
        return node.input[index] if len(node.input) > index else ""

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Shape of a constant, or of what is made of one by quantizing and moving it."""
        if tensor in self.fixed:
            return tuple(self.fixed[tensor].shape)
        node = self.producers.get(tensor)
        if node is None or not self.from_constants(tensor):
            return None
        inner = self.shape(node.input[0])
        if inner is None:
            return None
        if node.op_type == "Transpose":
            order = attribute(node, "perm", list(range(len(inner)))[::-1])
            return tuple(inner[axis] for axis in order)
        if node.op_type == "Reshape" and (wanted := self.value(node.input[1])) is not None:
            return tuple(np.empty(inner, np.bool_).reshape(_resolved(wanted, inner)).shape)
        if node.op_type == "Unsqueeze":
            axes = self._axes(node)
            return None if axes is None else tuple(np.expand_dims(np.empty(inner, np.bool_), axes).shape)
        return None if node.op_type in ("Squeeze", "Flatten", "Reshape") else inner

    def _axes(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        """Axes of an Unsqueeze: an attribute before opset 13, an input from there on."""
        axes = self.value(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
        return None if axes is None else tuple(int(axis) for axis in axes)

    def _fold(self, tensor: str) -> NDArray[Any] | None:
        from onnx.reference import ReferenceEvaluator  # slow to import, and seldom needed

        makes: set[str] = set()
        wanted = [tensor]
        while wanted:
            node = self.producers.get(wanted.pop())
            if node is None or node.op_type == "Constant" or node.output[0] in makes:
                continue
            makes.add(node.output[0])
            wanted += [name for name in node.input if name]
            sizes = (self.fixed[name].size for name in node.input if name in self.fixed)
            if len(makes) > FOLDED_NODES or any(size > FOLDED_NUMBERS for size in sizes):
                return None
        ordered = [node for node in self.nodes if node.output[0] in makes]
        used = {name for node in ordered for name in node.input if name in self.fixed}
        graph = helper.make_graph(
            ordered,
            "constant",
            [],
            [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(self.fixed[name], name) for name in sorted(used)],
        )
        imports = [helper.make_opsetid("", self._opset)]
        try:
            results: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports)).run(None, {})
            return np.asarray(results[0])
        except Exception:  # whatever an operator's reference raises: the constant is not known
            return None

    def _type_results(self, node: onnx.NodeProto) -> None:
        for name, kind in zip(node.output, _result_types(node, self.types, self._opset), strict=False):
            if kind is not None and name:
                self.types.setdefault(name, kind)


def _result_types(node: onnx.NodeProto, types: Mapping[str, int], opset: int) -> Sequence[int | None]:
    """Element types of a node's results, as far as they follow from its inputs."""
    known = [types.get(name) for name in node.input]
    if node.op_type == QUANTIZE:
        said = attribute(node, "output_dtype", 0)
        return [known[2] if len(known) > 2 and node.input[2] else int(said or TensorProto.UINT8)]
    if node.op_type == FP8_QUANTIZE:
        return [int(TensorProto.FLOAT8E4M3FN)]
    if node.op_type in (DEQUANTIZE, FP8_DEQUANTIZE):
        return [known[1]]
    if node.op_type == "Cast":
        return [int(attribute(node, "to", 0))]
    if node.op_type == "Constant":
        value = helper.get_attribute_value(node.attribute[0]) if node.attribute else None
        return [value.data_type if isinstance(value, TensorProto) else None]
    return _by_schema(node, known, opset)


def _by_schema(node: onnx.NodeProto, known: Sequence[int | None], opset: int) -> Sequence[int | None]:
    """Types that an operator's definition ties to those of its inputs."""
    if not defs.has(node.op_type, opset, ""):
        return []
    schema = defs.get_schema(node.op_type, opset, "")
    bound: dict[str, int | None] = {}
    for at, kind in enumerate(known):
        given = schema.inputs[min(at, len(schema.inputs) - 1)]
        if given.is_homogeneous:
            bound[given.type_str] = bound.get(given.type_str) or kind
    for constraint in schema.type_constraints:
        if len(constraint.allowed_type_strs) == 1:
            bound.setdefault(constraint.type_param_str, _NAMED.get(constraint.allowed_type_strs[0]))
    results = [schema.outputs[min(at, len(schema.outputs) - 1)] for at in range(len(node.output))]
    return [_NAMED.get(one.type_str) or (bound.get(one.type_str) if one.is_homogeneous else None) for one in results]


def _resolved(wanted: NDArray[Any], inner: tuple[int, ...]) -> tuple[int, ...]:
    """A Reshape's sizes, with those that are copied (0) filled in."""
    return tuple(int(inner[at]) if size == 0 and at < len(inner) else int(size) for at, size in enumerate(wanted))


def name_of(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
