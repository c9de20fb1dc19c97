"""Max pools without ``ceil_mode``: the padding that it stands for, written out.

Runtimes disagree about the last window of such a pool; with explicit padding nothing is left to disagree about.
"""

from math import ceil

import onnx
from onnx import helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.onnx_files import attribute


def write_ceil_padding(model: onnx.ModelProto) -> None:
    """Rewrite, in place, every MaxPool with ``ceil_mode`` as one with more padding at the lower and right end.

    The shapes of the pools' inputs have to be in the graph. Raises ModelError where one is missing.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.value_info, *model.graph.input)}
    for node in model.graph.node:
        if node.op_type != "MaxPool" or not attribute(node, "ceil_mode", 0):
            continue
        sizes = [dim.dim_value for dim in shapes.get(node.input[0], ())[2:]]
        if not sizes or not all(sizes):
            raise ModelError(
                f"node {node.name!r} pools with ceil_mode an image of unknown size; give MaxPool2d an explicit padding"
            )
        kernel = attribute(node, "kernel_shape")
        strides = attribute(node, "strides", [1] * len(sizes))
        dilations = attribute(node, "dilations", [1] * len(sizes))
        pads = attribute(node, "pads", [0] * (2 * len(sizes)))
        ends = [
            end + missing_padding(size, reach=dilation * (width - 1) + 1, stride=stride, before=before, after=end)
            for size, width, stride, dilation, before, end in zip(
                sizes, kernel, strides, dilations, pads[: len(sizes)], pads[len(sizes) :], strict=True
            )
        ]
        kept = [entry for entry in node.attribute if entry.name not in ("ceil_mode", "pads")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", [*pads[: len(sizes)], *ends])])


def missing_padding(size: int, *, reach: int, stride: int, before: int, after: int) -> int:
    """Padding that ``ceil_mode`` adds behind an axis of ``size`` elements, for windows of ``reach`` elements.

    torch's rule: ``ceil((size + before + after - reach) / stride) + 1`` windows, of which none begins in the padding
    behind.
    """
    windows = ceil((size + before + after - reach) / stride) + 1
    if (windows - 1) * stride >= size + before:
        windows -= 1
    return max((windows - 1) * stride + reach - (size + before + after), 0)
