"""Marker nodes: where an activation quantizer stands in a float template."""

import json

import onnx
from onnx import helper

from limpq_deploy.calibration.errors import ModelError, RecordError
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.export.graph.onnx_files import attribute

MARKER_DOMAIN = "limpq"
MARKER_OP = "Quantizer"

MARKERS_KEY = "limpq.markers"
"""Metadata of a float model: where quantizers stand in its template, as JSON."""


def is_marker(node: onnx.NodeProto) -> bool:
    """Whether the node marks the place of an activation quantizer."""
    return node.domain == MARKER_DOMAIN and node.op_type == MARKER_OP


def marker_name(node: onnx.NodeProto) -> str:
    """Name of the quantizer that a marker stands for."""
    return str(attribute(node, "name"))


def markers_text(template: onnx.ModelProto) -> str:
    """Where a template's markers stand, as JSON for the metadata of its float model (`qdq.strip_markers`): with it the
    template can be made again, without torch."""
    reads: dict[str, list[tuple[int, int]]] = {}
    for place, node in enumerate(template.graph.node):
        for index, name in enumerate(node.input):
            reads.setdefault(name, []).append((place, index))
    outputs = {output.name for output in template.graph.output}
    found = [
        {
            "place": place,
            "name": marker_name(node),
            "node": node.name,
            "input": node.input[0],
            "output": node.output[0],
            "reads": reads.get(node.output[0], []),
            "is_output": node.output[0] in outputs,
        }
        for place, node in enumerate(template.graph.node)
        if is_marker(node)
    ]
    return json.dumps(found)


def with_markers(float_model: onnx.ModelProto, *, in_place: bool = False) -> onnx.ModelProto:
    """The template of a float model that knows where its markers stood; ``in_place``: the same object, changed. Raises
    ModelError where it does not know, or was changed since."""
    texts = {entry.key: entry.value for entry in float_model.metadata_props}
    if MARKERS_KEY not in texts:
        raise ModelError(
            f"the float model does not say where quantizers stand ({MARKERS_KEY}); an older version wrote it, build "
            "again"
        )
    template = float_model
    if not in_place:
        template = onnx.ModelProto()
        template.CopyFrom(float_model)
    graph = template.graph
    try:
        markers = {int(one["place"]): one for one in parse_json(texts[MARKERS_KEY], MARKERS_KEY)}
        ends = {one["output"] for one in markers.values() if one["is_output"]}
        kept = [node for node in graph.node if not (node.op_type == "Identity" and node.output[0] in ends)]
        others = iter(kept)
        nodes: list[onnx.NodeProto] = []
        for place in range(len(kept) + len(markers)):
            if place not in markers:
                nodes.append(next(others))
                continue
            one = markers[place]
            node = helper.make_node(
                MARKER_OP, [one["input"]], [one["output"]], domain=MARKER_DOMAIN, name=one["node"] or None
            )
            node.attribute.append(helper.make_attribute("name", one["name"]))
            nodes.append(node)
        for one in markers.values():
            for place, index in one["reads"]:
                nodes[place].input[index] = one["output"]
    except (RecordError, ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise ModelError(f"the float model has damaged metadata {MARKERS_KEY}; export it again") from error
    del graph.node[:]
    graph.node.extend(nodes)
    if MARKER_DOMAIN not in {entry.domain for entry in template.opset_import}:
        template.opset_import.append(helper.make_opsetid(MARKER_DOMAIN, 1))
    del template.metadata_props[:]
    return template
