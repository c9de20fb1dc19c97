"""What the site adds to the pages of this folder: benchmarks, decisions, glossary links, links that lead out of it."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from glossary_links import entries_with_links, with_links
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)]*)?\)")
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md", "README.md": "index.md"}


def on_files(files: Files, config: Any) -> Files:
    """Add pages that are kept or generated elsewhere."""
    for name, page in OUTSIDE.items():
        if page != "index.md":
            files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    tables = sorted((ROOT / "benchmarks").glob("*.md"))
    for path in tables:
        files.append(File.generated(config, f"benchmarks/{path.name}", content=path.read_text(encoding="utf-8")))
    files.append(File.generated(config, "benchmarks/index.md", content=_benchmarks(tables)))
    files.append(File.generated(config, "adr/index.md", content=_decisions()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to where the site has their target, and terms to the glossary."""
    origin = page.file.src_uri
    homes = {page: name for name, page in OUTSIDE.items() if page != "index.md"}
    home = origin if origin.startswith("benchmarks/") else homes.get(origin, f"docs/{origin}")
    led = LINK.sub(lambda found: _led(found, home, origin, files), markdown)
    up = posixpath.relpath("glossary.md", posixpath.dirname(origin) or ".")
    return entries_with_links(led) if origin == "glossary.md" else with_links(led, up)


def _led(found: re.Match[str], home: str, origin: str, files: Files) -> str:
    """A link to a page of the site, by its place in the repository; of a file that the site does not have, its text."""
    text, target, anchor = found[1], found[2], found[3] or ""
    place = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
    page = OUTSIDE.get(place, place.removeprefix("docs/"))
    found_file = files.get_file_from_path(page)
    if found_file is None or found_file.inclusion.is_excluded():
        return text
    return f"[{text}]({posixpath.relpath(page, posixpath.dirname(origin) or '.')}{anchor})"


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")


def _benchmarks(tables: list[Path]) -> str:
    """A list of all tables, and those of committed JSON as they stand there."""
    parts = [
        "# Benchmarks",
        "Each page says its machine, versions and command. Figures are medians and ratios within one run.",
        "\n".join(f"- [{_title(path)}]({path.name})" for path in tables),
    ]
    for path in sorted((ROOT / "benchmarks").glob("*.json")):
        parts += [f"## {path.name}", _table(json.loads(path.read_text(encoding="utf-8")))]
    return "\n\n".join(parts) + "\n"


def _table(found: dict[str, Any]) -> str:
    """Network, kind and figures, for JSON of that form: {network: {kind: {key: number}}}."""
    rows = [
        (network, kind, figures)
        for network, kinds in found.items()
        if isinstance(kinds, dict)
        for kind, figures in kinds.items()
        if isinstance(figures, dict)
    ]
    keys = [
        key
        for key in dict.fromkeys(key for *_, figures in rows for key in figures)
        if all(isinstance(figures.get(key, 0), int | float | str) for *_, figures in rows)
    ][:8]
    if not rows or not keys:
        return "Kept as JSON in the repository."
    lines = [f"| | | {' | '.join(keys)} |", f"|---|---|{'---|' * len(keys)}"]
    lines += [
        f"| {one} | {kind} | {' | '.join(str(figures.get(key, '')) for key in keys)} |" for one, kind, figures in rows
    ]
    return "\n".join(lines)


def _decisions() -> str:
    """A list of all decisions by number."""
    pages = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    listed = "\n".join(f"- [{path.stem[:4]}]({path.name}): {_title(path)}" for path in pages)
    return f"# Decisions\n\nHalf a page each: context, decision, what was given up.\n\n{listed}\n"
