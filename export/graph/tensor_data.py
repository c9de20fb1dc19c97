"""The numbers of an ONNX file's tensors: as many as their shapes say, and from nowhere but the file's own folder."""

import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto

from limpq_deploy.export.graph.graph_rules import named, subgraphs


@dataclass(frozen=True, slots=True)
class _Storage:
    """How a type is kept: ``bits`` of one element in raw data; ``field`` that may hold it instead, and how many entries
    of it one element takes (``entries``; a half for two to one)."""

    bits: int
    field: str
    entries: Fraction = Fraction(1)


_TYPES = frozenset(TensorProto.DataType.keys())

_STORAGE: Mapping[int, _Storage] = {
    TensorProto.FLOAT: _Storage(32, "float_data"),
    TensorProto.COMPLEX64: _Storage(64, "float_data", Fraction(2)),
    TensorProto.DOUBLE: _Storage(64, "double_data"),
    TensorProto.COMPLEX128: _Storage(128, "double_data", Fraction(2)),
    TensorProto.INT64: _Storage(64, "int64_data"),
    TensorProto.UINT64: _Storage(64, "uint64_data"),
    TensorProto.UINT32: _Storage(32, "uint64_data"),
    TensorProto.INT32: _Storage(32, "int32_data"),
    **{kind: _Storage(16, "int32_data") for kind in (TensorProto.INT16, TensorProto.UINT16)},
    **{kind: _Storage(16, "int32_data") for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16)},
    **{kind: _Storage(8, "int32_data") for kind in (TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL)},
    **{
        TensorProto.DataType.Value(name): _Storage(8, "int32_data")
        for name in ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0")
        if name in _TYPES
    },
    **{
        TensorProto.DataType.Value(name): _Storage(bits, "int32_data", Fraction(bits, 8))
        for name, bits in (("UINT4", 4), ("INT4", 4), ("FLOAT4E2M1", 4), ("UINT2", 2), ("INT2", 2))
        if name in _TYPES
    },
}

_FIELDS = ("float_data", "double_data", "int64_data", "uint64_data", "int32_data", "string_data")


def settle_tensors(model: onnx.ModelProto, folder: Path, limit: int, *, used: int) -> str | None:
    """Check every tensor and read its external data from ``folder`` in, in place.

    ``limit``: bytes that the model may take, of which ``used`` are taken. Returns what is wrong, as the end of a
    sentence; None where nothing is. Sizes are compared before anything is read.
    """
    if problem := _input_problem(model.graph, limit):
        return problem
    for place, tensor in _tensors(model.graph):
        if tensor is None:
            return f"{place} is sparse; write it as a plain tensor"
        size = _declared_bytes(tensor)
        if isinstance(size, str):
            return f"{place} {size}"
        if tensor.data_location != TensorProto.EXTERNAL:
            if problem := _held_problem(tensor, size):
                return f"{place} {problem}"
            continue
        used += size
        if used > limit:
            return f"{place} would bring it to {used:,} bytes; a model may have {limit:,}: give a smaller one"
        try:
            if problem := _read_in(tensor, folder, size):
                return f"{place} {problem}"
        except OSError as error:
            return f"{place} keeps its data in a file that cannot be read ({error.strerror or error})"
    return None


def _input_problem(graph: onnx.GraphProto, limit: int) -> str | None:
    for value in graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if any(size < 0 for size in sizes) or 4 * math.prod(sizes) > limit:
            return f"its input {value.name!r} has the shape {sizes}; expected sizes from 0, {limit:,} bytes in all"
    return None


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto | None]]:
    """Every tensor with its place in words; None for a sparse one."""
    for tensor in graph.initializer:
        yield f"its tensor {tensor.name!r}", tensor
    for sparse in graph.sparse_initializer:
        yield f"its tensor {sparse.values.name!r}", None
    for node in graph.node:
        for attribute in node.attribute:
            place = f"attribute {attribute.name!r} of {named(node)}"
            if attribute.HasField("t"):
                yield place, attribute.t
            yield from ((place, tensor) for tensor in attribute.tensors)
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                yield place, None
        for body in subgraphs(node):
            yield from _tensors(body)


def _declared_bytes(tensor: TensorProto) -> int | str:
    """Bytes of raw data that shape and type ask for (0 for strings), or what is wrong with them."""
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}; sizes are not negative: it is damaged, export it again"
    if tensor.data_type == TensorProto.STRING:
        return 0
    storage = _STORAGE.get(tensor.data_type)
    if storage is None:
        return f"has the type {tensor.data_type}, unknown to ONNX {onnx.__version__}; export it again"
    return -(-math.prod(tensor.dims) * storage.bits // 8)


def _held_problem(tensor: TensorProto, size: int) -> str | None:
    """Whether a tensor inside the file holds what its shape says."""
    shape = list(tensor.dims)
    filled = [name for name in _FIELDS if len(getattr(tensor, name))]
    if tensor.HasField("raw_data"):
        if tensor.data_type == TensorProto.STRING or filled:
            return "holds its numbers in two forms; it is damaged, export it again"
        if len(tensor.raw_data) != size:
            return f"has the shape {shape}, {size:,} bytes, and holds {len(tensor.raw_data):,}; export it again"
        return None
    strings = tensor.data_type == TensorProto.STRING
    field, entries = ("string_data", Fraction(1)) if strings else _entries(tensor.data_type)
    expected, found = math.ceil(math.prod(tensor.dims) * entries), len(getattr(tensor, field))
    if found != expected or any(name != field for name in filled):
        return f"has the shape {shape}, {expected:,} numbers, and holds {found:,} of its type; export it again"
    return None


def _entries(data_type: int) -> tuple[str, Fraction]:
    storage = _STORAGE[data_type]
    return storage.field, storage.entries


def _read_in(tensor: TensorProto, folder: Path, size: int) -> str | None:
    """Put the bytes of an external tensor into it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if problem := _location_problem(location, folder):
        return f"keeps its data in {location!r}, {problem}"
    offset, length = (_whole(entries.get(key, default)) for key, default in (("offset", "0"), ("length", str(size))))
    if offset is None or length is None:
        return f"has the offset {entries.get('offset')!r} and length {entries.get('length')!r}; expected whole numbers"
    if length != size:
        return f"has the shape {list(tensor.dims)}, {size:,} bytes, but {length:,} in {location!r}; export it again"
    if tensor.data_type == TensorProto.STRING:
        return f"keeps strings in {location!r}; they belong into the model"
    descriptor = os.open(folder / location, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as stream:
        there = os.fstat(descriptor).st_size
        if offset + size > there:
            return f"ends at byte {offset + size:,} of {location!r}, which has {there:,}; fetch that file again"
        stream.seek(offset)
        data = stream.read(size)
    if len(data) != size:
        return f"could not be read whole from {location!r}; fetch that file again"
    tensor.raw_data = data
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    return None


def _location_problem(location: str, folder: Path) -> str | None:
    """Why a file is none of the model's; links are not followed, not even inside the folder."""
    if not location or "\0" in location:
        return "which names no file; export it again"
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        return "an absolute path; expected a file in the model's folder: put it there and save the model again"
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if ".." in parts:
        return "outside the model's folder; put it there and save the model again"
    if "\\" in location:
        return "which has a backslash; write / between folders"
    place = folder
    for number, part in enumerate(parts):
        place = place / part
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            return "which does not exist; fetch it with the model"
        if stat.S_ISLNK(mode):
            return f"where {part!r} is a symbolic link; put the file itself there"
        if number + 1 == len(parts) and not stat.S_ISREG(mode):
            return "which is no plain file; put the file itself there"
    return None


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
