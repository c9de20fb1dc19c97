"""What a lint says."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["refused", "float", "differs", "slower"]

SEVERITIES: tuple[Severity, ...] = ("refused", "float", "differs", "slower")
"""Gravest first: the target refuses the file; a layer runs in float; the target computes something else than the file
says; it runs as written, and another form is faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One breach of a rule: where, which (an id of `rules.RULES`), what follows from it, what to do."""

    rule: str
    severity: Severity
    node: str
    consequence: str
    remedy: str


def gravest(findings: tuple[Finding, ...]) -> Severity | None:
    """The gravest severity; None where nothing was found."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)
