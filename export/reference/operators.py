"""Integer arithmetic of a CPU runtime on codes, in NumPy.

Letters: N batch, C channels in, O channels out, H and W height and width, K = C/groups * kernel elements.

Sums of products are computed by a floating-point matrix product: integers below 2^24 are exact in float32, below 2^53
in float64, whatever the order of the additions. The bound is taken from the weights themselves. Scales are float32 and
are combined in the order in which the runtime's kernels combine them; "rounded" is always half to even.
"""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError

Codes = NDArray[np.integer]
CodeType = np.dtype[np.integer]
Floats = NDArray[np.float32]

FLOAT32_EXACT = 2**24
INT32_LIMIT = 2**31
COLUMNS_BYTES = 2**25
"""Size of the unfolded images that are multiplied at once: large enough for BLAS, small enough for caches."""


def to_codes(values: Floats, zero_point: int, dtype: CodeType) -> Codes:
    """clamp(round(value) + zero_point): the last step of every operator. ``values`` are in units of the scale."""
    ends = np.iinfo(dtype)
    rounded = np.rint(values)
    np.clip(rounded, ends.min - zero_point, ends.max - zero_point, out=rounded)
    rounded += np.float32(zero_point)
    return rounded.astype(dtype)


def quantize(values: Floats, scale: np.float32, zero_point: int, dtype: CodeType) -> Codes:
    """clamp(round(value / scale) + zero_point) in float32 (ONNX QuantizeLinear)."""
    return to_codes(values / scale, zero_point, dtype)


def dequantize(codes: Codes, scale: np.float32, zero_point: int) -> Floats:
    """(code - zero_point) * scale in float32 (ONNX DequantizeLinear)."""
    return (codes.astype(np.int32) - zero_point).astype(np.float32) * scale


def requantize(
    accumulator_NO: NDArray[np.floating],
    scale_O: Floats,
    out_scale: np.float32,
    zero_point: int,
    dtype: CodeType,
    axis: int,
) -> Codes:
    """An int32 accumulator to codes: float32(acc) * float32(scale[c] / out_scale), rounded."""
    factor = (scale_O / out_scale).astype(np.float32)
    return to_codes(accumulator_NO.astype(np.float32) * _along(factor, axis, accumulator_NO.ndim), zero_point, dtype)


def real(accumulator_NO: NDArray[np.floating], scale_O: Floats, axis: int) -> Floats:
    """An int32 accumulator as reals: float32(acc) * scale[c]."""
    return accumulator_NO.astype(np.float32) * _along(scale_O, axis, accumulator_NO.ndim)


def exact_type(weight: Codes, bias: NDArray[np.int32], largest_input: int, name: str) -> type[np.floating]:
    """float32 or float64, whichever holds every partial sum exactly; ``weight`` has O as axis 0.

    Raises ModelError where a sum could leave int32, which is what the runtime's kernels add in.
    """
    products = np.abs(weight.astype(np.int32)).reshape(weight.shape[0], -1).sum(axis=1, dtype=np.int64) * largest_input
    bound = int((products + np.abs(bias.astype(np.int64))).max(initial=0))
    if bound >= INT32_LIMIT:
        raise ModelError(f"layer {name!r} can reach sums of {bound}; int32 accumulators hold less than {INT32_LIMIT}")
    return np.float32 if bound < FLOAT32_EXACT else np.float64


