"""What is wrong with a record's JSON, in one sentence: the field, what was found, what was expected.

pydantic checks the values; its own words (names of Python types, of validators and of a union's members) are ours here.
"""

import json
from typing import Any

from limpq_deploy.calibration.plain_text import escaped, plain

KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "dict_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
}
"""What pydantic asks for, in the words of JSON."""

SHOWN = 60
"""Characters of a found value that a sentence shows."""

MESSAGE, FIELD, WANTED = 180, 50, 80
"""Characters of a record's own message, of a field's path and of what was expected; a sentence has at most 300."""

REMEDY = "the file is damaged or was changed, make it again"


def fault_of(error: Any, whole: Any, kind: str) -> str:
    """The first fault of a pydantic ValidationError. ``whole``: the parsed JSON; ``kind``: what the record is called.

    A record's own check (`ValueError`) speaks for itself. Of a value that may be of several kinds, all are named.
    """
    problems = error.errors()
    first = problems[0]
    where = _field(first, whole)
    if first["type"] == "value_error":
        message = plain(first["msg"].removeprefix("Value error, "), MESSAGE)
        return f"{where}: {message}" if where else message
    if first["type"] == "missing":
        return f"{where} is missing; expected in {kind}; {REMEDY}"
    wanted = dict.fromkeys(expected(one) for one in problems if _field(one, whole) == where)
    return f"{where} is {shown(first['input'])}; expected {plain(' or '.join(wanted), WANTED)}; {REMEDY}"


def expected(problem: Any) -> str:
    """What one of pydantic's errors asks for."""
    if problem["type"] == "too_long":
        return f"at most {problem['ctx']['max_length']} entries"
    found: str = KINDS.get(problem["type"], problem["msg"].removeprefix("Input should be "))
    return found


def shown(value: Any) -> str:
    """A value as JSON has it; long ones are cut, objects and lists named."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    said = escaped(json.dumps(value if not isinstance(value, str) else value[:SHOWN], ensure_ascii=False))
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}..."


def _field(problem: Any, whole: Any) -> str:
    """Where the fault is, as ``series.0.stats``: pydantic's path without the names that it gives a union's members."""
    path, at = [], whole
    for place, part in enumerate(problem["loc"]):
        there = part in at if isinstance(at, dict) else isinstance(part, int) and isinstance(at, list)
        missing = problem["type"] == "missing" and place == len(problem["loc"]) - 1
        if there and not (isinstance(part, int) and isinstance(at, list) and part >= len(at)):
            at = at[part]
        elif not missing:
            continue
        path.append(str(part))
    return plain(".".join(path), FIELD)
