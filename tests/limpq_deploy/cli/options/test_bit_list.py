"""Candidate bit-widths as they are typed."""

import click
import pytest

from limpq_deploy.cli.options.shared import BitList


@pytest.mark.parametrize(
    ("text", "bits"),
    [("4", (4,)), ("2,3,4", (2, 3, 4)), ("2..6", (2, 3, 4, 5, 6)), ("2..4,6", (2, 3, 4, 6)), ("2, 4", (2, 4))],
)
def test_lists_and_ranges(text: str, bits: tuple[int, ...]) -> None:
    assert BitList().convert(text, None, None) == bits


@pytest.mark.parametrize(
    "text", ["", "a", "2-6", "2..", "..6", "2..3..4", "2,,3", "2..99999999999", "²", "5..2", "2,5..2", "2..999"]
)
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no list of bit-widths; expected .* 2,3,4,5,6 or 2\.\.6"):
        BitList().convert(text, None, None)
