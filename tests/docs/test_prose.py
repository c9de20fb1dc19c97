"""Pages are plain: short sentences where newcomers read, no riddles anywhere, and a check that finds them."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("check_prose", ROOT / "docs/check_prose.py")
assert SPEC is not None
assert SPEC.loader is not None
check_prose = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_prose)


def test_all_pages_are_plain() -> None:
    assert check_prose.all_faults() == []


def test_long_sentences_and_riddles_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_prose, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        f"# A title\n\nShort one. {'word ' * 26}end.\n\n```sh\n{'code ' * 40}\n```\n\nIt is not told apart.\n"
    )
    found = list(check_prose.faults(page, plain=True))
    assert len([one for one in found if "27 words" in one]) == 1
    assert any("riddle" in one for one in found)
    assert all("code" not in one for one in found)


def test_the_readme_is_short_and_shows_a_report() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert (ROOT / "docs/pictures/report.png").stat().st_size < 300_000
    assert "docs/pictures/report.png" in text


def test_every_link_of_a_page_leads_to_a_file() -> None:
    missing = []
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                missing.append(f"{page.relative_to(ROOT)}: {target}")
    assert missing == []
