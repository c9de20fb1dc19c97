"""Write the table of budgets in docs/formats.md from their rows: python docs/renew_budgets.py"""

import re
from pathlib import Path

from limpq_deploy.policy.budgets import COST_FILES, ROWS, BudgetRow, of_kind, option_of

PAGE = Path(__file__).with_name("formats.md")


def renewed(text: str) -> str:
    """The page with its table as the rows say today."""
    head = ["| option | key of a TOML file | name in `costs` | what it limits |", "|---|---|---|---|"]
    table = "\n".join(head + [_line(name, row) for name, row in ROWS.items() if isinstance(row, BudgetRow)])
    return re.sub(r"(<!-- budgets: .*-->\n).*?(<!-- end of budgets -->)", rf"\1\n{table}\n\n\2", text, flags=re.DOTALL)


def _line(name: str, row: BudgetRow) -> str:
    says = row.help
    if row.source is not None:
        says += f" Costs are read from `{option_of(row.source)} {COST_FILES[row.source].metavar}`."
    others = [f"`{option_of(other)}`" for other in of_kind(row.kind) if other != name] if row.kind else []
    if others:
        says += f" Not beside {' or '.join(others)}."
    return f"| `{option_of(name)} {row.metavar}` | `{name}` | `{row.counts}` | {says} |"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
