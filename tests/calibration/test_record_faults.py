"""Damaged records: the field, what was found and what was expected, in one sentence without a validator's words."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.calibration.records import from_json, to_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    ms: float
    pair: tuple[int, int] = (8, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    name: str
    parts: dict[str, Part]
    threads: int | Literal["default"] = "default"
    kind: Literal["conv", "linear"] = "conv"
    format: Literal["limpq.test/1"] = field(default="limpq.test/1")

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("the name is empty; expected one")
        if self.name == "?":
            raise SettingError("the name is a question; expected an answer")


SOUND: dict[str, Any] = to_dict(Record(name="a", parts={"layer1.conv": Part(ms=1.0)}))


def fault(**changed: Any) -> str:
    with pytest.raises(RecordError) as caught:
        from_json(Record, json.dumps(SOUND | changed), "a.json")
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": None}, "name is null; expected text"),
        ({"name": ["a"]}, "name is a list of 1; expected text"),
        ({"parts": 3}, "parts is 3; expected an object"),
        ({"parts": {"a": "x"}}, 'parts.a is "x"; expected an object'),
        ({"parts": {"a": {"ms": "fast"}}}, 'parts.a.ms is "fast"; expected a number'),
        ({"parts": {"a": {}}}, "parts.a.ms is missing; expected in limpq.test/1"),
        ({"parts": {"a": {"ms": 1.0, "pair": [8]}}}, "parts.a.pair.1 is missing; expected in limpq.test/1"),
        ({"parts": {"a": {"ms": 1.0, "pair": [8, 8, 8]}}}, "parts.a.pair is a list of 3; expected at most 2 entries"),
        ({"threads": {}}, "threads is an object; expected a whole number or 'default'"),
        ({"threads": 1.5}, "threads is 1.5; expected a whole number or 'default'"),
        ({"kind": "pool"}, "kind is \"pool\"; expected 'conv' or 'linear'"),
    ],
)
def test_a_fault_is_told_with_the_field_what_was_found_and_what_was_expected(
    changed: dict[str, Any], said: str
) -> None:
    assert fault(**changed) == f"a.json: {said}; the file is damaged or was changed, make it again"


def test_a_records_own_check_speaks_for_itself() -> None:
    assert fault(name="") == "a.json: the name is empty; expected one"
    assert fault(name="?") == "a.json: the name is a question; expected an answer"


def test_a_long_value_is_cut() -> None:
    assert fault(kind="x" * 500).startswith(f'a.json: kind is "{"x" * 59}...; expected')


def test_brackets_without_end_are_no_valid_json() -> None:
    with pytest.raises(RecordError, match=r"^a\.json is not valid JSON"):
        from_json(Record, "[" * 100_000, "a.json")
