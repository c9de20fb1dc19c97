"""Convolutions and matrix products of a file: their integers, read from the DequantizeLinear nodes that feed them.

Letters: O channels out, K rows of a matrix. Weights are held without their zero-point, in the float type in which
their sums are exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.graph_rules import named
from limpq_deploy.export.graph.onnx_files import attribute
from limpq_deploy.export.reference import operators as ops
from limpq_deploy.export.reference.moves import MOVES, explicit_pads
from limpq_deploy.export.reference.values import Accumulator, Dequantized

Array = NDArray[Any]
INT32 = np.iinfo(np.int32)
MOVING = frozenset(MOVES) - {"Clip", "Concat", "Shape"} | {"Dropout", "Split"}
SAME_STEP = 1e-5
"""Relative difference of a bias's scale from input scale * weight scale up to which its codes are the accumulator's."""

ALONG_INPUTS = "has weight scales along its inputs, where the runtime takes them along its outputs"
OTHER_BIAS_SCALE = (
    "has a bias at another scale than input scale * weight scale, where the runtime takes its codes as they are"
)
BEYOND_INT32 = "has a bias beyond what int32 holds in steps of the accumulator, where the runtime rounds it to int32"


@dataclass(frozen=True, slots=True)
class Layer:
    """``weight``: [O, ...] of a Conv, [K, O] of a matrix product; ``scale`` [O]: of one step of the accumulator. Where
    the file scales weights along another axis than O, ``weight`` holds reals in units of the input's scale, and so does
    ``bias``. ``otherwise``: what a runtime that executes the layer in integers is known to make of it instead."""

    weight: NDArray[np.floating[Any]]
    bias: Array
    scale: NDArray[np.float32]
    otherwise: str | None = None


class NotRead(ModelError):
    """A layer that is not of the form that the reference computes."""


def read_layer(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constant: Callable[[str], Array | None]
) -> Layer | None:
    """The integers of a Conv, Gemm or MatMul with a constant weight; None for a product of two tensors.

    ``makers``: the node that makes each tensor; ``constant``: the value of a tensor that follows from constants alone.
    Raises NotRead.
    """
    source, weight = (_dequantizer(node, makers, name) for name in node.input[:2])
    codes = constant(weight.input[0]) if weight.output[0] == node.input[1] else None
    if codes is None:
        if node.op_type != "MatMul":
            raise NotRead(f"{named(node)} has a weight that is no constant; expected one of codes")
        return None
    _require_form(node)
    scale, zero_point = _grid(weight, constant)
    axis = attribute(weight, "axis", 1) % codes.ndim
    along = [-1 if index == axis and scale.ndim else 1 for index in range(codes.ndim)]
    if any(entry.ndim and entry.size != codes.shape[axis] for entry in (scale, zero_point)):
        raise ModelError(
            f"{named(node)} has {max(scale.size, zero_point.size)} scales or zero-points of weights for "
            f"{codes.shape[axis]} channels along axis {axis}; expected one for each: quantize the model again"
        )
    zeros = zero_point.astype(np.int64)
    steps = codes.astype(np.int64) - (zeros.reshape(along) if zeros.ndim else zeros)
    turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
    out_axis = 0 if node.op_type == "Conv" or turned else codes.ndim - 1
    channels = codes.shape[out_axis]
    input_scale = np.float32(_grid(source, constant)[0].reshape(()))
    if scale.size > 1 and axis != out_axis:
        real, step = steps * scale.astype(np.float64).reshape(along), np.full(channels, input_scale, np.float32)
        bias = _real_bias(node, makers, constant, channels) / float(input_scale)
        return Layer(real.T if turned else real, bias, step, otherwise=ALONG_INPUTS)
    step = np.broadcast_to((input_scale * scale).astype(np.float32).reshape(-1), (channels,)).copy()
    bias, otherwise = _bias(node, makers, constant, step)
    reach = 2 ** (8 * _grid(source, constant)[1].dtype.itemsize)
    largest = np.abs(np.moveaxis(steps, out_axis, 0)).reshape(channels, -1).sum(axis=1) * reach + np.abs(bias)
    exact = np.float32 if largest.max(initial=0) < ops.FLOAT32_EXACT else np.float64
    return Layer((steps.T if turned else steps).astype(exact), bias, step, otherwise)


def convolved(node: onnx.NodeProto, layer: Layer, source: Dequantized) -> Accumulator:
    """A Conv of one or two dimensions."""
    codes, weight = source.codes, layer.weight
    flat = codes.ndim == 3
    if flat:
        codes, weight = codes[:, :, None], weight[:, :, None]
    kernel = weight.shape[2:]
    ones = [1] * (codes.ndim - 2 - flat)
    strides, dilations = (_of_rows(attribute(node, name, ones), flat, 1) for name in ("strides", "dilations"))
    pads = explicit_pads(node, source.codes.shape[2:], kernel[flat:], strides[flat:], dilations[flat:])
    if flat:
        pads = [0, pads[0], 0, pads[1]]
    sums = ops.convolve(
        codes,
        source.zero_point,
        weight,
        layer.bias,
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=attribute(node, "group", 1),
    )
    return Accumulator(sums[:, :, 0] if flat else sums, layer.scale, 1)


def multiplied(layer: Layer, source: Dequantized) -> Accumulator:
    """A tensor times a constant matrix, along its last axis."""
    rows = source.codes.astype(layer.weight.dtype) - layer.weight.dtype.type(source.zero_point)
    sums = rows @ layer.weight + layer.bias.astype(layer.weight.dtype)
    return Accumulator(sums, layer.scale, sums.ndim - 1)


def multiplied_tensors(first: Dequantized, second: Dequantized) -> Accumulator:
    """A product of two tensors of codes."""
    left, right = (value.codes.astype(np.float64) - value.zero_point for value in (first, second))
    sums = left @ right
    scale = np.full(sums.shape[-1], np.float32(first.scale * second.scale), np.float32)
    return Accumulator(sums, scale, sums.ndim - 1)


def _of_rows(values: list[int], flat: bool, fill: int) -> list[int]:
    return [fill, *values] if flat else values


def _require_form(node: onnx.NodeProto) -> None:
    numbers = (("transA", 0), ("alpha", 1.0), ("beta", 1.0))
    if node.op_type == "Gemm" and any(attribute(node, name, value) != value for name, value in numbers):
        raise NotRead(f"{named(node)} transposes or scales its inputs; expected x @ W + b")


def _grid(dequantizer: onnx.NodeProto, constant: Callable[[str], Array | None]) -> tuple[Array, Array]:
    """Scale and zero-point; one number for all as 0-d arrays."""
    scale = constant(dequantizer.input[1])
    assert scale is not None, "grids were required to be constants"
    zero_point = constant(dequantizer.input[2]) if len(dequantizer.input) > 2 and dequantizer.input[2] else None
    if zero_point is None:
        zero_point = np.zeros(scale.shape, np.uint8)
    return _plain(scale), _plain(zero_point)


def _plain(values: Array) -> Array:
    return values.reshape(()) if values.size == 1 else values


def _dequantizer(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], tensor: str) -> onnx.NodeProto:
    """The DequantizeLinear that a tensor comes from, through nodes that only move or choose its elements."""
    source = makers.get(tensor)
    while source is not None and source.op_type in MOVING:
        source = makers.get(source.input[0])
    if source is None or source.op_type != "DequantizeLinear":
        raise NotRead(f"{named(node)} reads {tensor!r}, which does not come from a DequantizeLinear")
    return source


def _bias(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    constant: Callable[[str], Array | None],
    step: NDArray[np.float32],
) -> tuple[NDArray[np.float64], str | None]:
    """In steps of the accumulator, and what the runtime makes of it instead. A float bias is rounded to steps, as the
    runtime does by itself."""
    values, scale = _bias_values(node, makers, constant, len(step))
    if scale is not None and np.allclose(scale, step, rtol=SAME_STEP, atol=0):
        return values.astype(np.float64), None
    if scale is not None:
        return np.rint(values * scale / step.astype(np.float64)), OTHER_BIAS_SCALE
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.nan_to_num(np.rint(values.astype(np.float32) / step).astype(np.float64))
    return steps, BEYOND_INT32 if np.any(np.abs(steps) > INT32.max) else None


def _real_bias(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constant: Callable[[str], Array | None], channels: int
) -> NDArray[np.float64]:
    values, scale = _bias_values(node, makers, constant, channels)
    return values.astype(np.float64) * (1.0 if scale is None else scale)


def _bias_values(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constant: Callable[[str], Array | None], channels: int
) -> tuple[Array, NDArray[np.float64] | None]:
    """Codes without their zero-point and their scale, or reals and None."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels), None
    source = makers.get(node.input[2])
    coded = source is not None and source.op_type == "DequantizeLinear"
    values = constant(source.input[0] if source is not None and coded else node.input[2])
    if values is None or values.size != channels:
        raise NotRead(f"{named(node)} has a bias that is not one constant for each channel")
    if source is None or not coded:
        return values.reshape(-1), None
    scale, zero_point = _grid(source, constant)
    return values.reshape(-1).astype(np.int64) - zero_point.astype(np.int64), scale.astype(np.float64)
