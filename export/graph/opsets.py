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


def _lower_reduction(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """Axes as an attribute; they became an input with opset 18."""
    _drop(node, "noop_with_empty_axes")
    if len(node.input) < 2:
        return
    axes = constants(graph).get(node.input[1])
    if axes is None:
        raise ModelError(
            f"node {node.name or node.output[0]!r} ({node.op_type}) computes its axes; opset {version} needs them fixed"
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


def _lower_split(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """Sizes of the parts; opset 18 added their number, of which the last may be smaller."""
    number = attribute(node, "num_outputs")
    if number is None:
        return
    _drop(node, "num_outputs")
    axis = attribute(node, "axis", 0)
    sizes = _sizes(graph, node.input[0])
    length = sizes[axis] if sizes is not None and -len(sizes) <= axis < len(sizes) else 0
    if not length:
        raise ModelError(
            f"node {node.name or node.output[0]!r} (Split) splits an axis of unknown size; opset {version} needs it"
        )
    each = -(-length // number)
    parts = [min(each, length - each * place) for place in range(number)]
    name = f"{node.output[0]}_sizes"
    graph.initializer.append(numpy_helper.from_array(np.array(parts, np.int64), name))
    node.input[1:] = [name]


def _lower_resize(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """All axes, without smoothing; opset 18 added a choice of both."""
    given = {name: attribute(node, name) for name in ("antialias", "axes", "keep_aspect_ratio_policy")}
    rank = _rank(graph, node.input[0])
    whole = given["axes"] is None or (rank is not None and list(given["axes"]) == list(range(rank)))
    if given["antialias"] or not whole or given["keep_aspect_ratio_policy"] not in (None, "stretch"):
        raise ModelError(
            f"node {node.name or node.output[0]!r} (Resize) smooths, keeps ratios or resizes chosen axes, which has no "
            f"form in opset {version}, the newest that the target reads; replace this operation in the model"
        )
    for name in given:
        _drop(node, name)


def _lower_scatter(graph: onnx.GraphProto, node: onnx.NodeProto, version: int) -> None:
    """Opset 18 added reductions to the largest and smallest."""
    if attribute(node, "reduction", "none") in ("max", "min"):
        raise ModelError(
            f"node {node.name or node.output[0]!r} ({node.op_type}) has no form in opset {version}, the newest that "
            "the target reads; replace this operation in the model"
        )


def _drop(node: onnx.NodeProto, name: str) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _rank(graph: onnx.GraphProto, tensor: str) -> int | None:
    sizes = _sizes(graph, tensor)
    return None if sizes is None else len(sizes)


def _sizes(graph: onnx.GraphProto, tensor: str) -> list[int] | None:
    """Of all axes, 0 for an unknown one; None where not even their number is known."""
    for value in (*graph.value_info, *graph.input):
        if value.name == tensor:
            return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
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


_OLDER_FORMS: Mapping[str, Callable[[onnx.GraphProto, onnx.NodeProto, int], None]] = {
    **dict.fromkeys(
        (f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")),
        _lower_reduction,
    ),
    "Mish": _lower_mish,
    "Pad": _lower_pad,
    "Split": _lower_split,
    "Resize": _lower_resize,
    "ScatterElements": _lower_scatter,
    "ScatterND": _lower_scatter,
}
