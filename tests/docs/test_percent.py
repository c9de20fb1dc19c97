"""Percentages are written alike: with a space, "5 %", in messages and on pages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("calibration", "export", "limpq_deploy", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_has_a_space_before_percent(path: Path) -> None:
    assert re.findall(r".{0,20}\d%", path.read_text()) == []


def test_no_message_is_formatted_without_one() -> None:
    """The format ``:.1%`` writes none; ``{100 * share:.1f} %`` does."""
    found = {
        str(path.relative_to(ROOT)): glued
        for path in SOURCES
        if (glued := re.findall(r".{0,30}(?:\{[^{}]*:[^{}]*%\}|\{[^{}]*:[^{}%]*f\}%)", path.read_text()))
    }
    assert found == {}
