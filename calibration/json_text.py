"""The one reader of JSON that came from outside: a file, a model's metadata, a checkpoint's header.

Strict where readers differ: UTF-8 without a byte order mark, no halves of surrogate pairs, every name once in its
object, finite numbers, whole numbers of at most 128 bits (a random generator has such), at most 200 levels, bounded in
size.
"""

import json
import stat
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.plain_text import plain

MAX_BYTES = 2**28
"""Largest JSON text: the raw samples of 100 latency series of an hour each take a tenth of it."""

SENTENCE, ORIGIN, REASON = 300, 110, 120
"""Characters of a sentence, and in it of a place and of a reason."""

REMEDY = "the file is damaged or of another kind, make it again"


def parse_json(text: str | bytes, origin: str) -> Any:
    """The value of a JSON text. ``origin`` names where it came from. Raises RecordError, in one sentence."""
    from pydantic_core import from_json

    try:
        data = text.encode() if isinstance(text, str) else text
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data):,} bytes, of {MAX_BYTES:,} that are read")
        if data[:3] == b"\xef\xbb\xbf" or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("a byte order mark at its start; save it as UTF-8 without one")
        from_json(data, allow_inf_nan=False)  # its syntax, strictly, and at most 200 levels
        return json.loads(data.decode(), object_pairs_hook=_distinct, parse_float=_finite, parse_int=_bounded)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{place(origin)} is not valid JSON ({plain(error, REASON)}); {REMEDY}") from error


def read_whole(path: Path, wanted: str) -> bytes:
    """The bytes of a plain file of text. ``wanted``: what it should have been, as ``a list of names``. Raises
    RecordError where it cannot be read, is no plain file, or is too large."""
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no plain file"
            raise RecordError(f"cannot read {place(path)}: it is {kind}; expected {wanted}")
        if found.st_size > MAX_BYTES:
            raise RecordError(
                f"{place(path)} has {found.st_size:,} bytes, of {MAX_BYTES:,} that are read; expected {wanted}"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        why = getattr(error, "strerror", None) or error
        raise RecordError(f"cannot read {place(path)}: {why}; expected {wanted}") from error


def load_json(path: Path, wanted: str) -> Any:
    """The value of a JSON file; see `read_whole` and `parse_json`."""
    return parse_json(read_whole(path, wanted), str(path))


def place(origin: object) -> str:
    """Where a text came from, as a sentence names it."""
    return plain(origin, ORIGIN)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {json.dumps(plain(twice, 60))} stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{plain(text, 40)} is no finite number")
    return value


def _bounded(text: str) -> int:
    if len(text) > 40 or not -(2**127) <= (value := int(text)) < 2**128:
        raise ValueError(f"{plain(text, 40)} has more than 128 bits")
    return value
