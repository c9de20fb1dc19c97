"""Weights at their true bits in a file: a form for storing and sending, made from the engine's file and back.

No runtime here computes in 4 or 2 bits: a DequantizeLinear of int4 weights stops ONNX Runtime's fusion, so that the
layer runs in float, and TensorRT plans no int4 convolution. So the stored file stands beside the engine's, and
`unpack_weights` gives the engine's back byte for byte.

A weight of at most 4 bits becomes (U)INT4 (opset 21), one of 2 bits (U)INT2 where that is asked for (opset 25). Wider
ones stay int8. Codes that are written as multiples of a power of two (`folding`) are divided by it, and the scale is
multiplied: the same real numbers, bit for bit. A channel whose sign BatchNorm has flipped may hold +2^(b-1), which a
signed type does not: such a weight is unsigned, with a zero-point for each channel.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError, RecordError
from limpq_deploy.calibration.json_text import parse_json
from limpq_deploy.export.graph.checked import check

STORAGE_KEY = "limpq.storage"
"""Metadata of a stored file: JSON, how to get the engine's file back."""

Storage = Literal["int4", "int2"]
NARROWEST: Mapping[str, int] = {"int4": 4, "int2": 2}
OPSETS: Mapping[int, int] = {4: 21, 2: 25}
"""Opset from which a file may hold integers of so many bits."""


@dataclass(frozen=True, slots=True)
class _Packed:
    """Codes [O, ...] of a narrow type, zero-points [O] of it, and what the engine's codes are multiples of."""

    codes: NDArray[Any]
    zero_points: NDArray[Any]
    step: int


def pack_weights(model: onnx.ModelProto, weight_bits: Mapping[str, int], storage: Storage) -> onnx.ModelProto:
    """A copy of an exported file with weights at their true bits. ``weight_bits``: nominal, by layer.

    Left as they are: layers without int8 codes, those of more than 4 bits, and the rare one whose codes do not fit (a
    channel next to nothing, whose codes were rounded to a step of their own).
    """
    packed = onnx.ModelProto()
    packed.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in packed.graph.initializer}
    steps: dict[str, int] = {}
    needed = 0
    for layer, bits in weight_bits.items():
        names = [f"{layer}.weight_{part}" for part in ("codes", "scale", "zero_point")]
        if bits > 4 or any(name not in tensors for name in names):
            continue
        container = max(NARROWEST[storage], 2 if bits <= 2 else 4)
        found = _pack(numpy_helper.to_array(tensors[names[0]]), container)
        if found is None:
            continue
        scale = numpy_helper.to_array(tensors[names[1]]) * np.float32(found.step)
        for name, value in zip(names, (found.codes, scale, found.zero_points), strict=True):
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))
        steps[layer] = found.step
        needed = max(needed, OPSETS[container])
    opset = next(entry for entry in packed.opset_import if entry.domain == "")
    facts = {"steps": steps, "opset": opset.version, "ir_version": packed.ir_version}
    packed.metadata_props.add(key=STORAGE_KEY, value=json.dumps(facts, sort_keys=True))
    opset.version = max(opset.version, needed)
    packed.ir_version = max(packed.ir_version, helper.find_min_ir_version_for(list(packed.opset_import)))
    check(packed)
    return packed


def unpack_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The engine's file of a stored one; serialized deterministically it is the file that was packed, byte for byte.

    Raises ModelError for a file that was not packed here, or whose metadata is damaged.
    """
    unpacked = onnx.ModelProto()
    unpacked.CopyFrom(model)
    facts = _facts(unpacked)
    tensors = {tensor.name: tensor for tensor in unpacked.graph.initializer}
    for layer, step in facts["steps"].items():
        names = [f"{layer}.weight_{part}" for part in ("codes", "scale", "zero_point")]
        if any(name not in tensors for name in names):
            raise ModelError(f"the stored file has no weight of layer {layer!r}, which it says it holds; pack it again")
        codes, scale, zero = (numpy_helper.to_array(tensors[name]) for name in names)
        column = zero.astype(np.int16)[(slice(None),) + (None,) * (codes.ndim - 1)]
        wide = ((codes.astype(np.int16) - column) * step).astype(np.int8)
        values = (wide, scale / np.float32(step), np.zeros(zero.shape, np.int8))
        for name, value in zip(names, values, strict=True):
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))
    next(entry for entry in unpacked.opset_import if entry.domain == "").version = facts["opset"]
    unpacked.ir_version = facts["ir_version"]
    kept = [(entry.key, entry.value) for entry in unpacked.metadata_props if entry.key != STORAGE_KEY]
    helper.set_model_props(unpacked, dict(kept))
    check(unpacked)
    return unpacked


def _pack(codes: NDArray[np.int8], container: int) -> _Packed | None:
    """Codes in a type of ``container`` bits; None where they do not fit."""
    step = _step(codes)
    narrow = codes.astype(np.int16) // step
    flat = narrow.reshape(len(narrow), -1)
    middle = 2 ** (container - 1)
    flipped = flat.max(axis=1, initial=0) == middle
    if flat.max(initial=0) > middle or (flat.min(axis=1, initial=0) < -middle + flipped).any():
        return None
    signed, unsigned = (
        (TensorProto.INT4, TensorProto.UINT4) if container == 4 else (TensorProto.INT2, TensorProto.UINT2)
    )
    dtype = helper.tensor_dtype_to_np_dtype(unsigned if flipped.any() else signed)
    zero = (middle - flipped if flipped.any() else np.zeros(len(flat))).astype(np.int16)
    column = zero[(slice(None),) + (None,) * (narrow.ndim - 1)]
    return _Packed((narrow + column).astype(dtype), zero.astype(dtype), step)


def _step(codes: NDArray[np.int8]) -> int:
    """The largest power of two that all codes are multiples of."""
    step = 1
    while step < 64 and not np.any(codes % (2 * step)):
        step *= 2
    return step


def _facts(model: onnx.ModelProto) -> dict[str, Any]:
    text = next((entry.value for entry in model.metadata_props if entry.key == STORAGE_KEY), None)
    if text is None:
        raise ModelError("the model has no stored weights; give the file that --storage wrote")
    try:
        facts = parse_json(text, STORAGE_KEY)
        sound = (
            isinstance(facts["opset"], int)
            and isinstance(facts["ir_version"], int)
            and all(isinstance(step, int) and step > 0 for step in facts["steps"].values())
        )
    except (RecordError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ModelError(f"the model has damaged metadata {STORAGE_KEY}; pack it again")
    return dict(facts)
