"""Nodes of a Q/DQ file that compute in float by plan, between integers: they have no integer form.

A file names them in its metadata under `FLOAT_NODES`, beside its float layers, so that whoever reads the file knows
which float nodes are planned. They are found on a file that works on codes throughout: an operator of `ON_CODES` does
where all that it reads comes from a DequantizeLinear and all that reads it ends in a QuantizeLinear; a layer always.
"""

import json
from collections.abc import Collection

import onnx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.onnx_files import constants

FLOAT_NODES = "limpq.float_nodes"
"""Metadata key: a JSON list of the nodes that compute in float as planned, besides layers."""

ON_CODES = frozenset(
    (
        *("Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool"),
        *("LeakyRelu", "Sigmoid", "HardSigmoid"),
    )
)
"""Operators that a runtime executes on codes and the integer reference computes, besides layers and movers."""

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply and add as layers do."""

PASSED = frozenset(("Relu", "Clip"))
"""Operators between an operator's result and its quantizer, which the quantizer takes up."""


def planned_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Nodes that a file says compute in float by plan, by name. Raises ModelError where its metadata is damaged."""
    for entry in model.metadata_props:
        if entry.key == FLOAT_NODES:
            try:
                names = json.loads(entry.value)
            except ValueError:
                names = None
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ModelError(f"the model has damaged metadata {FLOAT_NODES}; export it again")
            return tuple(names)
    return ()


def float_nodes(graph: onnx.GraphProto, layers: Collection[str], movers: Collection[str]) -> tuple[str, ...]:
    """Names of the nodes of a graph with quantizers that compute in float, in its order. ``layers``: names of nodes
    that are layers; ``movers``: operators that act on codes as they act on reals."""
    return tuple(_Walk(graph, layers, movers).floats)


def products(graph: onnx.GraphProto, layers: Collection[str]) -> tuple[str, ...]:
    """Names of the nodes that multiply and add as layers do, and are none of ``layers``: what is in float besides,
    where a runtime computes sums, pools and the like in float anyway."""
    return tuple(node.name for node in graph.node if node.op_type in PRODUCTS and node.name not in layers)


class _Walk:
    """``known``: tensors that follow from constants; ``codes``: integers; ``reals``: dequantized codes; ``sums``: what
    is on its way to a quantizer."""

    def __init__(self, graph: onnx.GraphProto, layers: Collection[str], movers: Collection[str]) -> None:
        self.layers, self.movers = layers, movers
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.known = {"", *constants(graph)}
        self.codes: set[str] = set()
        self.reals: set[str] = set()
        self.sums: set[str] = set()
        self.floats: list[str] = []
        for node in graph.node:
            self._visit(node)

    def _visit(self, node: onnx.NodeProto) -> None:
        read = [name for name in node.input if name not in self.known]
        if not read:
            self.known.update(node.output)
        elif node.op_type == "QuantizeLinear" or (
            all(name in self.codes for name in read) and node.op_type in (*self.movers, "Cast", "Clip", "Concat")
        ):
            self.codes.update(node.output)
        elif node.op_type == "DequantizeLinear" or (node.op_type == "Identity" and read[0] in self.reals):
            self.reals.update(node.output)
        elif node.name in self.layers or (self._on_codes(node, read) and self._ends_in_codes(node.output[0])):
            self.sums.update(node.output)
        else:
            self.floats.append(node.name)

    def _on_codes(self, node: onnx.NodeProto, read: list[str]) -> bool:
        if node.op_type in ON_CODES:
            return all(name in self.reals for name in read) and all(name in read for name in node.input)
        return node.op_type in PASSED and read[0] in self.sums

    def _ends_in_codes(self, tensor: str) -> bool:
        readers = self.readers.get(tensor, [])
        return tensor not in self.outputs and all(
            reader.op_type == "QuantizeLinear" or (reader.op_type in PASSED and self._ends_in_codes(reader.output[0]))
            for reader in readers
        )
