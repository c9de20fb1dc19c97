"""The type that a layer of a TensorRT engine computes in, from what its inspector tells: weights, kernel, tensors.

Of an engine whose batch is free the inspector writes "N/A due to dynamic shapes" for every tensor, unless an execution
context with its shapes set is given to it (NVIDIA's documentation, "Engine Inspector"), and on 8.6 perhaps even then.
Weights and the kernel's name are there in any case.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

UNKNOWN = "unknown"
"""Nothing that the inspector tells has a type in it."""

_TYPES = (
    (re.compile(r"\bint8\b|\bi8\b", re.I), "int8"),
    (re.compile(r"\b(fp8|float8\w*|f8\w*)\b", re.I), "float8"),
    (re.compile(r"\b(bf16|bfloat16)\b", re.I), "bfloat16"),
    (re.compile(r"\b(fp16|half|float16)\b", re.I), "float16"),
    (re.compile(r"\b(fp32|float|float32)\b", re.I), "float32"),
    (re.compile(r"\bint4\b", re.I), "int4"),
    (re.compile(r"\bint32\b", re.I), "int32"),
    (re.compile(r"\bint64\b", re.I), "int64"),
    (re.compile(r"\bbool\b", re.I), "bool"),
)
"""Types as the inspector spells them, the most telling spelling first; a format that has no type in it has none."""

_KERNELS = (
    (re.compile(r"i8(i8|i32|f16|f32)_|int8|imma|(?<![a-z0-9])[is]8(?![a-z0-9])|igemm", re.I), "int8"),
    (re.compile(r"e4m3|e5m2|fp8", re.I), "float8"),
    (re.compile(r"bf16", re.I), "bfloat16"),
    (re.compile(r"f16f16|fp16|hmma|hgemm|h884|h1688|h16816|hcudnn", re.I), "float16"),
    (re.compile(r"f32f32|tf32|fp32|sgemm|scudnn|ffma", re.I), "float32"),
)
"""Types in names of kernels, such as ``sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw``: operands
and result, sums, scaling. The narrowest operands first: an INT8 kernel names FP32 too."""

_COMPUTING = re.compile(r"conv|correlation|gemm|matmul|matrix_?multiply|fully_?connected|fprop|^runtime_fusion$", re.I)
"""Kinds of layers, parameters and kernels that multiply matrices. A "correlation" is a convolution, a "runtime_fusion"
a product with what follows it, in TensorRT-RTX 1.7 and perhaps in TensorRT 11, whose compiler is the same."""


def precision_of(entry: Mapping[str, Any], kind: str) -> str:
    """Type of a layer's computation, of its first output where it computes nothing, or `UNKNOWN`.

    The weights' type decides. Where the first input is known to have another one, the kernel's name does, or else the
    wider type: INT8 weights may be stored for a product in FP16. Without weights: the kernel, then the tensors.
    """
    first_in, first_out = (_tensor_type(entry.get(key)) for key in ("Inputs", "Outputs"))
    weight, kernel = weight_type(entry), kernel_type(str(entry.get("TacticName") or ""))
    if weight is not None:
        if first_in in (None, weight):
            return weight
        assert first_in is not None
        return kernel if kernel in (weight, first_in) else max(weight, first_in, key=_width)
    if computes(kind, str(entry.get("ParameterType") or ""), str(entry.get("TacticName") or "")):
        return kernel or first_in or UNKNOWN
    return first_out or first_in or kernel or UNKNOWN


def weight_type(entry: Mapping[str, Any]) -> str | None:
    """Type of a layer's weights; None where it has none, or the inspector does not say. They stand in "Weights", or are
    the largest of the "Constants" of a layer that multiplies, beside scales and bias."""
    weights = entry.get("Weights")
    if isinstance(weights, Mapping) and weights.get("Count") != 0:
        return _type_in(str(weights.get("Type", "")))
    constants = entry.get("Constants")
    if not isinstance(constants, list) or not constants or not computes(str(entry.get("LayerType", ""))):
        return None
    return _tensor_type([max(constants, key=_elements)])


def kernel_type(name: str) -> str | None:
    """Type that a kernel of this name computes in; None where the name tells none."""
    return next((kind for pattern, kind in _KERNELS if pattern.search(name)), None)


def computes(*words: str) -> bool:
    """Whether a layer of this kind, parameters or kernel multiplies matrices."""
    return any(_COMPUTING.search(word) for word in words)


def _elements(tensor: Any) -> int:
    sizes = tensor.get("Dimensions") if isinstance(tensor, Mapping) else None
    return prod(int(size) for size in sizes) if isinstance(sizes, list) else 0


def tensor_types(tensors: Any) -> tuple[str, ...]:
    """Types of a layer's inputs or outputs, in their order; `UNKNOWN` for those that are not told."""
    return tuple(_tensor_type([one]) or UNKNOWN for one in tensors) if isinstance(tensors, list) else ()


def _tensor_type(tensors: Any) -> str | None:
    if not isinstance(tensors, list) or not tensors or not isinstance(tensors[0], Mapping):
        return None
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        if key in tensors[0] and (found := _type_in(str(tensors[0][key]))) is not None:
            return found
    return None


def _type_in(text: str) -> str | None:
    return next((name for pattern, name in _TYPES if pattern.search(text)), None)


def _width(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits.group()) if digits else 0
