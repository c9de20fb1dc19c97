"""What foreign code raised (a user's module, torch), in one sentence: its cause and its line."""

import sysconfig
import traceback
from functools import cache
from pathlib import Path

OURS = Path(__file__).parents[1]
ADVERTISEMENTS = (
    "While executing",
    "Use tlparse",
    "Set TORCH",
    "You can suppress",
    "Call using an FX-traced",
    "For debugging consider",
    "Compile with `TORCH",
)
"""Beginnings of what torch puts behind the cause of an error."""


def cause(error: BaseException) -> str:
    """An exception's text in one line, without torch's advertisement; its type where it has no text."""
    lines = []
    for line in (error.msg if isinstance(error, SyntaxError) else str(error)).splitlines():
        if line.strip().lower().startswith(tuple(text.lower() for text in ADVERTISEMENTS)):
            break
        if line.strip():
            lines.append(line.strip())
    if not lines:
        return type(error).__name__
    shown = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return shown.rstrip(".;")


def sentence_of(error: BaseException) -> str:
    """``ValueError: text (file.py:12)``."""
    name, text = type(error).__name__, cause(error)
    return f"{name}{'' if text == name else f': {text}'}{line_of(error)}"


def line_of(error: BaseException) -> str:
    """`` (file.py:12)``: the innermost line of the user's, else of an installed package; empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    return line_of_stack(traceback.extract_tb(error.__traceback__))


def line_of_stack(stack: traceback.StackSummary) -> str:
    """The same, of a stack of calls."""
    frames = [(Path(frame.filename), frame.lineno) for frame in stack]
    for accepted in (is_users, _is_packages):
        for path, number in reversed(frames):
            if accepted(path):
                return f" ({path.name}:{number})"
    return ""


@cache
def is_users(path: Path) -> bool:
    """Whether a file is neither Python's, nor an installed package's, nor ours."""
    if path.name.startswith("<") or path.is_relative_to(OURS):
        return False
    return not any(path.is_relative_to(folder) for folder in {*_packages(), *_standard()})


def _is_packages(path: Path) -> bool:
    """Whether a file is an installed package's, but torch's."""
    return any(path.is_relative_to(folder) and not path.is_relative_to(folder / "torch") for folder in _packages())


def _packages() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))


def _standard() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
