"""Operators that move, choose or bound values without arithmetic, and the little shape arithmetic of dynamic batches.

One function for each, from a node and its input arrays to its output array (ONNX opset 21).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.graph.pools import missing_padding
from limpq_deploy.export.reference import operators as ops

Array = NDArray[Any]
Inputs = list[Any]


def _optional(inputs: Inputs, index: int) -> Any:
    return inputs[index] if len(inputs) > index else None


def clip(node: onnx.NodeProto, inputs: Inputs) -> Array:
    low, high = _optional(inputs, 1), _optional(inputs, 2)
    return np.clip(inputs[0], low, high).astype(inputs[0].dtype)


def max_pool(node: onnx.NodeProto, inputs: Inputs) -> Array:
    kernel = attribute(node, "kernel_shape", [])
    ones = [1] * len(kernel)
    if len(node.output) > 1 or len(kernel) != 2:
        raise ModelError(f"node {node.name!r} pools in {len(kernel)} dimensions or gives indices; expected images")
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    pads = explicit_pads(node, inputs[0].shape[2:], kernel, strides, dilations)
    return ops.max_pool(inputs[0], kernel, strides, pads, dilations)


def explicit_pads(
    node: onnx.NodeProto,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Padding before and behind each axis of an image of ``size``; automatic padding and ``ceil_mode`` worked out."""
    mode = attribute(node, "auto_pad", "NOTSET")
    axes = list(zip(size, kernel, strides, dilations, strict=True))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-length // stride) - 1) * stride + dilation * (width - 1) + 1 - length, 0)
            for length, width, stride, dilation in axes
        ]
        less, more = [width // 2 for width in total], [width - width // 2 for width in total]
        return [*less, *more] if mode == "SAME_UPPER" else [*more, *less]
    pads = list(attribute(node, "pads", [0] * (2 * len(size)))) if mode == "NOTSET" else [0] * (2 * len(size))
    if attribute(node, "ceil_mode", 0):
        before, behind = pads[: len(size)], pads[len(size) :]
        behind = [
            after + missing_padding(length, reach=dilation * (width - 1) + 1, stride=stride, before=start, after=after)
            for (length, width, stride, dilation), start, after in zip(axes, before, behind, strict=True)
        ]
        pads = [*before, *behind]
    return pads


def pad(node: onnx.NodeProto, inputs: Inputs) -> Array:
    source, amounts, value, axes = inputs[0], inputs[1], _optional(inputs, 2), _optional(inputs, 3)
    widths = [(0, 0)] * source.ndim
    chosen = range(source.ndim) if axes is None else [int(axis) % source.ndim for axis in axes]
    for index, axis in enumerate(chosen):
        widths[axis] = (int(amounts[index]), int(amounts[index + len(amounts) // 2]))
    mode = str(attribute(node, "mode", "constant"))
    if mode != "constant":
        return np.pad(source, widths, mode=mode)  # type: ignore[call-overload]
    return np.pad(source, widths, constant_values=0 if value is None else value)


def slice_(node: onnx.NodeProto, inputs: Inputs) -> Array:
    source, starts, ends = inputs[:3]
    axes, steps = _optional(inputs, 3), _optional(inputs, 4)
    index = [slice(None)] * source.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = int(axes[i]) if axes is not None else i
        step = int(steps[i]) if steps is not None else 1
        before_first = step < 0 and int(end) < -source.shape[axis]
        index[axis] = slice(int(start), None if before_first else int(end), step)
    return source[tuple(index)]


def flatten(node: onnx.NodeProto, inputs: Inputs) -> Array:
    source = inputs[0]
    axis = attribute(node, "axis", 1)
    return source.reshape(int(np.prod(source.shape[:axis])), -1)


def reshape(node: onnx.NodeProto, inputs: Inputs) -> Array:
    source, shape = inputs[0], [int(size) for size in inputs[1]]
    if not attribute(node, "allowzero", 0):
        shape = [source.shape[index] if size == 0 else size for index, size in enumerate(shape)]
    return source.reshape(shape)


def transpose(node: onnx.NodeProto, inputs: Inputs) -> Array:
    source = inputs[0]
    return source.transpose(attribute(node, "perm", list(range(source.ndim))[::-1]))


def squeeze(node: onnx.NodeProto, inputs: Inputs) -> Array:
    axes = _optional(inputs, 1)
    return np.squeeze(inputs[0], None if axes is None else tuple(int(axis) for axis in axes))


def unsqueeze(node: onnx.NodeProto, inputs: Inputs) -> Array:
    return np.expand_dims(inputs[0], tuple(int(axis) for axis in inputs[1]))


def shape_of(node: onnx.NodeProto, inputs: Inputs) -> Array:
    sizes = np.array(inputs[0].shape, np.int64)
    end = attribute(node, "end", len(sizes))
    return sizes[attribute(node, "start", 0) : end]


def gather(node: onnx.NodeProto, inputs: Inputs) -> Array:
    return np.take(inputs[0], inputs[1], axis=attribute(node, "axis", 0))


def concat(node: onnx.NodeProto, inputs: Inputs) -> Array:
    return np.concatenate(inputs, axis=attribute(node, "axis", 0))


def expand(node: onnx.NodeProto, inputs: Inputs) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1]))
    return np.broadcast_to(inputs[0], shape)


def tile(node: onnx.NodeProto, inputs: Inputs) -> Array:
    return np.tile(inputs[0], inputs[1])


def depth_to_space(node: onnx.NodeProto, inputs: Inputs) -> Array:
    """Channels to pixels: [N, C, side, side, H, W] with "CRD", [N, side, side, C, H, W] with "DCR"."""
    source, side = inputs[0], attribute(node, "blocksize")
    images, channels, height, width = source.shape
    channels //= side**2
    if str(attribute(node, "mode", "DCR")) == "CRD":
        parts = source.reshape(images, channels, side, side, height, width).transpose(0, 1, 4, 2, 5, 3)
    else:
        parts = source.reshape(images, side, side, channels, height, width).transpose(0, 3, 4, 1, 5, 2)
    return parts.reshape(images, channels, height * side, width * side)


def space_to_depth(node: onnx.NodeProto, inputs: Inputs) -> Array:
    source, side = inputs[0], attribute(node, "blocksize")
    images, channels, height, width = source.shape
    parts = source.reshape(images, channels, height // side, side, width // side, side)
    return parts.transpose(0, 3, 5, 1, 2, 4).reshape(images, -1, height // side, width // side)


def resize(node: onnx.NodeProto, inputs: Inputs) -> Array:
    """Every pixel so many times, as often as each scale says."""
    scales = [float(one) for one in _optional(inputs, 2)] if _optional(inputs, 2) is not None else []
    if str(attribute(node, "mode", "nearest")) != "nearest" or not scales or any(one % 1 for one in scales):
        raise ModelError(f"node {node.name!r} resizes by something else than whole factors, to the nearest pixel")
    found = inputs[0]
    for axis, times in enumerate(scales):
        found = np.repeat(found, int(times), axis)
    return found


def cast(node: onnx.NodeProto, inputs: Inputs) -> Array:
    to = np.dtype(helper.tensor_dtype_to_np_dtype(attribute(node, "to")))
    if to.kind not in "iu":
        raise ModelError(f"node {node.name!r} casts to {to.name}; the integer reference only casts to integers")
    return inputs[0].astype(to)


def identity(node: onnx.NodeProto, inputs: Inputs) -> Array:
    return inputs[0]


MOVES: Mapping[str, Callable[[onnx.NodeProto, Inputs], Array]] = {
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Identity": identity,
    "MaxPool": max_pool,
    "Pad": pad,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape_of,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}

OF_ANY_NUMBERS = MOVES.keys() - {"Cast", "Clip", "MaxPool", "Pad", "Shape"}
"""Those that move reals as they move codes."""


def moved_results(graph: onnx.GraphProto) -> frozenset[str]:
    """Tensors that nodes of `OF_ANY_NUMBERS` make on the way to results alone, behind which nothing computes: there the
    reals of a last layer may be moved."""
    computed: set[str] = set()
    moved: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in OF_ANY_NUMBERS and computed.isdisjoint(node.output):
            moved.update(node.output)
        else:
            computed.update(node.input)
    return frozenset(moved)
