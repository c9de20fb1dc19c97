"""The site builds strictly, asks for nothing outside, and has every picture that its pages name."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
LOADS = re.compile(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(https?:)?//[^\"]+\"|@import|url\(.?https?:")


@pytest.mark.parametrize("script", ["draw_pictures", "draw_importance"])
def test_pictures_are_those_that_the_script_draws(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    spec = importlib.util.spec_from_file_location(script, ROOT / f"docs/{script}.py")
    assert spec is not None
    assert spec.loader is not None
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    for picture in drawn.PICTURES:
        text = (ROOT / f"docs/pictures/{picture.__name__}.svg").read_text(encoding="utf-8")
        assert text == drawn.to_svg(picture())
        assert ElementTree.fromstring(text).get("aria-label")
        assert "prefers-color-scheme:dark" in text


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra limpq-deploy[docs]")
    pytest.importorskip("mkdocstrings", reason="needs the extra limpq-deploy[docs]")
    command: list[str | Path] = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "tutorial.html", "concepts.html", "glossary.html", "api.html"} <= {
        page.name for page in pages
    }
    for page in (*pages, *(tmp_path / "site").rglob("*.css")):
        assert not LOADS.search(page.read_text(encoding="utf-8")), page
    api = (tmp_path / "site/api.html").read_text(encoding="utf-8")
    assert "limpq_deploy.api.builds.build" in api
    assert 'href="glossary.html#policy"' in (tmp_path / "site/concepts.html").read_text(encoding="utf-8")
    entries = set(re.findall(r' id="([^"]+)"', (tmp_path / "site/glossary.html").read_text(encoding="utf-8")))
    led = {name for page in pages for name in re.findall(r'glossary\.html#([^"]+)"', page.read_text(encoding="utf-8"))}
    assert len(led) > 50
    assert led <= entries
