"""A float model whose types are in the file: what an image passes through becomes float16, images and results stay.

Where TensorRT takes every type from the file (strong typing: 11 always, 10 where it is asked to), a float32 file is a
float32 engine. This writes the types that the builder's flag FP16 would have let it choose. Which operators admit
float16, and in which of their inputs, is asked of ONNX's own operator definitions; Casts stand at the borders.

Constants are rounded to float16. An operator with a constant that float16 cannot hold, or of which nothing but zeros
would be left (a bias excepted), stays in float32, and so does one whose definition knows no float16. Numbers that do
not come from the images, such as sizes computed from a shape, stay in float32 too: they would be wrong from 2,048 on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from limpq_deploy.export.graph.graph_rules import captured_by, subgraphs
from limpq_deploy.export.graph.onnx_files import constants

FLOAT32, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16

HALF_TYPE = "tensor(float16)"
"""As operator definitions spell it."""

BIASES = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
"""Inputs that are only added to a sum of products: numbers too small for float16 are lost in its rounding anyway."""

SHAPE_ONLY = ("Shape", "Size")
"""Operators whose result does not depend on the numbers that they read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfModel:
    """``kept``: operators that read floats of the images and stay in float32, by name, each with the reason."""

    model: onnx.ModelProto
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What an operator takes and gives in float16: indices of its inputs and outputs; none of either where it stays in
    float32, with the reason."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    reason: str | None = None


def in_half(model: onnx.ModelProto) -> HalfModel:
    """A copy of a float model that computes in float16 wherever its operators can. Inputs and results keep their
    types, operators and constants their names."""
    plan = _Plan(model)
    return HalfModel(model=_Writer(model, plan).written(), kept=plan.kept)


