"""Text of files reaches people without anything that a terminal obeys, and cut."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.plain_text import escaped, plain, plain_record, visible


@given(st.text())
def test_whatever_stands_there_one_printable_line_comes_out(text: str) -> None:
    assert escaped(text).isprintable()
    assert plain(text, 40).isprintable()
    assert len(plain(text, 40)) <= 40


def test_ends_of_a_long_text_are_kept() -> None:
    assert plain("a" * 300_000 + "z", 20) == "aaaaaaaa...aaaaaaaaz"
    assert escaped("\x1b[2J\u202e\ud800é") == "\\x1b[2J\\u202e\\ud800é"


def test_a_terminal_gets_lines_and_colours_alone() -> None:
    assert visible("a\n\x1b[32mb\x1b[0m\x07\x1b]0;c\r") == "a\n\x1b[32mb\x1b[0m\\x07\\x1b]0;c\\r"


def test_a_record_is_made_plain_in_every_text_and_stays_itself_where_none_is_changed() -> None:
    @dataclass(frozen=True)
    class Record:
        name: str
        parts: tuple["Record", ...] = ()
        sizes: tuple[tuple[str, int], ...] = ()

    sound = Record("a", (Record("b"),))
    assert plain_record(sound) is sound
    hostile = plain_record(Record("a", (Record("\x1b[31mb"),), (("\x07", 3),)))
    assert hostile.parts[0].name == "\\x1b[31mb"
    assert hostile.sizes == (("\\x07", 3),)


def test_an_input_of_a_terabyte_is_refused() -> None:
    with pytest.raises(ValueError, match="100000x100000 pixels"):
        Preprocess(height=100_000, width=100_000, mean=(0.0,) * 3, std=(1.0,) * 3)
