"""The user's line behind each node of a traced graph."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from torch import fx

WRITTEN_AT = "written_at"
"""Where a node's meta holds its line. torch.fx's own record of it imports torch's compiler, which takes seconds."""


def written_at(node: fx.Node) -> str:
    """`` (file.py:12)``: the line that made a call, for a sentence; empty where it is not known."""
    return str(node.meta.get(WRITTEN_AT, ""))


def note_line(node: fx.Node, is_machinery: Callable[[str], bool], root: object) -> None:
    """Note the innermost line on the stack that is no machinery's, up to the call of ``root``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_machinery(frame.f_code.co_filename):
        frame = None if frame.f_code is root else frame.f_back
    if frame is not None:
        node.meta[WRITTEN_AT] = line(frame)


def line(frame: FrameType) -> str:
    """`` (file.py:12)``."""
    return f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
