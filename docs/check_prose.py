"""Hold the pages to plain sentences: python docs/check_prose.py; exit code 1 with every place that is not plain."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PAGES = (*(ROOT / "docs").glob("*.md"), *(ROOT / "docs/howto").glob("*.md"))
PLAIN = ("README.md", *sorted(str(page.relative_to(ROOT)) for page in PAGES if page.name != "cli.md"))
"""Pages of short sentences: all but help texts, and decisions, which are notes of their time."""

MOST_WORDS = 25
"""Of a sentence there."""

RIDDLES = (
    "untold",
    "told apart",
    "not told",
    "goes round",
    "go round",
    "left in floats",
    "Where TensorRT takes every type",
)
"""Words that say nothing to a newcomer, on every page."""

SKIPPED = re.compile(r"```.*?```|<!--.*?-->|^\|.*?$|^\s*:::.*?$|^#.*?$|^!\[.*?$", re.M | re.S)
ENDS = re.compile(r"(?<=[.?!:;])\s+|\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")


def sentences(text: str) -> Iterator[str]:
    """Sentences of a Markdown page, without code, tables and headings; a colon ends one too."""
    prose = SKIPPED.sub("\n\n", text)
    prose = re.sub(r"`[^`]*`", "code", prose)
    prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    for part in ENDS.split(prose):
        if words := " ".join(part.split()).strip("-* "):
            yield words


def faults(path: Path, *, plain: bool) -> Iterator[str]:
    """What is not plain on a page, a line each."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    yield from (f"{name}: {riddle!r} is a riddle" for riddle in RIDDLES if riddle in text)
    for sentence in sentences(text) if plain else ():
        number = len(sentence.split())
        if number > MOST_WORDS:
            yield f"{name}: {number} words, at most {MOST_WORDS}: {sentence[:110]}"


def all_faults() -> list[str]:
    """Of all pages."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [one for page in pages for one in faults(page, plain=str(page.relative_to(ROOT)) in PLAIN)]


if __name__ == "__main__":
    found = all_faults()
    print("\n".join(found) or "all pages are plain", file=sys.stderr)
    sys.exit(1 if found else 0)
