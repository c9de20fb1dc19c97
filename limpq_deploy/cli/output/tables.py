"""What commands print for people: short tables in plain text, as wide as the terminal."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from limpq_deploy.calibration.numbers.formats import width_name
from limpq_deploy.calibration.plain_text import plain_record
from limpq_deploy.policy.tie_warning import tie_warning
from limpq_deploy.policy.widths import source_notes

if TYPE_CHECKING:
    from limpq_deploy.doctor import Diagnosis
    from limpq_deploy.export.lint.check import LintReport
    from limpq_deploy.export.lint.finding import Finding
    from limpq_deploy.export.reference.foreign_parity import FileParity
    from limpq_deploy.export.reference.parity import ParityReport, TensorParity
    from limpq_deploy.export.ship.verify import VerifyReport
    from limpq_deploy.importance.preview import Preview
    from limpq_deploy.policy.indicators import Indicators
    from limpq_deploy.policy.policy import LayerBits, Policy, PolicyCandidate, Tournament
    from limpq_deploy.workspace.workspace import Passed

LOG_WIDTH = 110
"""Columns where there is no terminal."""

TABLE_GAP = 3
"""Columns between two of a table."""

LINTED_NODES = 4
"""Nodes that a finding names; the others are counted, and stand in ``--json``."""


def stage_line(passed: Passed) -> str:
    """What a stage came to, and how long it took; wrapped under itself on a terminal, one line in a log."""
    mark = click.style("+" if passed.ran else "=", fg="green" if passed.ran else "cyan", bold=True)
    took = f"[{passed.seconds:.1f} s]" if passed.ran else "[unchanged]"
    title = f"{passed.title:<18}"
    indent = " " * (len(title) + 3)
    text = [f"{passed.said} {took}"]
    if sys.stderr.isatty():
        text = textwrap.wrap(text[0], max(30, width() - len(indent)), break_long_words=False)
    return f"{mark} {click.style(title, bold=True)} " + f"\n{indent}".join(text)


def policy_table(policy: Policy, indicators: Indicators) -> str:
    """Bits of every layer, the budgets, and how sure the answer is."""
    policy = plain_record(policy)
    indicators = plain_record(indicators)
    macs = {layer.name: layer.macs for layer in indicators.layers}
    total = sum(macs[name] * bits.weight * bits.act for name, bits in policy.bits.items()) or 1
    rows = [
        (name, *map(width_name, bits.pair), f"{100 * macs[name] * bits.weight * bits.act / total:.1f} %")
        for name, bits in policy.bits.items()
    ]
    lines = [table(("layer", "weight bits", "activation bits", "share of BitOps"), rows, right=(1, 2, 3))]
    lines += [
        f"{cost.name}: {cost.used:,} of {cost.limit:,} {cost.unit} ({100 * cost.used / max(cost.limit, 1):.2f} %)"
        for cost in policy.costs
    ]
    if (least := policy.minimised) is not None:
        sure = "proved the least there is" if least.proved else "not proved: there may be less"
        within = f", no more importance than {least.no_worse_than} throughout" if least.no_worse_than else ""
        lines.append(f"minimised: {least.name}, {least.least:,} {least.unit}{within} ({sure})")
    lines.append(recipe_line(policy))
    if policy.solver is not None:
        solver = policy.solver
        if solver.status != "optimal":
            lines.insert(
                0,
                wrapped(
                    f"not proved optimal: the objective is {policy.objective:.8g}, and a policy of "
                    f"{solver.bound:.8g} at best may exist"
                ),
            )
        lines.append(
            wrapped(
                f"objective {policy.objective:.8f}, {solver.status}: no policy is below {solver.bound:.8f} "
                f"(gap {solver.gap:.1e}); {1000 * solver.seconds:.0f} ms"
            )
        )
    if policy.is_everywhere(indicators.bits[-1]):
        lines.append(f"The budget limits nothing: every layer takes the widest candidate, {indicators.bits[-1]} bits.")
    ties = tie_warning(policy, indicators)
    lines += [wrapped(note) for note in (*source_notes(policy.source), *((ties,) if ties else ()))]
    return "\n".join(lines)


def recipe_line(policy: Policy) -> str:
    """By what a policy was found, or is priced."""
    rule = f"outliers: {policy.outliers.mode}" if policy.outliers is not None else "outlier rule not recorded"
    return f"measure {policy.importance or 'scale'}, alpha {policy.alpha:g}, {rule}"


def parity_table(report: ParityReport) -> str:
    """The comparisons, one line each, then every image on which the classes differ."""
    report = plain_record(report)
    rows = [
        ("reference = runtime, end to end", *_counts(report.tensors), "bit-equal" if report.logits_equal else "differ")
    ]
    if report.islands:
        codes, differ = (sum(getattr(one, name) for one in report.islands) for name in ("codes", "mismatches"))
        largest = max(one.max_lsb for one in report.islands)
        rows.append(
            (f"{len(report.islands)} islands of floats, each alone", f"{codes:,}", f"{differ:,}", str(largest), "")
        )
    if report.faithful:
        rows.append(("trained = exported, layer by layer", *_counts(report.faithful), ""))
        rows.append(("effect of folding and bias rounding", *_counts(report.folding), ""))
    if report.end_to_end:
        equal = "bit-equal" if report.trained_logits_equal else "differ"
        rows.append(("trained = exported, end to end", *_counts(report.end_to_end), equal))
    lines = [table(("comparison", "codes", "differ", "max LSB", "logits"), rows, right=(1, 2, 3))]
    if report.top1_agreement is not None:
        lines.append(f"same class on {100 * report.top1_agreement:.2f} % of {report.images:,} images")
    lines += [f"image {one.image}: trained {one.trained}, runtime {one.runtime}" for one in report.disagreements]
    return "\n".join((*lines, *report.notes))


def file_parity_lines(found: FileParity) -> str:
    """A file's codes, its islands, and what explains differences."""
    found = plain_record(found)
    from limpq_deploy.export.reference.parity import operators_of
    from limpq_deploy.report.figures import plural

    equal = "bit-equal" if found.logits_equal else f"differ by up to {found.logits_max_difference:.3g}"
    rows = [("reference = runtime", f"{found.codes:,}", f"{found.mismatches:,}", str(found.max_lsb))]
    rows += [
        (f"island {one.name}: {operators_of(one)}", f"{one.codes:,}", f"{one.mismatches:,}", str(one.max_lsb))
        for one in found.islands
    ]
    lines = [table(("compared", "codes", "differ", "max LSB"), rows, right=(1, 2, 3))]
    lines.append(f"results {equal} on {plural(found.images, 'image')}")
    if found.unwatched:
        names = ", ".join(list(found.unwatched)[:LINTED_NODES])
        more = f" and {len(found.unwatched) - LINTED_NODES} more" if len(found.unwatched) > LINTED_NODES else ""
        lines.append(f"not compared, as the runtime does not compute them or moved them (--json: why): {names}{more}")
    return "\n".join((*lines, *found.otherwise, *found.notes))


