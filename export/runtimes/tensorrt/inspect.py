"""A TensorRT engine's inspector, read: which layer runs in which precision, by which kernel, made of which operators.

The inspector writes JSON, and not the same in all versions (from NVIDIA's documentation, "Engine Inspector"):

- 8.6 and 10: ``{"Layers": [...], "Bindings": [...]}``; a tensor's ``"Format/Datatype"`` is "Row major FP16";
- 11: ``"I/O Tensors"`` for ``"Bindings"``, and ``"Format"`` and ``"Datatype"`` apart.

With less than detailed verbosity a layer is only its name, a string. Operators of the file stand in ``"Metadata"`` as
``[ONNX Layer: NAME]``, one for each, between them the control characters 0x1E or 0x1F, which 8.6 writes as they are
(NVIDIA/TensorRT#2779); without it they are taken from the layer's name, ``a + b + c``.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.records.engine_record import EngineLayer
from limpq_deploy.export.runtimes.tensorrt.precision import UNKNOWN, computes, precision_of, tensor_types, weight_type

NO_WORK = ("noop", "signal", "wait", "shape_call")
"""Kinds of layers that launch nothing, not even a copy: they are nothing, order streams, or compute shapes on the
host."""

_PARTS = re.compile(r"[\x1e\x1f]")
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\s+,;]*(?:\[|$))")
_REFORMAT_NAME = re.compile(r"^reformatting copynode|^reformat(ted)? ", re.I)
_FUSED_NAMES = re.compile(r" \+ |\|\||, ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What an engine's inspector said. ``text``: as it came; ``layers``: what was read of it; ``problem``: why nothing
    could be, in one sentence, None where it could."""

    text: str
    layers: tuple[EngineLayer, ...] = ()
    problem: str | None = None


def read_inspector(text: str) -> Inspection:
    """As `parse_inspector`, for whom an answer in an unknown form must cost no engine: it raises nothing."""
    try:
        return Inspection(text=text, layers=parse_inspector(text))
    except RecordError as error:
        return Inspection(text=text, problem=str(error))


def parse_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Layers of an engine in execution order, from ``EngineInspector.get_engine_information`` as JSON. Names that stand
    there more than once are told apart (`told_apart`).

    Raises RecordError for text of another form.
    """
    try:
        document = json.loads(text, strict=False)  # control characters stand there as they are
    except ValueError as error:
        raise RecordError(
            f"the engine inspector's answer is not valid JSON ({error}); report it with the log"
        ) from error
    entries = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise RecordError("the engine inspector's answer has no list 'Layers'; this version writes it in another form")
    return engine_layers(entries)


def engine_layers(entries: Sequence[Any]) -> tuple[EngineLayer, ...]:
    """Layers as an inspector's list has them, read. Raises RecordError for a layer without a name."""
    names = told_apart([_name(entry) for entry in entries])
    return tuple(_layer(entry, name) for entry, name in zip(entries, names, strict=True))


def works(kind: str) -> bool:
    """Whether a layer of this kind launches anything."""
    return kind.lower() not in NO_WORK


