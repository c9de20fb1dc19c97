"""Global pools in one form: whatever an exporter wrote for "mean over height and width" becomes GlobalAveragePool.

ONNX Runtime has one integer kernel for it (QLinearGlobalAveragePool), and finds it only in that form, with the
quantizer directly behind. Three cases, applied to a float graph with quantizer markers:

- ``ReduceMean(axes = H, W; keepdims = 1)`` -> ``GlobalAveragePool``;
- ``ReduceMean(axes = H, W; keepdims = 0)`` -> ``GlobalAveragePool``, ``Flatten``;
- ``AveragePool`` whose kernel is the whole, unpadded image -> ``GlobalAveragePool``.

Then a marker behind a Flatten or Reshape that only it reads moves in front of it: a quantizer commutes with them.
"""

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.export.onnx_files import attribute, constants

MARKER_DOMAIN = "limpq"
MARKER_OP = "Quantizer"


def is_marker(node: onnx.NodeProto) -> bool:
    """Whether the node marks the place of an activation quantizer."""
    return node.domain == MARKER_DOMAIN and node.op_type == MARKER_OP


def with_global_pools(template: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the template in which every global pool is a GlobalAveragePool directly before its marker."""
    model = onnx.ModelProto()
    model.CopyFrom(template)
    fixed = constants(model.graph)
    shapes = _shapes(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_pool_in_one_form(node, fixed, shapes))
    nodes = _markers_before_reshapes(nodes, {output.name for output in model.graph.output})
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _pool_in_one_form(
    node: onnx.NodeProto, fixed: dict[str, NDArray[Any]], shapes: dict[str, tuple[int, ...]]
) -> list[onnx.NodeProto]:
    shape = shapes.get(node.input[0]) if node.input else None
    if node.op_type == "ReduceMean" and (shape is None or len(shape) == 4):
        axes = fixed.get(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
        if axes is None or sorted(int(axis) % 4 for axis in np.ravel(np.asarray(axes))) != [2, 3]:
            return [node]
        name, source, result = node.name or f"{node.output[0]}_pool", node.input[0], node.output[0]
        if attribute(node, "keepdims", 1):
            return [helper.make_node("GlobalAveragePool", [source], [result], name=name)]
        return [
            helper.make_node("GlobalAveragePool", [source], [f"{result}_pool"], name=name),
            helper.make_node("Flatten", [f"{result}_pool"], [result], name=f"{name}_flatten", axis=1),
        ]
    if node.op_type == "AveragePool" and shape is not None and len(shape) == 4:
        whole = tuple(np.ravel(np.asarray(attribute(node, "kernel_shape")))) == shape[2:]
        if whole and not any(np.ravel(np.asarray(attribute(node, "pads", [0])))):
            return [helper.make_node("GlobalAveragePool", [node.input[0]], [node.output[0]], name=node.name)]
    return [node]


def _markers_before_reshapes(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """``Flatten -> marker`` becomes ``marker -> Flatten`` where nothing else reads the Flatten."""
    readers = Counter(name for node in nodes for name in node.input)
    moved = list(nodes)
    for index, node in enumerate(nodes):
        before = next(
            (i for i, other in enumerate(moved[:index]) if node.input and node.input[0] in other.output), None
        )
        if not is_marker(node) or before is None or moved[before].op_type not in ("Flatten", "Reshape"):
            continue
        reshape = moved[before]
        between = reshape.output[0]
        if readers[between] != 1 or between in outputs:
            continue
        marker, late = onnx.NodeProto(), onnx.NodeProto()
        marker.CopyFrom(node)
        late.CopyFrom(reshape)
        marker.input[0], marker.output[0] = reshape.input[0], between
        late.input[0], late.output[0] = between, node.output[0]
        moved[before], moved[index] = marker, late
    return moved


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Known shapes by tensor name; a dynamic dimension is 0. Markers hide what is behind them from ONNX's inference,
    so they are read as Identity."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if is_marker(node):
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.input)
        if value.type.tensor_type.HasField("shape")
    }