def lint_table(report: LintReport) -> str:
    """Operators, and each broken rule once, the gravest first: where, what follows and what to do."""
    report = plain_record(report)
    from limpq_deploy.export.lint.finding import SEVERITIES
    from limpq_deploy.report.figures import plural  # the report is more than other commands need

    operators = ", ".join(f"{count} {name}" for name, count in sorted(report.op_counts.items()))
    where = "after optimisation" if report.optimized else f"as written ({report.unavailable})"
    version = f" {report.tensorrt}" if report.tensorrt is not None else ""
    lines = [wrapped(f"rules of {report.target}{version}; operators {where}: {operators}")]
    if report.compiler is not None:
        lines.append(wrapped(report.compiler.detail))
    by_rule: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    groups = sorted(by_rule.values(), key=lambda group: SEVERITIES.index(group[0].severity))
    lines += [wrapped(_finding_line(findings)) for findings in groups]
    kept = "every rule is kept" if report.optimized else "of the rules that can be checked without the runtime"
    rules = plural(len(by_rule), "rule")
    lines.append(f"{plural(len(report.findings), 'finding')} of {rules}" if by_rule else f"no findings: {kept}")
    return "\n".join(lines)


def _finding_line(findings: Sequence[Finding]) -> str:
    """Findings of one rule as one sentence; a consequence that is not the same everywhere is that of the first."""
    from limpq_deploy.export.lint.rules import RULES

    first, names = findings[0], list(dict.fromkeys(finding.node for finding in findings))
    listed = ", ".join(names[:LINTED_NODES])
    listed += f" and {len(names) - LINTED_NODES} more" if len(names) > LINTED_NODES else ""
    breaks = "breaks" if len(names) == 1 else "break"
    same = all(finding.consequence == first.consequence for finding in findings)
    consequence = first.consequence if same else f"for {first.node}: {first.consequence}"
    return (
        f"{first.severity}: {listed} {breaks} the rule that {RULES[first.rule].says} ({first.rule}); {consequence}; "
        f"{first.remedy}"
    )


def verify_lines(report: VerifyReport) -> str:
    """What was checked, and what the canaries answered."""
    lines = [f"{report.files} files, {report.bytes / 2**20:.2f} MiB: all as the manifest says"]
    if report.signature_checked:
        lines.append(f"signed by the key that was given, at {report.signed_at}")
    elif report.signed:
        lines.append("signed, and the signature was not checked: give --key PUB")
    if report.canaries is not None:
        canaries = report.canaries
        found = f"{canaries.differing} of {canaries.logits} numbers differ: " if canaries.differing else ""
        lines.append(wrapped(f"{canaries.images} canaries: {found}{canaries.note}"))
    return "\n".join(lines)


