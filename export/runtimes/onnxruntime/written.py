"""What ONNX Runtime writes into a folder for temporary files: it does not say where the disk was too full for it."""

import json
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from limpq_deploy.calibration.errors import OutputError


def read_graph(path: Path) -> onnx.ModelProto:
    """The graph that a session executes. Raises OutputError where it is not there whole."""
    try:
        return onnx.load(path)
    except (DecodeError, OSError) as error:
        raise no_room(path, "the graph") from error


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a profile. Raises OutputError where they are not there whole."""
    try:
        events: list[dict[str, Any]] = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise no_room(path, "the profile") from error
    return events


def no_room(path: Path, what: str) -> OutputError:
    """``what`` could not be written to ``path``, or is cut off."""
    return OutputError(
        f"ONNX Runtime did not write {what} whole to the folder for temporary files {path.parent.parent}; make room "
        "there, or name another folder in TMPDIR"
    )
