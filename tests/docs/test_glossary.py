"""Every term of art leads to the glossary: on each page its first mention in prose, whatever its number or capital."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("glossary_links", DOCS / "glossary_links.py")
assert SPEC is not None
assert SPEC.loader is not None
links = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(links)
PAGES = [DOCS.parent / "CHANGELOG.md", *(page for page in sorted(DOCS.rglob("*.md")) if page.name != "glossary.md")]
LINK = re.compile(r"\[([^\]]+)\]\(here#([\w-]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS.parent)))
def test_the_first_mention_of_each_term_is_a_link_and_nothing_else_changes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = links.with_links(text, "here")
    assert LINK.sub(r"\1", linked) == text
    led = [anchor for _, anchor in LINK.findall(linked)]
    assert len(led) == len(set(led))
    assert set(led) <= {links.anchor(term) for term in links.terms()}
    for term in links.terms():
        if links.anchor(term) not in led:
            plain = links.KEPT.split(linked)[::2]  # links are kept, as those of longer terms are
            assert not any(links.mentions(term).search(part) for part in plain), term


def test_code_links_headings_bold_and_tags_stay() -> None:
    text = (
        "# A policy\n\n```sh\npolicy\n```\n\n    policy\n\n`policy` [policy](there) [the\npolicy](there) **policy** "
        "<policy x> ![policy](picture) max-policy policy.json\n"
    )
    assert links.with_links(text, "here") == text


@pytest.mark.parametrize(
    ("text", "led"),
    [
        ("Policies compete.", "[Policies](here#policy) compete."),
        ("| a | two canaries |", "| a | two [canaries](here#canary) |"),
        ("Its nominal\nBitOps, and BitOps", "Its [nominal\nBitOps](here#nominal-bitops), and [BitOps](here#bitops)"),
        ("the MACs, Q/DQ", "the [MACs](here#macs), [Q/DQ](here#qdq)"),
        ("A policy, a policy", "A [policy](here#policy), a policy"),
        ("planned, targeted", "planned, targeted"),
    ],
)
def test_numbers_capitals_and_longer_terms(text: str, led: str) -> None:
    assert links.with_links(text, "here") == led


def test_an_entry_leads_to_others_and_not_to_itself() -> None:
    page = links.entries_with_links((DOCS / "glossary.md").read_text(encoding="utf-8"))
    for entry in re.split(r"(?m)^## ", page)[1:]:
        assert f"](#{links.anchor(entry.splitlines()[0])})" not in entry
    assert "[nominal BitOps](#nominal-bitops)" in page


def test_entries_stand_in_order_and_once() -> None:
    found = links.TERM.findall((DOCS / "glossary.md").read_text(encoding="utf-8"))
    assert found == sorted(set(found), key=str.lower)
    assert len({links.anchor(term) for term in found}) == len(found) > 60


def test_the_site_makes_the_same_anchors() -> None:
    toc = pytest.importorskip("markdown.extensions.toc", reason="needs the extra limpq-deploy[docs]")
    for term in links.terms():
        assert links.anchor(term) == toc.slugify(term, "-")