def told_apart(names: Sequence[str]) -> list[str]:
    """The same names, in which the second "a" is "a (2)": inspector and profiler both list layers in execution order,
    and several can have one name."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def samples_by_layer(reported: Sequence[tuple[str, float]], runs: int) -> dict[str, tuple[float, ...]]:
    """Milliseconds of each layer in each of so many runs, from what the profiler reported in all of them, in its order.

    Runs report the same layers; where they do not, those of one name stand together.
    """
    size, rest = divmod(len(reported), runs)
    names = [name for name, _ in reported]
    if not rest:
        names = [name for start in range(0, len(names), size or 1) for name in told_apart(names[start : start + size])]
    found: dict[str, list[float]] = {}
    for name, (_, ms) in zip(names, reported, strict=True):
        found.setdefault(name, []).append(ms)
    return {name: tuple(values) for name, values in found.items()}


def layer_precision(model: onnx.ModelProto, layers: Iterable[EngineLayer]) -> dict[str, str]:
    """Precision of each Conv and Gemm of the file by layer name, in the words of `Engine.layer_precision`: ``s8s8``,
    ``float16``, ``float32``, ``absent`` where the engine shows no layer that it went into."""
    listed = tuple(layers)
    found = computing_layers(model, listed)
    words = {"int8": "s8s8"}
    return {
        name: words.get(precision := listed[found[name]].precision, precision) if name in found else "absent"
        for name in compute_nodes(model)
    }


def computing_layers(model: onnx.ModelProto, layers: Sequence[EngineLayer]) -> dict[str, int]:
    """Place of the engine's layer that computes each Conv and Gemm of the file, by layer name. Copies and layers that
    do nothing may carry a node's name too: of several layers with one node, the first that has weights, or is of
    a kind that multiplies, or else is no copy."""
    places: dict[str, list[int]] = {}
    for place, layer in enumerate(layers):
        if not layer.reformat and works(layer.kind):
            for node in layer.nodes:
                places.setdefault(node, []).append(place)

    def rank(place: int) -> tuple[bool, bool]:
        layer = layers[place]
        return layer.weights is None, not computes(layer.kind, layer.tactic or "")

    return {name: min(places[node], key=rank) for name, node in compute_nodes(model).items() if node in places}


def planned_precision(model: onnx.ModelProto) -> dict[str, str]:
    """Precision that the file asks for: ``s8s8`` for a Conv or Gemm between dequantized inputs, ``float8`` where those
    are FP8, else the type of its weight."""
    producers = {output: node for node in model.graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            sources = [_behind_casts(name, producers) for name in node.input[:2]]
            quantized = all(_op(producers.get(name)) == "DequantizeLinear" for name in sources)
            half = types.get(sources[1]) == onnx.TensorProto.FLOAT16
            codes = types.get(producers[sources[1]].input[0]) if quantized else None
            coded = "float8" if codes == onnx.TensorProto.FLOAT8E4M3FN else "s8s8"
            found[_layer_name(node, producers)] = coded if quantized else "float16" if half else "float32"
    return found


def compute_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """Name of the Conv or Gemm node of each layer; a layer is named by its weight, ``<layer>.weight``."""
    producers = {output: node for node in model.graph.node for output in node.output}
    return {_layer_name(node, producers): node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}


def nodes_of(layer_name: str) -> tuple[str, ...]:
    """Operators in the name of an engine's layer (the profiler knows nothing else): ``conv + PWN(relu)`` is both."""
    names = [part.strip() for part in _FUSED_NAMES.split(layer_name)]
    names = [match.group(1) if (match := re.fullmatch(r"(?:PWN|fused)\((.*)\)", name)) else name for name in names]
    return tuple(name for name in names if name)


def _name(entry: Any) -> str:
    name = entry if isinstance(entry, str) else entry.get("Name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str):
        raise RecordError(f"the engine inspector lists a layer without a name: {str(entry)[:60]!r}")
    return name


def _layer(entry: Any, name: str) -> EngineLayer:
    given = _name(entry)
    if isinstance(entry, str):  # names only: the engine was built without detailed verbosity
        return EngineLayer(name=name, kind="", precision=UNKNOWN, nodes=nodes_of(given), reformat=_reformats(given))
    kind = str(entry.get("LayerType", ""))
    return EngineLayer(
        name=name,
        kind=kind,
        precision=precision_of(entry, kind),
        nodes=_onnx_nodes(str(entry.get("Metadata", ""))) or nodes_of(given),
        tactic=str(entry.get("TacticName") or "") or None,
        weights=weight_type(entry),
        reformat=_copies(kind, str(entry.get("Origin", "")), given),
        reads=tensor_types(entry.get("Inputs")),
        writes=tensor_types(entry.get("Outputs")),
        operations=tuple(entry.get("Operations", ())),
    )


def _onnx_nodes(metadata: str) -> tuple[str, ...]:
    return tuple(name for part in _PARTS.split(metadata) for name in _ONNX_NODE.findall(part))


def _copies(kind: str, origin: str, name: str) -> bool:
    """Whether a layer was put in to change a layout or a type. One that does nothing is none, and a quantizer of the
    file, which is of the same kind, is asked for."""
    if not works(kind) or origin == "QDQ":
        return False
    return kind.lower() == "reformat" or origin == "REFORMAT" or _reformats(name)


def _reformats(name: str) -> bool:
    return _REFORMAT_NAME.search(name) is not None


def _layer_name(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str:
    weight = node.input[1]
    while weight in producers and producers[weight].op_type in ("DequantizeLinear", "QuantizeLinear", "Cast"):
        weight = producers[weight].input[0]
    return weight.removesuffix("_codes").removesuffix(".weight")


def _behind_casts(name: str, producers: Mapping[str, onnx.NodeProto]) -> str:
    while name in producers and producers[name].op_type == "Cast":
        name = producers[name].input[0]
    return name


def _op(node: onnx.NodeProto | None) -> str | None:
    return None if node is None else node.op_type
