"""The compiler's own list of an engine's layers, read: every kernel with its types, sizes and constants.

It is one message of severity VERBOSE, written where the verbosity of the profile is DETAILED: a line for each layer,

    Name: N, LayerType: T, Inputs: [ { Name: ..., Dimensions: [-1,3], Strides: ..., Datatype: Float, ... }], Constants:
    [...], Outputs: [...], TacticName: ..., StreamId: 0, Metadata: [ONNX Layer: a][ONNX Layer: b]

(1.7.1). Entries come out in the words of TensorRT's inspector, so that both are read by the same code.
"""

import re
from collections.abc import Iterable
from typing import Any

from limpq_deploy.calibration.errors import RecordError

_LAYER = re.compile(
    r"Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w+), Inputs: \[(?P<Inputs>.*)\], "
    r"Constants: \[(?P<Constants>.*)\], Outputs: \[(?P<Outputs>.*)\], "
    r"TacticName: (?P<TacticName>.*?), StreamId: \d+(?:, EventId: \d+)?, Metadata: ?(?P<Metadata>.*)"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<Name>.*?), Dimensions: \[(?P<Dimensions>[-\d,]*)\], Strides: \[.*?\], (?:StrideOrder: \[.*?\], )?"
    r"Datatype: (?P<Datatype>\w+)"
)
_FUSED = re.compile(r"__myl_((?:[A-Z][a-z0-9]*)+)_")
_OPERATION = re.compile(r"[A-Z][a-z0-9]*")
_SHORT = {
    "Aver": "Average", "Conc": "Concat", "Repl": "Replicate", "Resh": "Reshape", "Roun": "Round", "Slic": "Slice",
    "Tran": "Transpose", "Sigm": "Sigmoid",
}  # fmt: skip
"""Operations in a kernel's name are cut to four letters."""

_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")


def parse_layers(text: str) -> list[dict[str, Any]]:
    """Entries of an engine's layers in execution order. Raises RecordError for text of another form."""
    lines = [line for line in text.splitlines() if line.startswith("Name: ")]
    if not lines:
        raise RecordError("the compiler's log lists no layers; this version writes them in another form")
    return [_entry(line) for line in lines]


def weight_bytes(messages: Iterable[str]) -> int | None:
    """Bytes of the engine's weights, as the log says; None where it does not."""
    return next((int(found[1]) for message in messages if (found := _WEIGHTS.search(message))), None)


def _entry(line: str) -> dict[str, Any]:
    found = _LAYER.fullmatch(line)
    if found is None:
        raise RecordError(f"the compiler's log lists a layer in an unknown form: {line[:80]!r}; report it with the log")
    fields: dict[str, Any] = found.groupdict()
    for name in ("Inputs", "Constants", "Outputs"):
        fields[name] = [_tensor(one) for one in _TENSOR.finditer(fields[name])]
    fused = _FUSED.match(fields["TacticName"])
    words = _OPERATION.findall(fused[1]) if fused else []
    return {**fields, "Operations": [_SHORT.get(word, word) for word in words]}


def _tensor(found: re.Match[str]) -> dict[str, Any]:
    sizes = [int(size) for size in found["Dimensions"].split(",") if size]
    return {"Name": found["Name"], "Dimensions": sizes, "Datatype": found["Datatype"]}
