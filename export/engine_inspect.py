"""A TensorRT engine's inspector, read: which layer runs in which precision, by which kernel, made of which operators.

The inspector writes JSON, and not the same in all versions (from NVIDIA's documentation, "Engine Inspector"):

- 8.6 and 10: ``{"Layers": [...], "Bindings": [...]}``; a tensor's ``"Format/Datatype"`` is "Row major FP16";
- 11: ``"I/O Tensors"`` for ``"Bindings"``, and ``"Format"`` and ``"Datatype"`` apart.

With less than detailed verbosity a layer is only its name, a string. Operators of the file stand in ``"Metadata"`` as
``[ONNX Layer: NAME]``, one for each; without it they are taken from the layer's name, ``a + b + c``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.engine_record import EngineLayer

_TYPES = (
    (re.compile(r"\bint8\b|\bi8\b", re.I), "int8"),
    (re.compile(r"\b(fp8|float8\w*|f8\w*)\b", re.I), "float8"),
    (re.compile(r"\b(bf16|bfloat16)\b", re.I), "bfloat16"),
    (re.compile(r"\b(fp16|half|float16)\b", re.I), "float16"),
    (re.compile(r"\b(fp32|float|float32)\b", re.I), "float32"),
    (re.compile(r"\bint4\b", re.I), "int4"),
    (re.compile(r"\bint32\b", re.I), "int32"),
    (re.compile(r"\bint64\b", re.I), "int64"),
    (re.compile(r"\bbool\b", re.I), "bool"),
)
"""Types as the inspector spells them, the most telling spelling first; a format that has no type in it has none."""

_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=$|\s*[\x1e,;]|\s*\[)")
_REFORMAT_NAME = re.compile(r"^reformatting copynode|^reformat(ted)? ", re.I)
_FUSED_NAMES = re.compile(r" \+ |\|\||, ")
_LAYER_KINDS = ("convolution", "gemm", "matmul", "matrixmultiply", "matrix_multiply", "fullyconnected", "deconvolution")


def parse_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Layers of an engine in execution order, from ``EngineInspector.get_engine_information`` as JSON.

    Raises RecordError for text of another form.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise RecordError(
            f"the engine inspector's answer is not valid JSON ({error}); report it with the log"
        ) from error
    layers = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(layers, list):
        raise RecordError("the engine inspector's answer has no list 'Layers'; this version writes it in another form")
    return tuple(_layer(layer) for layer in layers)


def layer_precision(model: onnx.ModelProto, layers: Iterable[EngineLayer]) -> dict[str, str]:
    """Precision of each Conv and Gemm of the file by layer name, in the words of `Engine.layer_precision`: ``s8s8``,
    ``float16``, ``float32``, ``absent`` where the engine shows no layer that it went into."""
    by_node = {node: layer for layer in layers if not layer.reformat for node in layer.nodes}
    words = {"int8": "s8s8"}
    return {
        name: words.get(by_node[node].precision, by_node[node].precision) if node in by_node else "absent"
        for name, node in compute_nodes(model).items()
    }


def planned_precision(model: onnx.ModelProto) -> dict[str, str]:
    """Precision that the file asks for: ``s8s8`` for a Conv or Gemm between dequantized inputs, else the type of its
    weight."""
    producers = {output: node for node in model.graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            sources = [_behind_casts(name, producers) for name in node.input[:2]]
            quantized = all(_op(producers.get(name)) == "DequantizeLinear" for name in sources)
            half = types.get(sources[1]) == onnx.TensorProto.FLOAT16
            found[_layer_name(node, producers)] = "s8s8" if quantized else "float16" if half else "float32"
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


def _layer(entry: Any) -> EngineLayer:
    if isinstance(entry, str):  # names only: the engine was built without detailed verbosity
        return EngineLayer(name=entry, kind="", precision="unknown", nodes=nodes_of(entry), reformat=_reformats(entry))
    if not isinstance(entry, Mapping) or not isinstance(entry.get("Name"), str):
        raise RecordError(f"the engine inspector lists a layer without a name: {str(entry)[:60]!r}")
    name, kind = entry["Name"], str(entry.get("LayerType", ""))
    nodes = tuple(_ONNX_NODE.findall(str(entry.get("Metadata", "")))) or nodes_of(name)
    tactic = str(entry.get("TacticName") or "") or None
    return EngineLayer(
        name=name,
        kind=kind,
        precision=_precision(entry, kind),
        nodes=nodes,
        tactic=tactic,
        reformat=kind.lower() in ("reformat", "nooptocopy") or entry.get("Origin") == "REFORMAT" or _reformats(name),
    )


def _precision(entry: Mapping[str, Any], kind: str) -> str:
    """Type that a layer computes in: of its weights and first input where it has weights (they agree, or the wider one
    decides), else of its first output."""
    first_in, first_out = (_tensor_type(entry.get(key)) for key in ("Inputs", "Outputs"))
    weights = entry.get("Weights")
    weight = _type_in(str(weights.get("Type", ""))) if isinstance(weights, Mapping) else None
    if weight is not None and first_in is not None:
        return max(weight, first_in, key=_width)
    computes = any(word in f"{kind} {entry.get('ParameterType', '')}".lower() for word in _LAYER_KINDS)
    return (first_in if computes else first_out) or first_in or "unknown"


def _tensor_type(tensors: Any) -> str | None:
    if not isinstance(tensors, list) or not tensors or not isinstance(tensors[0], Mapping):
        return None
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        if key in tensors[0] and (found := _type_in(str(tensors[0][key]))) is not None:
            return found
    return None


def _type_in(text: str) -> str | None:
    return next((name for pattern, name in _TYPES if pattern.search(text)), None)


def _width(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else 0


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
