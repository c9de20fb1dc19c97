"""The table of rules, and its page."""

from pathlib import Path

from limpq_deploy.export.lint.finding import SEVERITIES, Finding, gravest
from limpq_deploy.export.lint.rules import RULES, finding

PAGE = Path(__file__).resolve().parents[3] / "docs/lint.md"
LINT = Path(__file__).resolve().parents[3] / "export/lint"


def test_the_page_has_every_rule_with_severity_and_source() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {rule.severity} | {rule.says} | {rule.source} |" for name, rule in RULES.items()]


def test_every_rule_is_used() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in LINT.glob("*.py") if path.stem != "rules")
    assert [name for name in RULES if f'"{name}"' not in source] == []


def test_a_finding_has_the_severity_and_remedy_of_its_rule() -> None:
    one = finding("fp8", "conv", "it runs in FP8")
    assert one == Finding(
        rule="fp8", severity="float", node="conv", consequence="it runs in FP8", remedy=RULES["fp8"].remedy
    )


def test_the_gravest_of_several_findings_counts() -> None:
    slow, float_, refused = finding("batchnorm", "a", ""), finding("fp8", "b", ""), finding("zero-point", "c", "")
    assert gravest(()) is None
    assert [gravest(found) for found in ((slow,), (slow, float_), (float_, refused, slow))] == [
        "slower",
        "float",
        "refused",
    ]
    assert {rule.severity for rule in RULES.values()} == set(SEVERITIES)