class _Plan:
    """Decides for each node, in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.versions = {entry.domain: entry.version for entry in model.opset_import}
        self.types = _types(model)
        self.numbers = {
            name: value.astype(np.float32)
            for name, value in constants(graph).items()
            if self.types.get(name) == FLOAT32
        }
        self.captured = {name for node in graph.node for name in captured_by(node)}
        self.kept: dict[str, str] = {}
        self.readings: list[_Reading] = []
        fixed = {tensor.name for tensor in graph.initializer}
        images = {entry.name for entry in graph.input} - fixed
        for node in graph.node:
            reads = {name for name in (*node.input, *captured_by(node)) if name in images}
            if reads and node.op_type not in SHAPE_ONLY:
                images.update(filter(None, node.output))
            floats = any(self.types.get(name, FLOAT32) == FLOAT32 for name in reads)
            reading = self._reading(node) if floats else _Reading()
            if reading.reason is not None:
                self.kept[node.name or node.output[0]] = reading.reason
            self.readings.append(reading)

    def _reading(self, node: onnx.NodeProto) -> _Reading:
        if any(subgraphs(node)):
            return _Reading(reason=f"{node.op_type} holds a graph of its own")
        if not self.captured.isdisjoint(node.output):
            return _Reading(reason="a graph inside another operator reads its result")
        try:
            schema = defs.get_schema(node.op_type, self.versions[node.domain], node.domain)
        except defs.SchemaError:
            return _Reading(reason=f"{node.domain}.{node.op_type} is no operator of ONNX")
        for name in filter(None, node.input):
            if name not in self.types:
                return _Reading(reason=f"the type of {name} is not known")
        variables, inputs = self._admitted(node, schema)
        if not inputs:
            return _Reading(reason=f"{node.op_type} knows no float16")
        made = [index for index, name in enumerate(node.output) if self.types.get(name) == FLOAT32]
        outputs = {index for index in made if _formal(schema.outputs, index).type_str in variables}
        if len(outputs) < len(made) and node.op_type != "Cast":  # what a Cast gives stands in its attribute
            return _Reading(reason=f"{node.op_type} gives float32 whatever it reads")
        for index in inputs:
            lost = self._lost(node.input[index], added=BIASES.get(node.op_type) == index)
            if lost is not None:
                return _Reading(reason=lost)
        return _Reading(inputs=frozenset(inputs), outputs=frozenset(outputs))

    def _admitted(self, node: onnx.NodeProto, schema: defs.OpSchema) -> tuple[set[str], list[int]]:
        """Type variables that float16 may stand for here, and the inputs that carry them."""
        carried: dict[str, list[int]] = {}
        barred = set()
        for index, name in enumerate(node.input):
            formal = _formal(schema.inputs, index)
            if not name:
                continue
            if self.types.get(name) == FLOAT32 and HALF_TYPE in formal.types and formal.is_homogeneous:
                carried.setdefault(formal.type_str, []).append(index)
            else:
                barred.add(formal.type_str)  # a variable stands for one type, and here for another one
        admitted = {name: indices for name, indices in carried.items() if name not in barred}
        return set(admitted), [index for indices in admitted.values() for index in indices]

    def _lost(self, name: str, *, added: bool) -> str | None:
        """What float16 would make of a constant that it cannot hold. ``added``: it is a bias."""
        number = self.numbers.get(name)
        if number is None:
            return None
        half = _rounded(number)
        finite = number[np.isfinite(number)]
        if not np.isfinite(half[np.isfinite(number)]).all():
            return f"{name} holds {finite[np.abs(finite).argmax()]:g}, beyond float16"
        if number.any() and not half.any() and not added:
            return f"{name} holds at most {np.abs(number).max():g}, which float16 would make 0"
        return None


@dataclass(slots=True)
class _Names:
    """Names under which a tensor is there as float32 and as float16."""

    float: dict[str, str] = field(default_factory=dict)
    half: dict[str, str] = field(default_factory=dict)


class _Writer:
    """Writes what was planned."""

    def __init__(self, model: onnx.ModelProto, plan: _Plan) -> None:
        self.model, self.plan = model, plan
        graph = model.graph
        self.nodes: list[onnx.NodeProto] = []
        self.added: list[onnx.TensorProto] = []
        self.names = _Names()
        self.taken = {*plan.types, *(name for node in graph.node for name in node.output)}
        self.ends = {entry.name for entry in (*graph.input, *graph.output)}
        self.in_float = self.ends | plan.captured  # numbers that are asked for as float32
        self.in_half: set[str] = set()
        for node, reading in zip(graph.node, plan.readings, strict=True):
            for index, name in enumerate(node.input):
                (self.in_half if index in reading.inputs else self.in_float).add(name)

    def written(self) -> onnx.ModelProto:
        for node, reading in zip(self.model.graph.node, self.plan.readings, strict=True):
            if node.op_type != "Constant" or not self._only_half(node.output[0]):
                self._node(node, reading)
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        graph = made.graph
        kept = [tensor for tensor in graph.initializer if not self._only_half(tensor.name)]
        for field_, entries in (("node", self.nodes), ("initializer", [*kept, *self.added])):
            graph.ClearField(field_)
            getattr(graph, field_).extend(entries)
        halves = set(self.names.half.values())
        for entry in graph.value_info:
            if entry.name in halves:
                entry.type.tensor_type.elem_type = FLOAT16
        return made

    def _node(self, node: onnx.NodeProto, reading: _Reading) -> None:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name:
                copied.input[index] = self._half(name) if index in reading.inputs else self._float(name)
        self.nodes.append(copied)
        for index in sorted(reading.outputs):
            name = node.output[index]
            self.names.half[name] = copied.output[index] = self._fresh(f"{name}.half") if name in self.ends else name
            if name in self.ends:
                self._cast(copied.output[index], name, FLOAT32)

    def _half(self, name: str) -> str:
        if name not in self.names.half:
            if name in self.plan.numbers:
                result = name if self._only_half(name) else self._fresh(f"{name}.half")
                self.added.append(numpy_helper.from_array(_rounded(self.plan.numbers[name]), result))
            else:
                result = self._fresh(f"{name}.half")
                self._cast(name, result, FLOAT16)
            self.names.half[name] = result
        return self.names.half[name]

    def _float(self, name: str) -> str:
        """The float32 tensor: the tensor itself, unless it was made in float16."""
        if self.names.half.get(name) != name:
            return name
        if name not in self.names.float:
            self.names.float[name] = self._fresh(f"{name}.float")
            self._cast(name, self.names.float[name], FLOAT32)
        return self.names.float[name]

    def _only_half(self, name: str) -> bool:
        """Whether a constant is read in float16 alone, so that it can keep its name."""
        return name in self.plan.numbers and name in self.in_half and name not in self.in_float

    def _cast(self, source: str, result: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [result], name=f"{result}_cast", to=kind))

    def _fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _formal(parameters: Sequence[defs.OpSchema.FormalParameter], index: int) -> defs.OpSchema.FormalParameter:
    """The definition of an input or output; the last one of some operators stands for any number."""
    return parameters[min(index, len(parameters) - 1)]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors of which they are known."""
    graph = shape_inference.infer_shapes(model).graph
    entries: Iterator[onnx.ValueInfoProto] = (
        entry for entries in (graph.value_info, graph.input, graph.output) for entry in entries
    )
    known = {entry.name: entry.type.tensor_type.elem_type for entry in entries if entry.type.HasField("tensor_type")}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _rounded(number: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half: NDArray[np.float16] = number.astype(np.float16)
    return half