def convolve(
    codes_NCHW: Codes,
    zero_point: int,
    weight_OCHW: NDArray[np.floating],
    bias_O: NDArray[np.int32],
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> NDArray[np.floating]:
    """Integer convolution: sum of (code - zero_point) * weight + bias, exact in the weight's float type."""
    dtype = weight_OCHW.dtype
    images, _, height, width = codes_NCHW.shape
    out, depth, kernel_h, kernel_w = weight_OCHW.shape
    top, left, bottom, right = pads
    rows = (height + top + bottom - dilations[0] * (kernel_h - 1) - 1) // strides[0] + 1
    columns = (width + left + right - dilations[1] * (kernel_w - 1) - 1) // strides[1] + 1
    result = np.empty((images, out, rows * columns), dtype)
    matrix = weight_OCHW.reshape(groups, out // groups, depth * kernel_h * kernel_w)
    bias = bias_O.astype(dtype)[:, None]
    step = max(1, COLUMNS_BYTES // (groups * depth * kernel_h * kernel_w * rows * columns * dtype.itemsize))
    for start in range(0, images, step):
        part = codes_NCHW[start : start + step].astype(dtype) - dtype.type(zero_point)
        padded = np.pad(part, ((0, 0), (0, 0), (top, bottom), (left, right)))
        unfolded = _unfold(padded, (kernel_h, kernel_w), strides, dilations)
        unfolded = unfolded.reshape(len(part), groups, depth * kernel_h * kernel_w, rows * columns)
        product = np.matmul(matrix, unfolded).reshape(len(part), out, rows * columns)
        np.add(product, bias, out=result[start : start + step])
    return result.reshape(images, out, rows, columns)


def _unfold(
    padded_NCHW: NDArray[np.floating], kernel: tuple[int, int], strides: Sequence[int], dilations: Sequence[int]
) -> NDArray[np.floating]:
    """Windows as [N, C, kernel h, kernel w, H, W]."""
    extent = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = sliding_window_view(padded_NCHW, tuple(extent), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    return np.ascontiguousarray(windows.transpose(0, 1, 4, 5, 2, 3))


def add_table(
    first: tuple[np.float32, int, CodeType],
    second: tuple[np.float32, int, CodeType],
    out: tuple[np.float32, int, CodeType],
) -> Codes:
    """All results of a quantized Add, [256, 256] by the two inputs' codes as unsigned bytes.

    rA = sA / sC, rB = sB / sC, fix = zC - fma(rA, zA, rB * zB), result round(fma(a, rA, fma(b, rB, fix))), all in
    float32: the arithmetic of ONNX Runtime's x86 kernels. (scale, zero-point, dtype) of each tensor.
    """
    (scale_a, zero_a, type_a), (scale_b, zero_b, type_b), (scale_c, zero_c, type_c) = first, second, out
    ratio_a, ratio_b = np.float32(scale_a / scale_c), np.float32(scale_b / scale_c)
    fix = np.float32(zero_c) - fma(np.array([ratio_a]), np.float32(zero_a), np.array([ratio_b * np.float32(zero_b)]))[0]
    codes_a, codes_b = _all_codes(type_a), _all_codes(type_b)
    inner = fma(codes_b, ratio_b, np.full(256, fix, np.float32))
    total = fma(codes_a[:, None], ratio_a, np.broadcast_to(inner, (256, 256)))
    return to_codes(total, 0, type_c)


def product_table(
    first: tuple[np.float32, int, CodeType],
    second: tuple[np.float32, int, CodeType],
    out: tuple[np.float32, int, CodeType],
) -> Codes:
    """All results of a quantized product, [256, 256] by the two inputs' codes as unsigned bytes.

    round(float32((a - zA) * (b - zB)) * r + zC) with r = sA * sB / sC, in float32; the product of codes is exact.
    (scale, zero-point, dtype) of each tensor.
    """
    (scale_a, zero_a, type_a), (scale_b, zero_b, type_b), (scale_c, zero_c, type_c) = first, second, out
    ratio = np.float32(np.float32(scale_a * scale_b) / scale_c)
    products = (_all_codes(type_a) - np.float32(zero_a))[:, None] * (_all_codes(type_b) - np.float32(zero_b))
    return to_codes(products * ratio + np.float32(zero_c), 0, type_c)


def fma(factor: Floats, other: Floats | np.float32, addend: Floats) -> Floats:
    """float32(factor * other + addend), rounded once.

    The product is exact in float64; the sum is rounded to odd there (from the error of the sum, Knuth's TwoSum), which
    makes the second rounding, to float32, the correct one.
    """
    product = factor.astype(np.float64) * np.asarray(other, np.float64)
    wide = addend.astype(np.float64)
    total = np.asarray(product + wide)
    rest = total - product
    error = (product - (total - rest)) + (wide - rest)
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & even, np.nextafter(total, towards), total).astype(np.float32)


def mean_codes(
    codes_NCHW: Codes,
    scale: np.float32,
    zero_point: int,
    out_scale: np.float32,
    out_zero_point: int,
    dtype: CodeType,
) -> Codes:
    """Global average pool: round(float32(sum of (code - zero_point)) * float32(scale / (out_scale * H * W)))."""
    pixels = codes_NCHW.shape[2] * codes_NCHW.shape[3]
    total = codes_NCHW.sum(axis=(2, 3), keepdims=True, dtype=np.int64) - zero_point * pixels
    factor = np.float32(scale / np.float32(out_scale * np.float32(pixels)))
    return to_codes(total.astype(np.float32) * factor, out_zero_point, dtype)


def window_means(
    real_NCHW: Floats, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], *, with_padding: bool
) -> Floats:
    """Means over windows: float32 sums in the order of rows and columns, divided by the number of pixels, with those of
    the padding or without (ONNX Runtime's QLinearAveragePool)."""
    top, left, bottom, right = pads
    edges = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded, inside = np.pad(real_NCHW, edges), np.pad(np.ones(real_NCHW.shape[2:], np.float32), edges[2:])
    rows = (padded.shape[2] - kernel[0]) // strides[0] + 1
    columns = (padded.shape[3] - kernel[1]) // strides[1] + 1
    total = np.zeros((*padded.shape[:2], rows, columns), np.float32)
    pixels = np.zeros((rows, columns), np.float32)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            window = (
                slice(i, i + strides[0] * (rows - 1) + 1, strides[0]),
                slice(j, j + strides[1] * (columns - 1) + 1, strides[1]),
            )
            total += padded[:, :, *window]
            pixels += inside[window]
    counted = np.full_like(pixels, kernel[0] * kernel[1]) if with_padding else pixels
    return np.divide(total, counted, dtype=np.float32)


def max_pool(
    codes_NCHW: Codes, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> Codes:
    """Maximum over windows, of codes or of floats; padding never wins."""
    floats = codes_NCHW.dtype.kind == "f"
    lowest = -np.inf if floats else np.iinfo(codes_NCHW.dtype).min
    top, left, bottom, right = pads
    padded = np.pad(codes_NCHW, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=lowest)
    height = padded.shape[2] - dilations[0] * (kernel[0] - 1)
    width = padded.shape[3] - dilations[1] * (kernel[1] - 1)
    result: Codes | None = None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            window = padded[
                :,
                :,
                i * dilations[0] : i * dilations[0] + height : strides[0],
                j * dilations[1] : j * dilations[1] + width : strides[1],
            ]
            result = window if result is None else np.maximum(result, window)
    return np.ascontiguousarray(result)


def byte(codes: Codes) -> NDArray[np.uint8]:
    """Codes as unsigned bytes, to look them up in a table of 256 entries."""
    return codes.view(np.uint8)


def all_values(scale: np.float32, zero_point: int, dtype: CodeType) -> Floats:
    """The real value of each of the 256 codes, in the order of `byte`."""
    return dequantize(np.arange(256, dtype=np.uint8).view(dtype), scale, zero_point)


def _all_codes(dtype: CodeType) -> Floats:
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)


def _along(values: Floats, axis: int, ndim: int) -> Floats:
    return values.reshape([-1 if index == axis else 1 for index in range(ndim)])
