"""Parts of a file that a runtime executes alone: what lies between codes and has no integers to refer to.

An island is a largest part of the graph, without a QuantizeLinear inside, that begins with an operator computed in
floats. It is handed to the runtime as a model of its own, on the reals of the reference's codes, and what it gives is
quantized by the reference. An operator on codes for which the reference has no arithmetic is an island too: with the
pairs around it, from codes to codes, so that the runtime executes it in integers again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.code_grids import code_grids
from limpq_deploy.export.graph.graph_rules import named
from limpq_deploy.export.graph.onnx_files import attribute, constants

Array = NDArray[Any]
Kinds = Mapping[str, str]
OtherForm = tuple[tuple[onnx.NodeProto, ...], tuple[onnx.TensorProto, ...]]
"""Nodes that make a tensor, the last one with it as its output, and their initializers."""

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
Execute = Callable[[onnx.ModelProto, Mapping[str, Array], Kinds], dict[str, Array]]
"""Runs a model on its inputs by name and gives its outputs by name; the operators that its nodes are to become."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """How a runtime executes a file's operators, by node name. ``integers``: on codes; ``to_reals``: those of them that
    give reals, not codes; ``unsigned``: those that give uint8, whatever the file says; ``constants``: inputs
    that it keeps in another form, by node and number of the input; ``kinds``: the operator that each node became."""

    integers: frozenset[str]
    to_reals: frozenset[str]
    unsigned: frozenset[str]
    constants: Mapping[tuple[str, int], OtherForm]
    kinds: Mapping[str, str]


AS_WRITTEN = Executed(integers=frozenset(), to_reals=frozenset(), unsigned=frozenset(), constants={}, kinds={})
"""Of a file whose islands are known from its metadata."""


class Sessions:
    """Executes models of islands, each opened once for each shape of its inputs. ``open_model``: from a model and what
    its operators are to become to a function from inputs to outputs by name."""

    def __init__(self, open_model: Callable[[onnx.ModelProto, Kinds], Run]) -> None:
        self._open_model = open_model
        self._open: dict[tuple[Any, ...], Run] = {}

    def __call__(self, model: onnx.ModelProto, values: Mapping[str, Array], kinds: Kinds) -> dict[str, Array]:
        shapes = tuple((name, array.shape) for name, array in values.items())
        key = (tuple(output.name for output in model.graph.output), shapes)
        if key not in self._open:
            self._open[key] = self._open_model(model, kinds)
        return self._open[key](values)


@dataclass(slots=True, kw_only=True)
class Island:
    """``nodes`` in order; ``inputs`` and ``outputs``: tensors that cross its shore, ``codes``: of QuantizeLinear nodes
    that read it or belong to it. ``name`` and ``operators``: of what computes in it, for people."""

    model: onnx.ModelProto
    execute: Execute
    nodes: tuple[onnx.NodeProto, ...]
    name: str
    operators: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    codes: tuple[str, ...]
    executed: Executed

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        kinds = {node.name: self.executed.kinds[node.name] for node in self.nodes if node.name in self.executed.kinds}
        return self.execute(self._alone(values), values, kinds)

    def _alone(self, values: Mapping[str, Array]) -> onnx.ModelProto:
        nodes: list[onnx.NodeProto] = []
        initializers = {tensor.name: tensor for tensor in self.model.graph.initializer}
        used: dict[str, onnx.TensorProto] = {}
        for node in self.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for place in range(len(node.input)):
                makers, tensors = self.executed.constants.get((node.name, place), ((), ()))
                if makers:
                    nodes += makers
                    used |= {tensor.name: tensor for tensor in tensors}
                    copy.input[place] = makers[-1].output[0]
            nodes.append(copy)
        for name in (name for node in nodes for name in node.input):
            if name in initializers:
                used.setdefault(name, initializers[name])
        graph = helper.make_graph(
            nodes,
            "island",
            [_value(name, array) for name, array in values.items()],
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            list(used.values()),
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)


def divided(
    model: onnx.ModelProto,
    ruled: Collection[str],
    executed: Executed,
    anywhere: Collection[str],
    execute: Execute,
) -> tuple[list[onnx.NodeProto | Island], list[Island]]:
    """The graph as steps in an order of execution: nodes for the reference, and islands; and the islands alone.

    ``ruled``: names of nodes that the reference computes; ``anywhere``: operators that it may execute wherever they
    stand. Nodes of constants alone belong to no step.
    """
    graph = _Graph(model)
    group = {index: index for index in range(len(graph.nodes))}

    def join(first: int, second: int) -> None:
        low, high = sorted((_root(group, first), _root(group, second)))
        group[high] = low

    afloat, on_codes = set(), set()
    for index, node in enumerate(graph.nodes):
        if index in graph.constant or node.op_type in QUANTIZERS or node.name in ruled:
            continue
        sources = [graph.maker[name] for name in node.input if name in graph.maker]
        free = node.op_type in anywhere and _chooses(node)
        integers = not free and node.name in executed.integers and len(node.output) == 1
        if integers and node.input[0] not in graph.codes:
            on_codes.add(index)
        elif not free or any(source in afloat for source in sources):
            afloat.add(index)
            for source in sources:
                if source in afloat and graph.level[source] == graph.level[index]:
                    join(source, index)
    for index in on_codes:
        for other in graph.around(index, anywhere):
            join(index, other)
    members: dict[int, list[int]] = {}
    for index in range(len(graph.nodes)):
        if index not in graph.constant:
            members.setdefault(_root(group, index), []).append(index)
    islands = {
        root: graph.island([graph.nodes[index] for index in inside], anywhere, executed, execute)
        for root, inside in members.items()
        if len(inside) > 1 or inside[0] in afloat or inside[0] in on_codes
    }
    order = TopologicalSorter(
        {
            root: {
                _root(group, graph.maker[name])
                for index in inside
                for name in graph.nodes[index].input
                if name in graph.maker and graph.maker[name] not in graph.constant
            }
            - {root}
            for root, inside in members.items()
        }
    )
    try:
        steps = [islands.get(root) or graph.nodes[root] for root in order.static_order()]
    except CycleError as error:
        named_first = graph.nodes[min(error.args[1])].name
        raise ModelError(
            f"the float operators around node {named_first!r} read codes that one of them gives, which cannot be "
            "compared apart; compare the build's folder instead of the file"
        ) from error
    return steps, [step for step in steps if isinstance(step, Island)]


def _chooses(node: onnx.NodeProto) -> bool:
    """Of an operator that may choose values: whether this one does nothing else, such as weigh them or tell where they
    stood."""
    if node.op_type == "Resize":
        return str(attribute(node, "mode", "nearest")) == "nearest" and len(node.input) == 3
    return node.op_type != "MaxPool" or len(node.output) == 1


QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


class _Graph:
    """What is asked about a graph's nodes, by their place in it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, list(model.graph.node)
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(index)
        self.fixed = set(constants(model.graph))
        self.codes = code_grids(model)
        self.constant: set[int] = set()
        self.level: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            sources = [self.maker[name] for name in node.input if name in self.maker]
            known = [name in self.fixed or self.maker.get(name) in self.constant for name in node.input if name]
            if all(known):
                self.constant.add(index)
            before = max((self.level[source] for source in sources), default=0)
            self.level[index] = before + (node.op_type == "QuantizeLinear")

    def around(self, index: int, anywhere: Collection[str]) -> list[int]:
        """What lies between an operator and the pairs around it, and the pairs: a DequantizeLinear that it alone
        reads, the QuantizeLinear nodes behind."""
        found, ahead = [], [reader for name in self.nodes[index].output for reader in self.readers.get(name, [])]
        while ahead:
            one = ahead.pop()
            found.append(one)
            if self.nodes[one].op_type not in anywhere or self.nodes[one].op_type == "DequantizeLinear":
                raise ModelError(
                    f"{named(self.nodes[index])} is executed on codes without a QuantizeLinear behind; parity has no "
                    "form for that"
                )
            if self.nodes[one].op_type != "QuantizeLinear":
                ahead += [reader for name in self.nodes[one].output for reader in self.readers.get(name, [])]
        before = [self.maker[name] for name in self.nodes[index].input if name in self.maker]
        while before:
            one = before.pop()
            alone = all(len(self.readers[name]) == 1 for name in self.nodes[one].output)
            if one in self.constant or not alone or self.nodes[one].op_type not in anywhere:
                continue
            found.append(one)
            if self.nodes[one].op_type != "DequantizeLinear":
                before += [self.maker[name] for name in self.nodes[one].input if name in self.maker]
        return found

    def island(
        self, nodes: Sequence[onnx.NodeProto], anywhere: Collection[str], executed: Executed, execute: Execute
    ) -> Island:
        inside = {name for node in nodes for name in node.output}
        closure = self._constants_of(nodes)
        made = inside | {name for node in closure for name in node.output}
        crossing = (name for node in nodes for name in node.input if name and name not in made | self.fixed)
        results = {value.name for value in self.model.graph.output}
        names = {node.name for node in nodes}
        outputs = [
            name
            for node in nodes
            for name in node.output
            if name in results or any(self.nodes[one].name not in names for one in self.readers.get(name, []))
        ]
        readers = [self.nodes[one] for name in outputs for one in self.readers.get(name, [])]
        quantizers = [node for node in (*nodes, *readers) if node.op_type == "QuantizeLinear"]
        computing = [node for node in nodes if node.op_type not in anywhere] or list(nodes)
        return Island(
            model=self.model,
            execute=execute,
            executed=executed,
            nodes=(*closure, *nodes),
            name=computing[0].name,
            operators=tuple(node.op_type for node in computing),
            inputs=tuple(dict.fromkeys(crossing)),
            outputs=tuple(outputs),
            codes=tuple(dict.fromkeys(node.output[0] for node in quantizers)),
        )

    def _constants_of(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Nodes of constants that these read, directly or not, in order."""
        wanted, found = [name for node in nodes for name in node.input], set()
        while wanted:
            index = self.maker.get(wanted.pop())
            if index is not None and index in self.constant and index not in found:
                found.add(index)
                wanted += self.nodes[index].input
        return [self.nodes[index] for index in sorted(found)]


def last_uses(steps: Sequence[onnx.NodeProto | Island]) -> dict[int, list[str]]:
    """Tensors that nothing reads behind a step, by its place."""
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in step.inputs if isinstance(step, Island) else step.input:
            last[name] = index
    uses: dict[int, list[str]] = {}
    for name, index in last.items():
        uses.setdefault(index, []).append(name)
    return uses


def _root(group: dict[int, int], index: int) -> int:
    while group[index] != index:
        group[index] = group[group[index]]
        index = group[index]
    return index


def _value(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
    assert kind != TensorProto.UNDEFINED
    return helper.make_tensor_value_info(name, kind, array.shape)
