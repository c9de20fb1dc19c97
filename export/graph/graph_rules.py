"""What the graph of any ONNX file has to be before it is looked at closer: versions, operators and order are known."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import defs

DOMAINS = ("", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.ml", "trt")
"""Domains of operators that are read. Operators of the standard one are checked by name; a runtime knows its own."""

OLDEST_IR = 3
"""ONNX 1.0; older files were never in use."""


def graph_problem(model: onnx.ModelProto) -> str | None:
    """The first thing that is wrong, as the end of a sentence; None where nothing is.

    The standard domain, which has two names, is renamed to "" on the way, and imports of unknown domains that no node
    uses are dropped: other tools write all domains that they know (onnxruntime's quantization, nine of them).
    """
    if not model.HasField("graph") or not model.graph.node:
        return "it has no graph; fetch or export it again"
    for text in _texts(model):
        if isinstance(text, bytes):  # so protobuf hands out what is not UTF-8
            return f"the name {text[:40]!r} is not UTF-8; it is damaged: fetch or export it again"
    for entry in (*model.opset_import, *_all_nodes(model.graph)):
        if entry.domain == "ai.onnx":
            entry.domain = ""
    _drop_unused_imports(model)
    graph = model.graph
    return _version_problem(model) or _operator_problem(model) or _interface_problem(graph) or _order_problem(graph)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def named(node: onnx.NodeProto) -> str:
    """A node in a sentence."""
    return f"node {node.name or ', '.join(node.output)!r} ({node.op_type})"


def _drop_unused_imports(model: onnx.ModelProto) -> None:
    """Operator sets that no node is of say nothing about a model; onnxruntime's tools import all that it knows."""
    used = {node.domain for node in _all_nodes(model.graph)}
    kept = [entry for entry in model.opset_import if entry.domain in DOMAINS or entry.domain in used]
    if len(kept) < len(model.opset_import) and not model.functions:
        del model.opset_import[:]
        model.opset_import.extend(kept)


def _version_problem(model: onnx.ModelProto) -> str | None:
    if not OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        return f"its IR version is {model.ir_version}; {OLDEST_IR} to {onnx.IR_VERSION} are read: export it again"
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        if entry.domain not in DOMAINS:
            return f"it imports operators of the unknown domain {entry.domain!r}; replace them by standard ones"
        if entry.domain in versions:
            return f"it imports the domain {entry.domain or 'ai.onnx'!r} twice; export it again"
        versions[entry.domain] = entry.version
    newest = defs.onnx_opset_version()
    if "" not in versions:
        return "it names no opset; it is cut off or damaged: export it again"
    if not 1 <= versions[""] <= newest:
        return f"its opset is {versions['']}; 1 to {newest} are known: export it at one of them"
    return None


def _operator_problem(model: onnx.ModelProto) -> str | None:
    if model.functions:
        return f"it defines the function {model.functions[0].name!r}; inline its functions (onnx.inliner)"
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for node in _all_nodes(model.graph):
        if node.domain not in versions:
            return f"{named(node)} is of the domain {node.domain!r}, which the model does not import; export it again"
        if node.domain == "" and not defs.has(node.op_type, versions[""], ""):
            return f"{named(node)} is no operator of opset {versions['']}; replace this operation, or export it again"
        if not any(node.output):
            return f"a {node.op_type or 'node without type'} node has no output; export it again"
    return None


def _interface_problem(graph: onnx.GraphProto) -> str | None:
    constant = {tensor.name for tensor in graph.initializer}
    if not graph.output:
        return "its graph has no output; it is cut off or damaged: export it again"
    if all(value.name in constant for value in graph.input):
        return "its graph has no input; expected a model of images"
    return None


def _order_problem(graph: onnx.GraphProto) -> str | None:
    return _cycle(graph) or _reads_before(graph, set())


def _cycle(graph: onnx.GraphProto) -> str | None:
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        index: {makers[name] for name in _read_by(node) if name in makers} for index, node in enumerate(graph.node)
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        cycle: list[int] = error.args[1]
        around = ", ".join(named(graph.node[index]) for index in cycle[:3])
        return f"its graph has a cycle of {len(cycle) - 1} through {around}; a model runs from inputs to outputs"
    return None


def _reads_before(graph: onnx.GraphProto, outer: set[str]) -> str | None:
    """The first tensor that is read before it is made, made twice, or never made."""
    known = outer | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made: set[str] = set()
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in known:
                return f"{named(node)} reads {name!r}, which nothing makes before it; export the model again"
        for body in subgraphs(node):
            if problem := _reads_before(body, known):
                return problem
        for name in filter(None, node.output):
            if name in made or name in known:
                return f"{named(node)} makes {name!r}, which exists already; export the model again"
            made.add(name)
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            return f"its output {value.name!r} is made by no node; export the model again"
    return None


def captured_by(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node's subgraphs take from outside."""
    for body in subgraphs(node):
        own = {value.name for value in body.input} | {name for inner in body.node for name in inner.output}
        for inner in body.node:
            yield from (name for name in _read_by(inner) if name not in own)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node reads, those that its subgraphs take from outside included."""
    yield from node.input
    yield from captured_by(node)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from _all_nodes(body)


def _texts(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """Every name and text that is used."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    yield from (entry.domain for entry in model.opset_import)
    yield from _graph_texts(model.graph)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield value.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
        for body in subgraphs(node):
            yield from _graph_texts(body)
