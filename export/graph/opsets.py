"""Older operator sets: a model written for a newer one, made valid for a target that reads no newer than its own."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.onnx_files import attribute, constants


def lower_opset(model: onnx.ModelProto, version: int) -> None:
    """Rewrite a model for the standard operator set ``version``, in place, with the oldest IR that knows it.

    An operator whose definition is the same in both sets stays as it is; those of ``_OLDER_FORMS`` get their older
    form. Raises ModelError, naming the node, for any other operator that changed in between.
    """
    current = next(entry for entry in model.opset_import if entry.domain == "")
    assert version <= current.version, "a template is exported at the target's opset or a newer one"
    for node in list(model.graph.node):
        if node.domain == "" and _since(node.op_type, current.version) != _since(node.op_type, version):
            lower = _OLDER_FORMS.get(node.op_type)
            if lower is None:
                raise ModelError(
                    f"node {node.name or node.output[0]!r} ({node.op_type}) has no form in opset {version}, the newest "
                    "that the target reads; replace this operation in the model"
                )
            lower(model.graph, node, version)
    current.version = version
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)


def _since(operator: str, version: int) -> int | None:
    """Operator set that the definition in force at ``version`` came with; None where there is none yet."""
    try:
        return int(defs.get_schema(operator, version, "").since_version)
    except defs.SchemaError:
        return None


def _lower_reduce_mean(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """Axes as an attribute; they became an input with opset 18."""
    if len(node.input) < 2:
        return
    axes = constants(graph).get(node.input[1])
    if axes is None:
        raise ModelError(
            f"node {node.name or node.output[0]!r} (ReduceMean) computes its axes; opset {version} needs them fixed"
        )
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes]))


def _lower_pad(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """Amounts for every axis; opset 18 added a list of axes."""
    if len(node.input) < 4 or not node.input[3]:
        return
    fixed = constants(graph)
    rank = _rank(graph, node.input[0])
    if rank is None or node.input[1] not in fixed or node.input[3] not in fixed:
        raise ModelError(
            f"node {node.name or node.output[0]!r} (Pad) pads axes that are not known; opset {version} needs them fixed"
        )
    before, after = np.split(fixed[node.input[1]], 2)
    amounts = np.zeros((2, rank), np.int64)
    amounts[:, [int(axis) % rank for axis in fixed[node.input[3]]]] = before, after
    name = f"{node.output[0]}_pads"
    graph.initializer.append(numpy_helper.from_array(amounts.reshape(-1), name))
    node.input[1] = name
    del node.input[3:]


def _rank(graph: onnx.GraphProto, tensor: str) -> int | None:
    for value in (*graph.value_info, *graph.input):
        if value.name == tensor:
            return len(value.type.tensor_type.shape.dim)
    return None


def _lower_mish(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """x * tanh(softplus(x)); Mish came with opset 18."""
    soft, gate = f"{node.output[0]}_softplus", f"{node.output[0]}_gate"
    before = [helper.make_node("Softplus", node.input[:1], [soft]), helper.make_node("Tanh", [soft], [gate])]
    place = list(graph.node).index(node)
    for one in reversed(before):
        one.name = one.output[0]
        graph.node.insert(place, one)
    node.op_type = "Mul"
    node.input.append(gate)


def _lower_resize(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """Without what opset 18 added, where it says what was always so."""
    plain = {"antialias": 0, "keep_aspect_ratio_policy": "stretch", "axes": []}
    if any(attribute(node, name, value) != value for name, value in plain.items()):
        raise ModelError(
            f"node {node.name or node.output[0]!r} (Resize) has settings of opset 18; opset {version} has none of them"
        )
    kept = [entry for entry in node.attribute if entry.name not in plain]
    del node.attribute[:]
    node.attribute.extend(kept)


_OLDER_FORMS: Mapping[str, Callable[[onnx.GraphProto, onnx.NodeProto, int], None]] = {
    "Mish": _lower_mish,
    "ReduceMean": _lower_reduce_mean,
    "Resize": _lower_resize,
    "Pad": _lower_pad,
}
