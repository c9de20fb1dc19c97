"""Names that can stand in a line of UTF-8 text: in labels.txt, in metadata, in a report, on a terminal."""

import unicodedata
from collections.abc import Iterable

from limpq_deploy.calibration.errors import DataError

BROKEN = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories of control characters, of halves of characters (Python's stand-ins for bytes that are no UTF-8),
and of what ends a line or a paragraph. Everything that `str.splitlines` splits on is among them."""

TURNING = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Bidirectional classes of characters that show what follows in another order than it is stored."""


def require_plain(names: Iterable[object], origin: str) -> None:
    """Raise DataError for a class name that is no string, is blank, or holds what cannot stand in a line of text."""
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{origin} has a class {name!r} of type {type(name).__name__}; expected a string")
        bad = next((character for character in name if not _is_plain(character)), None)
        if bad is not None:
            raise DataError(
                f"{origin} has a class '{shown(name)}' with {_kind(bad)}, which labels.txt and other programs cannot "
                "hold in one line; give it another name"
            )
        if not name.strip():
            raise DataError(f"{origin} has a class {name!r} without any letter; give it a name")


def shown(text: object) -> str:
    """Text, such as a path, with what cannot stand in a line written as Python escapes it."""
    return "".join(
        character if _is_plain(character) else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )


def _is_plain(character: str) -> bool:
    return unicodedata.category(character) not in BROKEN and unicodedata.bidirectional(character) not in TURNING


def _kind(character: str) -> str:
    if unicodedata.category(character) == "Cs":
        return "bytes that are no UTF-8"
    if character.splitlines() == [""]:
        return f"an end of line (U+{ord(character):04X})"
    kind = "a control character" if unicodedata.category(character) == "Cc" else "a character that turns text round"
    return f"{kind} (U+{ord(character):04X})"
