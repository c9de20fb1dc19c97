"""Every ONNX file is read here: checked by name before anything in it is used, its external data read in.

Order of the checks: the file itself, its protobuf, versions and operators, the order of its nodes, the size of every
tensor, and last what onnx's own checker knows of each operator.
"""

import stat
from pathlib import Path

import onnx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.export.graph.graph_rules import graph_problem
from limpq_deploy.export.graph.tensor_data import settle_tensors

MAX_BYTES = 2**31 - 1
"""Largest model: what one protobuf message holds, and so what a runtime can be handed."""

LONGEST_PROBLEM = 400
"""Characters of what is wrong with a file, names of its own in it."""


class ModelRefused(ModelError):
    """An ONNX file is damaged, unsafe or of a form that is not read; the sentence names the part and the reason."""


def load_model(path: Path, *, limit: int = MAX_BYTES) -> onnx.ModelProto:
    """Read and check an ONNX file; what is returned holds all its tensors and refers to no other file.

    ``limit``: bytes that file and external data may take together. External data is read from plain files in the
    model's own folder (or below) only. The standard domain is always spelled "". Raises ModelRefused, and ModelError
    where the file cannot be read.
    """
    path = Path(path)
    data = _read(path, limit)
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        raise ModelRefused(
            f"{path} is not an ONNX file, or it is cut off or damaged ({plain(error)}); fetch or export it again"
        ) from error
    used = len(data)
    del data  # a copy of all weights
    problem = graph_problem(model) or settle_tensors(model, path.parent, limit, used=used)
    if problem is not None:
        raise ModelRefused(f"{path} is refused: {plain(problem, LONGEST_PROBLEM)}")
    _require_sound(model, path)
    return model


def _read(path: Path, limit: int) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no plain file"
            raise ModelRefused(f"{path} is {kind}; expected an ONNX file")
        if found.st_size > limit:
            raise ModelRefused(f"{path} has {found.st_size:,} bytes; a model may have {limit:,}: give a smaller one")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}; expected an ONNX file") from error
    if not data:
        raise ModelRefused(f"{path} is empty; expected an ONNX file: fetch or export it again")
    return data


def _require_sound(model: onnx.ModelProto, path: Path) -> None:
    """Attributes and numbers of inputs, as the operators' own definitions have them. Results may be of any shape: the
    checker wants one named, runtimes do not."""
    shapeless = [
        value.type.tensor_type
        for value in model.graph.output
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    for kind in shapeless:
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and what damaged bytes make of others
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = plain(lines[0].rstrip(".") if lines else type(error).__name__)
        raise ModelRefused(f"{path} is refused: it breaks a rule of ONNX ({why}); export the model again") from error
    finally:
        for kind in shapeless:
            kind.ClearField("shape")
