"""Bytes that an engine's kernels read and write, counted from the compiler's list of its layers.

Every input and output of every kernel counts once, at the size of its type; constants do not: weights are told apart.
It is what is planned: what caches hold back, only a run can say.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.export.runtimes.tensorrt.inspect import works
from limpq_deploy.export.runtimes.tensorrt.precision import tensor_types

_BITS = {
    "Float": 32, "Half": 16, "BFloat16": 16, "BF16": 16, "FP8": 8, "E8M0": 8, "FP4": 4,
    "Int4": 4, "Int8": 8, "UInt8": 8, "Bool": 8, "Int32": 32, "Int64": 64,
}  # fmt: skip

Entry = Mapping[str, Any]
"""A layer, as `inspect.parse_layers` has it."""


def kernels(entries: Sequence[Entry]) -> int:
    """Layers that launch something."""
    return sum(works(entry["LayerType"]) for entry in entries)


def moved_bytes(entries: Sequence[Entry], batch: int) -> dict[str, int]:
    """Bytes by type for a batch of images, which stands where a size is free (-1). Raises RecordError for a type of
    unknown size."""
    found: dict[str, int] = {}
    for entry in entries:
        if not works(entry["LayerType"]):
            continue
        for tensors in (entry["Inputs"], entry["Outputs"]):
            for tensor, name in zip(tensors, tensor_types(tensors), strict=True):
                found[name] = found.get(name, 0) + tensor_bytes(tensor, batch)
    return found


def tensor_bytes(tensor: Entry, batch: int) -> int:
    """Bytes of one tensor; a batch stands where a size is free. Raises RecordError for a type of unknown size."""
    bits = _BITS.get(tensor["Datatype"])
    if bits is None:
        raise RecordError(
            f"the compiler's log has tensors of type {tensor['Datatype']!r}, whose size is not known here"
        )
    return (prod(batch if size < 0 else size for size in tensor["Dimensions"]) * bits + 7) // 8
