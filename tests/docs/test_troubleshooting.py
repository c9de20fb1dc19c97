"""What the page says that you read is what the program says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/troubleshooting.md"
PLACES = re.compile(r"\.\.\.|\bN\b|\bM\b")


def test_every_quoted_refusal_stands_in_the_sources() -> None:
    folders = [ROOT / name for name in ("calibration", "export", "limpq_deploy")]
    sources = "".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    quoted = [part for row in rows for quote in re.findall(r"`([^`]+)`", row) for part in PLACES.split(quote)]
    parts = [part.strip() for part in quoted if len(part.strip()) > 8]
    assert len(parts) >= 20
    assert [part for part in parts if part not in joined] == []
