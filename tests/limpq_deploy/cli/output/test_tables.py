"""What people read: widths, columns, and progress that is only drawn on a terminal."""

import os
import pty
import subprocess
import sys

import pytest

from limpq_deploy.cli.output.tables import (
    in_columns,
    lint_table,
    preview_table,
    stage_line,
    table,
    width,
    wrapped,
)
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.lint.finding import Finding
from limpq_deploy.importance.preview import Preview
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.workspace.workspace import Passed

PROGRESS = """
from limpq_deploy.progress import progress
with progress("counting") as report:
    for done in range(3):
        report(done, 3, "a note")
"""


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert width() == columns
    text = table(("name", "detail"), [("first", "word " * 60), ("second", "short")])
    assert max(map(len, text.splitlines())) <= columns
    assert "short" in text
    sentence = wrapped("word " * 60)
    assert max(map(len, sentence.splitlines())) <= columns
    assert sentence.split() == ["word"] * 60


def test_numbers_stand_under_each_other() -> None:
    lines = table(("", "count"), [("a", "9"), ("b", "1,000")], right=(1,)).splitlines()
    assert lines[-2].endswith("    9")
    assert lines[-1].endswith("1,000")


def test_entries_run_down_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    entries = [f"layer{number} w4a4" for number in range(7)]
    lines = in_columns(entries).splitlines()
    assert len(lines) == 2
    assert lines[0].split("  ") == ["layer0 w4a4", "layer2 w4a4", "layer4 w4a4", "layer6 w4a4"]
    assert in_columns([]) == ""


def finding(node: str, consequence: str = "it is slow") -> Finding:
    return Finding(rule="add-float", severity="float", node=node, consequence=consequence, remedy="make it fast")


def linted(*findings: Finding) -> str:
    """What is printed of these findings, without the line of operators."""
    report = LintReport(
        target="t", optimized=True, op_counts={"Conv": 1}, float_compute=(), float_nodes=(), findings=findings
    )
    return lint_table(report).split("\n", 1)[1]


def test_a_broken_rule_is_told_once_with_the_first_of_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = "breaks the rule that both inputs of an Add are quantized (add-float); it is slow; make it fast"
    assert linted(finding("a")) == f"float: a {said}\n1 finding of 1 rule"
    assert linted(*map(finding, "abcdefg")) == (
        f"float: a, b, c, d and 3 more {said.replace('breaks', 'break')}\n7 findings of 1 rule"
    )
    assert linted(finding("a", "it takes 3 ms"), finding("b", "it takes 4 ms")) == (
        "float: a, b break the rule that both inputs of an Add are quantized (add-float); for a: it takes 3 ms; make "
        "it fast\n2 findings of 1 rule"
    )


def test_a_stage_is_one_line_in_a_log() -> None:
    done = Passed(name="x", title="x", ran=True, seconds=1.25, said="word " * 40 + "end")
    line = stage_line(done)
    assert "\n" not in line
    assert line.endswith("end [1.2 s]")
    skipped = Passed(name="x", title="x", ran=False, seconds=1.25, said="said")
    assert stage_line(skipped).endswith("said [unchanged]")


def test_progress_is_drawn_on_a_terminal_and_nowhere_else() -> None:
    piped = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, text=True, check=True)
    assert (piped.stdout, piped.stderr) == ("", "> counting\n")
    terminal, its_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", PROGRESS], stderr=its_end, check=True, env=environment)
    os.close(its_end)
    drawn = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert "counting" in drawn
    assert "a note" in drawn


def test_previews_say_where_batchnorm_has_its_statistics_from() -> None:
    policy = Policy(bits={"conv": LayerBits(weight=4, act=4)}, objective=1.0, alpha=1.0)
    seen = {
        name: Preview(top1=50.0, loss=1.0, images=300, batchnorm_images=number)
        for name, number in (("a", 0), ("b", 2000))
    }
    told = [
        preview_table({name: seen[name] for name in names}, dict.fromkeys(names, policy)) for names in ("a", "b", "ab")
    ]
    assert [one.splitlines()[-1].partition("images, ")[2] for one in told] == [
        "BatchNorm as in the float model; not fine-tuned",
        "BatchNorm from 2,000; not fine-tuned",
        "BatchNorm from 2,000 or as in the float model; not fine-tuned",
    ]
