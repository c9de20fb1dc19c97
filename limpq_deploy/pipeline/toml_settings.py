"""Settings from a TOML file, held against the fields of a record and their types; what is wrong is told by its key."""

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.json_text import read_whole
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.suggestions import did_you_mean

T = TypeVar("T")

KINDS = {"tuple_type": "a list", "dataclass_type": "a section with keys of its own"}
"""What pydantic calls by a Python name."""


class Invalid(ValueError):
    """A value that makes no sense: ``key`` with what separates it from ``message``."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}{message}")
        self.key = key
        self.message = message


def load_toml(file: Path, record: type, sections: Mapping[str, type], *, texts: Collection[str]) -> dict[str, Any]:
    """Values by the fields of ``record``, their types not yet looked at. ``sections``: records of tables, by name;
    ``texts``: fields that TOML may take for numbers, such as versions without quotes.

    Raises RecordError for a file that is no TOML and for a key that no field has.
    """
    try:
        text = read_whole(file, "a TOML file").decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"the configuration {file} is not UTF-8 text; expected a TOML file") from error
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and numbers and levels beyond all bounds
        raise RecordError(f"{file} is not valid TOML: {plain(error)}; expected lines NAME = VALUE") from error
    settings = _by_field(found)
    for name in texts:
        if isinstance(settings.get(name), int | float):  # without its quotes
            settings[name] = str(settings[name])
    beginning = f"the file's beginning, before the section {' or '.join(f'[{name}]' for name in sections)}"
    for name, inner in sections.items():
        if isinstance(settings.get(name), dict):
            settings[name] = _by_field(settings[name])
            _refuse_unknown(settings[name], inner, f"{file}, [{name}]", {beginning: record})
    _refuse_unknown(settings, record, str(file), {f"the section [{name}]": inner for name, inner in sections.items()})
    return settings


def validated(record: type[T], settings: dict[str, Any]) -> T:
    """The record of these settings. Raises Invalid, which names the first that makes no sense."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(record).validate_python(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "value_error":
            section = f"{where}." if where else ""
            raise Invalid(plain(section, 60), problem["msg"].removeprefix("Value error, ")) from error
        expected = KINDS.get(problem["type"], problem["msg"].removeprefix("Input should be "))
        raise Invalid(plain(where, 60), f" is {plain(repr(problem['input']), 80)}; expected {expected}") from error


def _by_field(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in table.items()}


def _names(record: type) -> list[str]:
    return [field.name for field in fields(record)]


def _refuse_unknown(settings: Iterable[str], record: type, origin: str, others: Mapping[str, type]) -> None:
    """``others``: what else has keys, by where they stand in the file."""
    known = _names(record)
    for key in settings:
        if key not in known:
            elsewhere = next((f"; it is a key of {place}" for place, one in others.items() if key in _names(one)), "")
            near = elsewhere or did_you_mean(key, known) or _likest(key, known)
            raise RecordError(f"{origin}: unknown key {plain(key, 60)!r}{near}")


def _likest(key: str, known: list[str]) -> str:
    """Known keys, the most alike first."""
    near = difflib.get_close_matches(key[:60], known, n=6, cutoff=0.0)
    return f"; known keys most like it: {', '.join(near)} (limpq-deploy build --help-all has all)"
