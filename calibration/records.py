"""Frozen records in and out of JSON.

A record is a frozen dataclass. One that is saved on its own has a ``format`` field such as ``"limpq.policy/1"``
whose default is the only value accepted on reading. Outside input is checked once, here; unknown fields are ignored,
so that a newer writer's additions do not stop an older reader.
"""

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.calibration.files import write_text
from limpq_deploy.calibration.json_text import SENTENCE, parse_json, place, read_whole
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.record_faults import MESSAGE, REMEDY, fault_of

T = TypeVar("T")


def to_json(record: Any) -> str:
    """Indented JSON of a record; NaN and infinities are refused (ValueError): a failed measurement is no number."""
    return json.dumps(to_dict(record), indent=1, allow_nan=False) + "\n"


def to_dict(record: Any) -> dict[str, Any]:
    """Plain dict of a record; a field that is None by default and None here is left out."""
    plain: dict[str, Any] = _plain(record)
    return plain


def from_json(cls: type[T], text: str | bytes, origin: str) -> T:
    """Read and check a record.

    ``origin`` names where the text came from in the error. Raises RecordError for broken JSON, another ``format``,
    a missing field or a value of the wrong kind.
    """
    from pydantic import ValidationError

    found = parse_json(text, origin)
    _check_format(cls, found, origin)
    try:
        return _adapter(cls).validate_json(text, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise RecordError(plain(f"{place(origin)}: {fault_of(error, found, _format_of(cls))}", SENTENCE)) from error
    except SettingError as error:  # a record of settings checks them as it does a user's
        raise RecordError(f"{place(origin)}: {plain(error, MESSAGE)}") from error
    except ArithmeticError as error:  # a record's own check, of numbers that no computation takes
        raise RecordError(f"{place(origin)} has a number out of range ({plain(error, MESSAGE)}); {REMEDY}") from error


def load_record(cls: type[T], path: Path) -> T:
    """Read a record from a file; see `from_json`."""
    return from_json(cls, read_whole(path, f"a {_format_of(cls)} file"), str(path))


def write_record(record: Any, path: Path) -> None:
    """Write a record whole (temporary name, fsync, rename)."""
    write_text(path, to_json(record))


@cache
def _adapter(cls: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _format_of(cls: type) -> str:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return str(fields["format"].default) if "format" in fields else cls.__name__


def _check_format(cls: type, found: Any, origin: str) -> None:
    if not isinstance(found, dict):
        raise RecordError(
            f"{place(origin)} holds a JSON {type(found).__name__}; expected an object ({_format_of(cls)})"
        )
    expected = _format_of(cls)
    if expected != cls.__name__ and found.get("format") != expected:
        raise RecordError(f"{place(origin)} has format {plain(repr(found.get('format')), 60)}; expected {expected!r}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            one.name: _plain(found)
            for one in dataclasses.fields(value)
            if (found := getattr(value, one.name)) is not None or one.default is not None
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
