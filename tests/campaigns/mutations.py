"""Ways to damage a file: bytes, text, and the structure of JSON."""

import copy
import json
import random
from typing import Any

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 9, 33, 2**31, 2**63, -(2**63) - 1, 10**30, 10**120, 0.5, -0.5, 1e308, 1e-320),
    *("", "x", "x" * 5000, "\x1b[2J\x1b]0;owned\x07", "\u202eabc", "../../etc/passwd", "a\nb", "\0", "é" * 80, "-1"),
    *([], {}, [[]], [1], ["a"], {"": 1}, {"a": {"b": []}}, [None], "NaN", "Infinity", [1e308, 1e308]),
)
LITERALS = ("NaN", "-Infinity", "1e999", "9" * 5000, "[" * 300 + "]" * 300, '"\\ud800"', "01", "tru", "'a'", "")

STRAY = (b"\0", b"\xff", b"\x1b[2J", b'"', b"[" * 1000, b",", b"\xed\xa0\x80")
"""Bytes that are put in somewhere."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to three mistakes; JSON is damaged in its structure three times out of four."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if document is not None and rng.random() < 0.75:
            data = structure(document, rng)
            try:
                document = json.loads(data)
            except (ValueError, RecursionError):
                return data
        else:
            data, document = in_bytes(data, rng), None
    return data


def structure(document: Any, rng: random.Random) -> bytes:
    """The JSON of a document of which one value, name or entry was changed."""
    document = copy.deepcopy(document)
    found = places(document)
    if not found:
        return json.dumps(rng.choice(NASTY)).encode()
    holder, key = rng.choice(found)
    kind = rng.randrange(7)
    if kind <= 2:
        holder[key] = copy.deepcopy(rng.choice(NASTY))
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        mark = "@@MARK@@"
        holder[key] = mark
        return json.dumps(document).replace(json.dumps(mark), rng.choice(LITERALS), 1).encode()
    elif kind == 5 and isinstance(holder, dict):
        text = json.dumps(holder[key])
        mark = "@@MARK@@"
        value, holder[key] = holder[key], mark
        again = f"{text}, {json.dumps(key)}: {json.dumps(value)}"
        return json.dumps(document).replace(json.dumps(mark), again, 1).encode()
    elif isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(rng.choice((holder[key], *NASTY))))
    else:
        holder[rng.choice(("", "x" * 400, "\x1b[31m", "bits", "name"))] = holder.pop(key)
    return json.dumps(document).encode()


def places(document: Any) -> list[tuple[Any, Any]]:
    """(holder, key or index) of every value of a document, at most some thousand."""
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending and len(found) < 5000:
        one = pending.pop()
        keys: list[Any] = list(one) if isinstance(one, dict) else list(range(len(one))) if isinstance(one, list) else []
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list):
                pending.append(one[key])
    return found


def in_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes taken out, doubled or put in, the file cut off, in another encoding, or other bytes."""
    size = len(data)
    at = rng.randrange(size) if size else 0
    kind = rng.randrange(10)
    if kind <= 2 and size:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 3:
        return data[:at]
    if kind == 4:
        return data[:at] + data[at + rng.randrange(1, 40) :]
    if kind == 5:
        return data[:at] + rng.choice(STRAY) + data[at:]
    if kind == 6:
        return data[: at + rng.randrange(200)] + data[at:]
    if kind == 7:
        return b"\xef\xbb\xbf" + data
    if kind == 8:
        return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-7")))
    return rng.choice((b"", b"[" * 100_000, b'{"a":' * 100_000, rng.randbytes(60), b"\0" * 64, b"[" * 230 + b"]" * 230))


def strict(data: bytes) -> bool:
    """Whether a strict reader takes these bytes as JSON: written apart from the program's own."""
    try:
        text = data.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
        json.dumps(found, allow_nan=False)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    return not text.startswith("\ufeff")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError
    return dict(pairs)


def _refuse(name: str) -> None:
    raise ValueError(name)
