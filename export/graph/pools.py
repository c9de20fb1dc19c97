"""Pools as every runtime understands them: without ``ceil_mode``, the padding that it stands for written out.

Runtimes disagree about the last window of such a pool; with explicit padding nothing is left to disagree about. An
average counts the zeros of its own padding (``count_include_pad``), and never those beyond: its own become a Pad.
"""

from math import ceil

import numpy as np
import onnx
from onnx import helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.onnx_files import attribute

POOLS = ("MaxPool", "AveragePool")


def image_sizes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Height and width of the tensors whose shapes are in the graph; 0 where a size is not known."""
    values = (*model.graph.value_info, *model.graph.input)
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[2:]] for value in values}


def covers_image(pool: onnx.NodeProto, size: list[int]) -> bool:
    """Whether a pool has one window, over a whole image of ``size`` and nothing else."""
    return list(attribute(pool, "kernel_shape")) == size and not any(attribute(pool, "pads", [0]))


def write_ceil_padding(model: onnx.ModelProto) -> None:
    """Rewrite, in place, every pool with ``ceil_mode`` as one with more padding at the lower and right end.

    The shapes of the pools' inputs have to be in the graph. Raises ModelError where one is missing.
    """
    shapes = image_sizes(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type in POOLS and attribute(node, "ceil_mode", 0):
            sizes = shapes.get(node.input[0], [])
            if not sizes or not all(sizes):
                raise ModelError(
                    f"node {node.name!r} pools with ceil_mode an image of unknown size; give the pool an explicit "
                    "padding"
                )
            nodes += _padded(node, sizes, model.graph)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _padded(node: onnx.NodeProto, sizes: list[int], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Gives a pool its padding, and what has to stand before it."""
    kernel = attribute(node, "kernel_shape")
    strides = attribute(node, "strides", [1] * len(sizes))
    dilations = attribute(node, "dilations", [1] * len(sizes))
    pads = list(attribute(node, "pads", [0] * (2 * len(sizes))))
    axes = zip(sizes, kernel, strides, dilations, pads[: len(sizes)], pads[len(sizes) :], strict=True)
    more = [
        missing_padding(size, reach=dilation * (width - 1) + 1, stride=stride, before=before, after=end)
        for size, width, stride, dilation, before, end in axes
    ]
    kept = [entry for entry in node.attribute if entry.name not in ("ceil_mode", "pads", "count_include_pad")]
    own = node.op_type == "AveragePool" and attribute(node, "count_include_pad", 0) and any(pads)
    counts = [helper.make_attribute("count_include_pad", 1)] if own and not any(more) else []
    before = _own_padding(node, pads, graph) if own and any(more) else []
    if before:
        pads = [0] * len(pads)
    ends = [end + missing for end, missing in zip(pads[len(sizes) :], more, strict=True)]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", [*pads[: len(sizes)], *ends]), *counts])
    return before


def _own_padding(node: onnx.NodeProto, pads: list[int], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """A Pad with zeros, which the pool then reads."""
    outer = [0, 0]
    amounts = np.array([*outer, *pads[: len(pads) // 2], *outer, *pads[len(pads) // 2 :]], np.int64)
    graph.initializer.append(numpy_helper.from_array(amounts, f"{node.output[0]}_pads"))
    pad = helper.make_node("Pad", [node.input[0], f"{node.output[0]}_pads"], [f"{node.output[0]}_padded"])
    pad.name = pad.output[0]
    node.input[0] = pad.output[0]
    return [pad]


def missing_padding(size: int, *, reach: int, stride: int, before: int, after: int) -> int:
    """Padding that ``ceil_mode`` adds behind an axis of ``size`` elements, for windows of ``reach`` elements.

    torch's rule: ``ceil((size + before + after - reach) / stride) + 1`` windows, of which none begins in the padding
    behind.
    """
    windows = ceil((size + before + after - reach) / stride) + 1
    if (windows - 1) * stride >= size + before:
        windows -= 1
    return max((windows - 1) * stride + reach - (size + before + after), 0)
