"""Text from files as it may reach a terminal, a log or a page: one line, nothing that a terminal obeys, cut."""

import dataclasses
import re
from typing import Any, TypeVar

T = TypeVar("T")

COLOUR = re.compile("(\n|\x1b\\[[0-9;]{0,12}m)")

LONGEST = 200
"""Characters of one text that are shown: a name, a value, a library's own words."""


def escaped(text: str) -> str:
    """``text`` with everything that is no visible character written as an escape (``\\x1b``, ``\\u202e``): control
    characters, line ends, marks that turn the direction of writing, halves of surrogate pairs."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def plain(text: object, most: int = LONGEST) -> str:
    """`escaped`, and of more than ``most`` characters the first and the last, with ``...`` between them."""
    found = str(text)
    found = escaped(found if len(found) <= 2 * most else f"{found[:most]}{found[-most:]}")
    if len(found) <= most and len(str(text)) <= 2 * most:
        return found
    head = (most - 3) // 2
    return f"{found[:head]}...{found[len(found) - (most - 3 - head) :]}"


def visible(text: str) -> str:
    """Lines for a terminal, `escaped` but for line ends and for colours, which are the program's own (`plain_record`
    leaves none in what came from files)."""
    return "".join(one if COLOUR.fullmatch(one) else escaped(one) for one in COLOUR.split(text))


def plain_record(record: T, most: int = LONGEST) -> T:
    """A frozen record with every text in it `plain`, for people to look at; what has no text stays the same object."""
    found: T = _plain(record, most)
    return found


def _plain(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return plain(value, most)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        settable = {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
        changed = {name: new for name, old in settable.items() if (new := _plain(old, most)) is not old}
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, dict):
        changed = {_plain(key, most): _plain(item, most) for key, item in value.items()}
        return changed if len(changed) == len(value) and changed != value else value
    if isinstance(value, list | tuple):
        items = [_plain(item, most) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    return value
