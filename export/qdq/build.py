"""Q/DQ in the target's dialect, written into a float template.

A template is a float graph, BatchNorm folded, in which every activation quantizer of the `Placement` is a marker node
(see `markers`). A dialect is a file of its own, which the target's record names; its `DIALECT` writes the graph.
"""

import json
from collections.abc import Mapping
from importlib import import_module

import onnx
from onnx import helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.checked import check
from limpq_deploy.export.graph.float_layers import FLOAT_LAYERS, FloatLayer
from limpq_deploy.export.graph.float_nodes import FLOAT_NODES, float_nodes, products
from limpq_deploy.export.graph.markers import is_marker
from limpq_deploy.export.graph.onnx_files import copied_fields
from limpq_deploy.export.qdq.base import CODE_MOVERS, Dialect, Layers, drop_marker_domain, set_nodes
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import FileForm
from limpq_deploy.export.records.tensorrt_versions import PRODUCER, form_at


def dialect_named(name: str) -> type[Dialect]:
    """What writes a dialect: ``DIALECT`` of the module of that name in this room."""
    found: type[Dialect] = import_module(f"limpq_deploy.export.qdq.{name}").DIALECT
    return found


def strip_markers(template: onnx.ModelProto) -> onnx.ModelProto:
    """The float model: the template without its quantizer markers."""
    model = onnx.ModelProto()
    copied_fields(template, model, without=("graph",))
    copied_fields(template.graph, model.graph, without=())
    drop_markers(model)
    return model


def drop_markers(model: onnx.ModelProto) -> None:
    """Make a template the float model, in place: what stands behind a marker reads what the marker read."""
    renamed: dict[str, str] = {}
    outputs = {output.name for output in model.graph.output}
    nodes = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        if not is_marker(node):
            nodes.append(node)
        elif node.output[0] in outputs:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.output[0]))
        else:
            renamed[node.output[0]] = node.input[0]
    set_nodes(model, nodes)
    drop_marker_domain(model)
    check(model)


def build_qdq(
    template: onnx.ModelProto,
    placement: Placement,
    layers: Layers,
    acts: Mapping[str, QuantParams],
    metadata: Mapping[str, str],
    form: FileForm | None = None,
) -> onnx.ModelProto:
    """The integer model as a Q/DQ graph. ``layers`` by layer name, ``acts`` by quantizer name.

    A re-quantizer without an entry in ``acts`` does nothing: its readers take the parent's codes. Layers that compute
    in float are named in the metadata (`float_layers.planned_float`), and so are other nodes that do
    (`float_nodes.planned_nodes`) and the version of the runtime. ``form``: None for the one that takes the template's
    opset. Raises ModelError when template, placement, layers and acts do not fit together, when the template has
    another opset than the form, or when the target is not exported.
    """
    spec = placement.spec
    if spec.runs_on is None:
        raise ModelError(f"target {spec.name!r} is trained and never exported; choose another with --target")
    opset = next(entry.version for entry in template.opset_import if entry.domain == "")
    form = form or form_at(spec, opset)
    if opset != form.opset:
        raise ModelError(f"the template has opset {opset}; the target takes {form.opset}")
    model = dialect_named(spec.runs_on.written_by)(template, placement, layers, acts, form).build()
    drop_marker_domain(model)
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    model.producer_name = PRODUCER
    model.producer_version = ""
    model.doc_string = ""
    floats = [layer.name for layer in placement.layers if isinstance(layers[layer.name], FloatLayer)]
    named = dict(metadata)
    if floats:
        named[FLOAT_LAYERS] = json.dumps(floats)
    if placement.float_operators:
        on_codes = spec.clip == "integer"
        found = (
            float_nodes(model.graph, layers.keys(), CODE_MOVERS) if on_codes else products(model.graph, layers.keys())
        )
        named[FLOAT_NODES] = json.dumps(found)
    if spec.form_key is not None and form.version is not None:
        named[spec.form_key] = form.version
    helper.set_model_props(model, dict(sorted(named.items())))
    check(model)
    return model
