"""What a campaign counts: cases, passed, failed; and what every answer to hostile input has to be."""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click
from click.testing import CliRunner

from limpq_deploy.calibration.errors import LimpqError

LONGEST_SENTENCE = 600
"""Characters of a command's error: its readers keep to 300; paths and names of options may stand around that."""

SHOWN = 20
"""Failures that are kept in words."""


@dataclass
class Tally:
    """``outcomes``: how often each answer was given, by name."""

    name: str
    cases: int = 0
    failures: list[str] = field(default_factory=list)
    failed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: str, failure: str | None = None) -> None:
        self.cases += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if failure is not None:
            self.failed += 1
            if len(self.failures) < SHOWN:
                self.failures.append(failure)

    def line(self) -> str:
        return json.dumps(
            {
                "campaign": self.name,
                "cases": self.cases,
                "passed": self.cases - self.failed,
                "failed": self.failed,
                "outcomes": dict(sorted(self.outcomes.items())),
            }
        )


def tried(what: Callable[[], object]) -> tuple[str, str | None]:
    """(outcome, failure) of a call: ``accepted``, or ``refused`` with one clean sentence; all else is a failure."""
    try:
        what()
    except (LimpqError, click.ClickException) as error:
        return "refused", unclean(str(error))
    except Exception:
        return "traceback", traceback.format_exc(limit=-4)
    return "accepted", None


def command(*words: object) -> tuple[str, str | None]:
    """(outcome, failure) of a command of limpq-deploy, run in this process."""
    from limpq_deploy.cli.main import main

    result = CliRunner().invoke(main, [str(word) for word in words])
    error: Any = result.exception
    if error is not None and not isinstance(error, SystemExit):
        return "traceback", "".join(traceback.format_exception(error, limit=-4))
    said = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    problem = raw(result.stdout) or raw(result.stderr)
    if result.exit_code in (1, 2):
        return "refused", problem or (unclean(said[-1]) if said else "no sentence: " + result.stderr[-300:])
    return "accepted", problem


def unclean(sentence: str) -> str | None:
    """Why a sentence is not fit for a terminal; None where it is."""
    if len(sentence) > LONGEST_SENTENCE:
        return f"a sentence of {len(sentence)} characters: {sentence[:200]!r}"
    return raw(sentence)


def raw(text: str) -> str | None:
    """The first character of a text that a terminal obeys."""
    for one in text.replace("\n", ""):
        if not one.isprintable():
            return f"a raw {one!r} in {text[:300]!r}"
    return None
