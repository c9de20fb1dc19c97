"""What the search's companions print for people: differences, fronts, prices and conflicts as plain tables."""

from limpq_deploy.calibration.numbers.formats import pair_name, width_name
from limpq_deploy.calibration.plain_text import plain_record
from limpq_deploy.cli.output.tables import table, wrapped
from limpq_deploy.policy.diff import PolicyDiff, TotalChange
from limpq_deploy.policy.explain import BudgetPrice, Explanation
from limpq_deploy.policy.front import Front
from limpq_deploy.policy.infeasible import Conflict
from limpq_deploy.policy.interchange.layer_table import LayerTable
from limpq_deploy.report.figures import bits, digits, giga, plural, signed

STEPS_TOLD = 4
"""Steps that a sentence names; the others are counted, and stand in the table."""


def diff_table(diff: PolicyDiff) -> str:
    """Layers whose bits differ, then the totals."""
    diff = plain_record(diff)
    if diff.equal:
        lines = [f"{diff.first} and {diff.second} give all {plural(diff.same, 'layer')} the same bits"]
    else:
        rows = [
            (
                change.name,
                bits(change.before.pair),
                bits(change.after.pair),
                *(() if change.bitops is None else (_signed_giga(change.bitops), f"{change.size or 0:+,}")),
                *(() if change.objective is None else (f"{change.objective:+.6f}",)),
            )
            for change in diff.layers
        ]
        width = max(map(len, rows), default=3)
        header = ("layer", diff.first, diff.second, "BitOps", "weight bits", "objective")[:width]
        lines = [table(header, rows, right=range(1, width))] if rows else []
        lines.append(f"{plural(len(diff.layers), 'layer')} with other bits, {diff.same:,} with the same")
        for name, only in ((diff.first, diff.only_first), (diff.second, diff.only_second)):
            if only:
                lines.append(wrapped(f"only in {name}: {', '.join(only)}"))
    lines += [_total_line(total) for total in diff.totals]
    if diff.importance is not None and diff.alpha is not None:
        lines.append(f"objectives by measure {diff.importance}, alpha {diff.alpha:g}, outliers: {diff.outliers}")
    return "\n".join((*lines, *map(wrapped, diff.notes)))


def layer_table_lines(found: LayerTable) -> str:
    """A row for every layer; pinned ones are marked."""
    rows = [
        (
            f"{row.name}*" if row.pinned else row.name,
            pair_name(row.pair),
            "" if row.macs is None else f"{row.macs:,}",
            "" if row.num_weights is None else f"{row.num_weights:,}",
            "" if row.bitops_share is None else f"{100 * row.bitops_share:.1f} %",
        )
        for row in plain_record(found).layers
    ]
    return table(("layer (* pinned)", "bits", "MACs", "weights", "share of BitOps"), rows, right=(2, 3, 4))


def front_table(front: Front) -> str:
    """One line per point, then what is not among them."""
    front = plain_record(front)
    rows = [
        (
            f"{point.gbitops_limit:g}",
            f"{point.bitops / 1e9:.6f}",
            f"{point.policy.objective:.6f}",
            f"{point.solver.bound:.6f}",
            f"{point.solver.gap:.1e}",
            point.solver.status,
            f"{1000 * point.solver.seconds:.0f} ms",
            *((f"{point.preview.top1:.2f} %", f"{point.preview.loss:.4f}") if point.preview is not None else ()),
        )
        for point in front.points
    ]
    header: tuple[str, ...] = ("limit, G BitOps", "used", "objective", "proven bound", "gap", "status", "time")
    if any(point.preview is not None for point in front.points):
        header += ("preview", "loss")
    unproved = [f"{point.gbitops_limit:g}" for point in front.points if point.solver.status != "optimal"]
    lines = [wrapped(f"not proved optimal: at {', '.join(unproved)} G a better policy may exist")] if unproved else []
    lines += [table(header, rows, right=(0, 1, 2, 3, 4, 6, 7, 8))] if rows else ["no budget is met by any policy"]
    lines.append(f"measure {front.importance or 'scale'}, alpha {front.alpha:g}, outliers: {front.outliers}")
    if front.dominated:
        limits = ", ".join(f"{budget.gbitops_limit:g}" for budget in front.dominated)
        lines.append(wrapped(f"no better than a smaller budget: {limits}"))
    lines += [wrapped(f"infeasible at {budget.gbitops_limit:g} G: {budget.reason}") for budget in front.infeasible]
    return "\n".join(lines)


