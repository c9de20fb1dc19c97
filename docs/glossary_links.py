"""Lead the first mention of each term of the glossary to its entry. The site does so on every page and entry."""

import re
from functools import cache
from pathlib import Path

GLOSSARY = Path(__file__).with_name("glossary.md")
TERM = re.compile(r"^## (.+)$", re.M)
KEPT = re.compile(
    r"(^```.*?^```[ \t]*$|<!--.*?-->|`[^`]*`|!?\[[^\]]*\]\([^)]*\)|\[[^\]]*\]\[[^\]]*\]|\*\*[^*]*\*\*|<[^>\s][^>]*>"
    r"|^#[^\n]*|^(?: {4}|\t)[^\n]*|^:::[^\n]*)",
    re.M | re.S,
)
"""What stays as it is: code, links, pictures, bold text, tags, headings, directives."""


@cache
def terms() -> tuple[str, ...]:
    """All entries, the longest first, so that "realised BitOps" is not taken for "BitOps"."""
    return tuple(sorted(TERM.findall(GLOSSARY.read_text(encoding="utf-8")), key=len, reverse=True))


def anchor(term: str) -> str:
    """Of an entry's heading, as the site makes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", term).strip().lower())


@cache
def mentions(term: str) -> re.Pattern[str]:
    """A term as text has it: one or many, with a capital where it begins a sentence, over the end of a line too."""
    stem, many = (term[:-1], "(?:y|ies)") if term.endswith("y") else (term, "s?")
    words = r"\s+".join(map(re.escape, stem.split(" ")))
    first = f"[{term[0]}{term[0].upper()}]" if term[0].isalpha() else re.escape(term[0])
    return re.compile(rf"(?<![\w`/.-]){first}{words[len(re.escape(term[0])) :]}{many}(?![\w`/(-]|\.\w)")


def with_links(markdown: str, page: str, *, own: str | None = None) -> str:
    """A page with its first mention of each term as a link to ``page``; ``own``: a term that is left alone."""
    parts = KEPT.split(markdown)
    plain, kept = list(parts[::2]), parts[1::2]
    links: list[str] = []
    for term in terms():
        if term == own:
            continue
        for place, text in enumerate(plain):
            found = mentions(term).search(text)
            if found is not None:
                links.append(f"[{found[0]}]({page}#{anchor(term)})")
                plain[place] = f"{text[: found.start()]}\0{len(links) - 1}\0{text[found.end() :]}"
                break
    whole = "".join(text + code for text, code in zip(plain, [*kept, ""], strict=True))
    return re.sub(r"\0(\d+)\0", lambda found: links[int(found[1])], whole)


def entries_with_links(markdown: str) -> str:
    """The glossary itself: each entry leads to the others that it mentions."""
    first, *entries = re.split(r"(?m)^(?=## )", markdown)
    return first + "".join(with_links(entry, "", own=entry[3:].split("\n", 1)[0]) for entry in entries)
