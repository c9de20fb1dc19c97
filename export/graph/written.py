"""Models written to files tensor by tensor.

Protobuf makes the bytes of a whole model in memory that it doubles as it goes, up to four times the model. A message's
bytes are those of its fields one behind the other, so that large ones can be written by themselves, in the same order.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import Message

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.loading import MAX_BYTES
from limpq_deploy.export.graph.onnx_files import copied_fields

LENGTH_DELIMITED = 2
"""Wire type of messages and texts."""


def write_model(path: Path, model: onnx.ModelProto) -> None:
    """Write what ``model.SerializeToString(deterministic=True)`` gives, and hold one tensor of it at a time.

    Raises ModelError for a model that is larger than `MAX_BYTES`, which nobody could read.
    """
    parts = list(_in_order(model.graph, "initializer"))
    size = sum(len(head) + (len(body) if isinstance(body, bytes) else body.ByteSize()) for head, body in parts)
    before, after = _around(model, "graph")
    head = _head(model, "graph", size)
    whole = len(before) + len(head) + size + len(after)
    if whole > MAX_BYTES:
        raise ModelError(
            f"the model has {whole / 2**30:.2f} GiB as an ONNX file, and runtimes take less than 2 GiB in one; export "
            "a smaller model"
        )
    with path.open("wb") as file:
        file.write(before + head)
        for head, body in parts:
            file.write(head)
            file.write(body if isinstance(body, bytes) else body.SerializeToString(deterministic=True))
        file.write(after)


def _in_order(message: Message, name: str) -> Iterator[tuple[bytes, bytes | Message]]:
    """Heads and bodies of a message's fields; those of the repeated field ``name`` one by one, not yet as bytes."""
    before, after = _around(message, name)
    yield b"", before
    for one in getattr(message, name):
        yield _head(message, name, one.ByteSize()), one
    yield b"", after


def _around(message: Message, name: str) -> tuple[bytes, bytes]:
    """Bytes of the fields whose numbers are less than that of field ``name``, and of those with greater ones."""
    numbers = {field.name: field.number for field in message.DESCRIPTOR.fields}
    halves = []
    for less in (True, False):
        half = type(message)()
        left_out = [one for one, number in numbers.items() if one == name or (number < numbers[name]) != less]
        copied_fields(message, half, without=left_out)
        halves.append(half.SerializeToString(deterministic=True))
    return halves[0], halves[1]


def _head(message: Message, name: str, size: int) -> bytes:
    """What stands before the bytes of a field that is a message: its number and wire type, and its length."""
    return _varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | LENGTH_DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have their highest bit set."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
