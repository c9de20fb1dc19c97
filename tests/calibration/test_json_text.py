"""One strict reader: what only some parsers of JSON accept is refused, in one short sentence."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.calibration import json_text
from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.json_text import load_json, parse_json
from limpq_deploy.calibration.records import from_json, load_record

SOUND = b'{"name": "a", "ms": 1.5}'
LENIENT = {
    "byte order mark": b"\xef\xbb\xbf" + SOUND,
    "UTF-16": SOUND.decode().encode("utf-16"),
    "UTF-32": SOUND.decode().encode("utf-32"),
    "lone surrogate": b'{"name": "\\ud800", "ms": 1.5}',
    "no UTF-8": b'{"name": "\xff", "ms": 1.5}',
    "230 levels": b'{"name": "a", "ms": 1.5, "more": ' + b"[" * 230 + b"]" * 230 + b"}",
    "brackets": b"[" * 100_000,
    "a name twice": b'{"name": "a", "ms": 1.5, "name": "b"}',
    "a name twice inside": b'{"name": "a", "ms": 1.5, "more": [{"x": 1, "x": 2}]}',
    "NaN": b'{"name": "a", "ms": NaN}',
    "Infinity": b'{"name": "a", "ms": -Infinity}',
    "beyond floats": b'{"name": "a", "ms": 1e999}',
    "a number of 5,000 digits": b'{"name": "a", "ms": ' + b"9" * 5000 + b"}",
    "a number of 400 digits": b'{"name": "a", "ms": ' + b"9" * 400 + b"}",
    "a comma too many": b'{"name": "a", "ms": 1.5,}',
    "empty": b"",
    "zero bytes": b"\0" * 40,
    "two values": SOUND + SOUND,
    "an escape sequence": b'{"name": "\x1b[2J", "ms": 1.5}',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    name: str
    ms: float
    more: Any = None


@pytest.mark.parametrize("text", LENIENT.values(), ids=LENIENT)
def test_what_a_strict_reader_refuses_is_refused_in_one_short_sentence(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(text)
    for read in (lambda: load_record(Record, file), lambda: load_json(file, "a record")):
        with pytest.raises(RecordError, match=r"record\.json is not valid JSON") as caught:
            read()
        said = str(caught.value)
        assert said.isprintable()
        assert len(said) <= 300


def test_long_values_places_and_messages_are_cut() -> None:
    @dataclass(frozen=True)
    class Picky:
        name: str

        def __post_init__(self) -> None:
            raise ValueError(f"{self.name!r} is no name")

    for origin in ("a.json", "a" * 5000):
        for cls, text in ((Picky, f'{{"name": "{"x" * 300_000}"}}'), (Record, f'{{"name": {"[1]" * 1}, "ms": 1}}')):
            with pytest.raises(RecordError) as caught:
                from_json(cls, text, origin)
            assert len(str(caught.value)) <= 300


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "no plain file"), (tmp_path, "a folder"), (Path("/dev/zero"), "no plain")):
        with pytest.raises(RecordError, match=said):
            load_record(Record, path)


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_BYTES", 10)
    (tmp_path / "a.json").write_bytes(SOUND)
    with pytest.raises(RecordError, match="has 24 bytes, of 10 that are read"):
        load_record(Record, tmp_path / "a.json")
    with pytest.raises(RecordError, match="24 bytes, of 10"):
        parse_json(SOUND, "metadata")


def test_numbers_of_a_random_generator_pass() -> None:
    assert parse_json(str(2**127 + 5), "a state") == 2**127 + 5