def explanation_table(explanation: Explanation) -> str:
    """Budgets with their prices, then every layer's steps."""
    explanation = plain_record(explanation)
    prices = explanation.budgets
    budgets = [
        (
            budget.option,
            f"{100 * budget.used / budget.limit:.3f} %" if budget.limit else "-",
            f"{budget.slack:,} {budget.unit}",
            "binding" if budget.binding else "not binding",
            f"{budget.relaxed - explanation.best:+.6f}",
            _tightened(budget, explanation.best),
            f"{budget.without - explanation.best:+.6f}",
        )
        for budget in prices
    ]
    header = ("budget", "used", "left", "", "objective at\n1 % more", "at 1 % less", "without it")
    unproved = [budget.option for budget in prices if not budget.proved]
    lines = [wrapped(f"not proved: searches around {', '.join(unproved)} were stopped")] if unproved else []
    lines += [f"objective {explanation.objective:.8f}, best within these budgets {explanation.best:.8f}", ""]
    lines += [table(header, budgets, right=(1, 2, 4, 5, 6)), ""]
    steps = [
        (
            step.layer if len(step.layers) == 1 else f"{step.layer} +{len(step.layers) - 1}",
            "weight" if step.tensor == "weight" else "act.",
            f"{width_name(step.bits)} -> {width_name(step.to_bits)}",
            "yes" if step.fits else "no",
            "forbidden" if step.objective is None else f"{step.objective:+.6f}",
            *(f"{100 * cost / max(1, budget.limit):+.3f} %" for cost, budget in zip(step.costs, prices, strict=True)),
        )
        for step in explanation.steps
    ]
    limits = [f"of {budget.option}" for budget in prices]
    lines.append(table(("layer", "", "bits", "fits", "objective", *limits), steps, right=range(4, 5 + len(limits))))
    if any(len(step.layers) > 1 for step in explanation.steps):
        lines.append("+N: layers that share these bits change with it")
    lines += _improvement_lines(explanation)
    if explanation.handovers:
        listed = ", ".join(
            f"{' -> '.join(use.layers or (use.before, use.after))} {use.used:,} {use.unit}"
            for use in explanation.handovers[:8]
        )
        more = f" and {len(explanation.handovers) - 8} more" if len(explanation.handovers) > 8 else ""
        lines.append(wrapped(f"paid between layers of different precision: {listed}{more}"))
    return "\n".join(lines)


def _tightened(budget: BudgetPrice, best: float) -> str:
    if budget.tightened is None:
        return "infeasible" if budget.proved else "not found"
    return f"{budget.tightened - best:+.6f}"


def _improvement_lines(explanation: Explanation) -> list[str]:
    """Single steps that a policy that is not the best has left out, such as the uniform one that won a preview."""
    found = explanation.improvements
    if not found:
        return []
    listed = ", ".join(
        f"{step.layer} {'weight' if step.tensor == 'weight' else 'act.'} {width_name(step.bits)} -> "
        f"{width_name(step.to_bits)} ({step.objective:+.6f})"
        for step in found[:STEPS_TOLD]
    )
    more = f" and {len(found) - STEPS_TOLD} more" if len(found) > STEPS_TOLD else ""
    step = "single step" if len(found) == 1 else "single steps"
    return [wrapped(f"not the best within these budgets; {step} that would lower the objective: {listed}{more}")]


def conflict_table(conflict: Conflict) -> str:
    """How far each budget can go, then which ones conflict."""
    conflict = plain_record(conflict)
    lines = []
    for reach in conflict.budgets:
        said = f"{reach.option}: allows {reach.figure_limit}; reachable alone is {reach.figure_alone}"
        if len(conflict.budgets) > 1:
            nothing = "nothing, as they conflict already" if reach.proved else "not known"
            said += f", beside the others {reach.figure_beside or nothing}"
        lines.append(wrapped(said))
    one = len(conflict.conflicting) == 1
    what = "cannot be met, even alone" if one else "cannot be met together"
    lines.append(wrapped(f"{' and '.join(conflict.conflicting)} {what}"))
    if conflict.forbidden_entries:
        entries = plural(conflict.forbidden_entries, "outlier entry is", "outlier entries are")
        lines.append(f"{entries} forbidden; --outliers repair admits them")
    return "\n".join(lines)


def _total_line(total: TotalChange) -> str:
    change = total.after - total.before
    share = f" ({signed(100 * change / total.before)} %)" if total.before else ""
    if total.unit:
        return f"{total.name}: {total.before:,} -> {total.after:,} {total.unit}{share}"
    return f"{total.name}: {total.before:.8f} -> {total.after:.8f}{share}"


def _signed_giga(number: int) -> str:
    return f"{'-' if number < 0 else '+'}{giga(abs(number))}" if number else digits(0)