def doctor_table(diagnosis: Diagnosis) -> str:
    """One line for each runtime, extra and device."""
    found = diagnosis.environment
    rows = [
        (kind, item.name, "yes" if item.usable else "no", item.detail)
        for kind, items in (
            ("runtime", diagnosis.runtimes),
            ("extra", diagnosis.extras),
            ("device", diagnosis.devices),
        )
        for item in items
    ]
    machine = f"{found.cpu}, {found.usable_cpus} CPUs, {' '.join(found.instruction_sets) or 'no SIMD extensions known'}"
    drawn = table(("", "name", "usable", "detail"), rows)
    return "\n".join(
        (wrapped(machine), "", drawn, *(("", *map(wrapped, diagnosis.advice)) if diagnosis.advice else ()))
    )


def tournament_table(tournament: Tournament) -> str:
    """The candidates by their previews, best first, and why the first was taken."""
    tournament = plain_record(tournament)
    rows = [
        (f"{one.loss:.4f}", _behind(one), tournament.shown(one), one.name, _bits(one.bits))
        for one in tournament.candidates
    ]
    head = f"preview on {_seen(tournament.images, tournament.batchnorm_images)}"
    head += f", {tournament.seconds:.1f} s in all" if tournament.seconds is not None else ""
    header = ("loss", "behind (95 %)", tournament.figure, "candidate", "weight/activation bits")
    drawn = table(header, rows, right=(0, 1, 2))
    return f"{head}\n{drawn}\n{wrapped(tournament.why)}"


def preview_table(previews: Mapping[str, Preview], policies: Mapping[str, Policy]) -> str:
    """Previews of policies, in the order given, and by what each was found."""
    rows = [
        (f"{found.loss:.4f}", found.measure.shown(found.top1), recipe_line(policies[name]), name)
        for name, found in previews.items()
    ]
    found = next(iter(previews.values()))
    drawn = table(("loss", found.measure.name, "found by", "policy"), rows, right=(0, 1))
    return f"{drawn}\non {_seen(found.images, *(one.batchnorm_images for one in previews.values()))}; not fine-tuned"


def _seen(images: int, *batchnorm_images: int) -> str:
    """What previews looked at, each with BatchNorm's statistics from so many images (0: the float model's)."""
    ways = [
        f"from {some:,}" if some else "as in the float model" for some in sorted(set(batchnorm_images), reverse=True)
    ]
    return f"{images:,} held-out training images, BatchNorm {' or '.join(ways)}"


def _behind(one: PolicyCandidate) -> str:
    """How much larger a candidate's loss is than the least."""
    if one.behind is None or one.behind_low is None or one.behind_high is None:
        return "-"
    return f"{one.behind:+.4f} ({one.behind_low:+.4f} to {one.behind_high:+.4f})"


def _bits(bits: Mapping[str, LayerBits]) -> str:
    return " ".join("/".join(map(width_name, one.pair)) for one in bits.values())


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """A plain table; columns ``right`` are aligned right, the last one wraps. Columns move together where there is no
    room."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = [list(row) for row in rows]
    narrow = needed_width(header, cells) > width()
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=narrow)
    for index, title in enumerate(header):
        drawn.add_column(title, justify="right" if index in set(right) else "left", no_wrap=index < len(header) - 1)
    for row in cells:
        drawn.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=width(), color_system=None, markup=False, highlight=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def needed_width(header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Columns of the terminal that `table` takes for these cells, with nothing cut."""
    lines = [[line for cell in column for line in cell.split("\n")] for column in zip(header, *rows, strict=True)]
    widest = [max(map(len, column)) for column in lines]
    return sum(widest) + TABLE_GAP * (len(widest) - 1)


def in_columns(entries: Sequence[str], *, gap: int = 2) -> str:
    """Entries down as many columns as the terminal holds, like ``ls``."""
    if not entries:
        return ""
    widest = max(map(len, entries)) + gap
    columns = max(1, (width() + gap) // widest)
    rows = -(-len(entries) // columns)
    lines = [entries[row::rows] for row in range(rows)]
    return "\n".join("".join(f"{entry:<{widest}}" for entry in line).rstrip() for line in lines)


def wrapped(text: str) -> str:
    """A sentence folded to the terminal's width, its further lines indented."""
    return "\n".join(textwrap.wrap(text, width(), subsequent_indent="  ", break_long_words=False)) or text


def width() -> int:
    """Columns to draw on: the terminal's (or ``COLUMNS``), between 60 and 140."""
    return min(max(shutil.get_terminal_size((LOG_WIDTH, 24)).columns, 60), 140)


def _counts(tensors: Iterable[TensorParity]) -> tuple[str, str, str]:
    found = list(tensors)
    elements = sum(entry.elements for entry in found)
    mismatches = sum(entry.mismatches for entry in found)
    largest = max((entry.max_lsb for entry in found), default=0)
    return f"{elements:,}", f"{mismatches:,}", str(largest)
