"""The table of budgets in docs/formats.md is what their rows say."""

import runpy
from pathlib import Path

RENEW = Path(__file__).parents[2] / "docs/renew_budgets.py"


def test_the_table_of_budgets_is_current() -> None:
    page = RENEW.with_name("formats.md").read_text(encoding="utf-8")
    assert "| `--max-mib M` | `max_mib` | `size` |" in page
    assert runpy.run_path(str(RENEW))["renewed"](page) == page, "run: python docs/renew_budgets.py"
