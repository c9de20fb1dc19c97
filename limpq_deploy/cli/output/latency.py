"""What the commands that time models print for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import TYPE_CHECKING

from limpq_deploy.calibration.plain_text import plain_record
from limpq_deploy.cli.output.tables import needed_width, table, width, wrapped
from limpq_deploy.export.timing.report import Setting
from limpq_deploy.export.timing.trtexec import COMPUTE

if TYPE_CHECKING:
    from limpq_deploy.export.timing.compare import Change, Fleet
    from limpq_deploy.export.timing.report import LatencyReport, LatencySeries
    from limpq_deploy.export.timing.table import LatencyTable
    from limpq_deploy.export.timing.trtexec import TrtexecTimes


NARROWER: tuple[tuple[int, tuple[str, ...]], ...] = (
    *((3, ()), (1, ()), (0, ())),
    *((0, ("samples",)), (0, ("samples", "p90 ms")), (0, ("samples", "p90 ms", "verdict"))),
    (0, ("samples", "p90 ms", "verdict", "images/s")),
)
"""How many percentiles have their intervals, and which columns are left out, from the widest table to the narrowest;
doubts stand above the table in any case."""

AT_ONCE = "at once"
"""Header of the number of runs that a call makes at once; the column stands where one is more than 1."""


def latency_table(report: LatencyReport) -> str:
    """Every doubt once, with the series that it is about; then percentiles of every series, with as many intervals and
    columns as there is room for, images per second where calls have several, and parts that were timed besides."""
    report = plain_record(report)
    lines = _doubts((one.doubts, one.name, str(one.setting)) for one in report.series)
    for intervals, left_out in NARROWER:
        header, rows = _series_rows(report.series, intervals, left_out)
        if needed_width(header, rows) <= width():
            break
    lines.append(table(header, rows, right=range(1, len(header) - 1)))
    lines += [_parts_line(series) for series in report.series if series.parts_ms]
    lines += [_trtexec_line(one) for one in report.trtexec]
    return "\n".join(lines)


def _series_rows(
    series: Sequence[LatencySeries], intervals: int, left_out: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and cells; intervals for so many of the percentiles, and without some columns."""
    at_once = any(one.streams > 1 for one in series)
    several = at_once or any(one.batch > 1 for one in series)
    header = ["model", "threads", "batch", "at once", "p50 ms", "p90 ms", "p99 ms", "images/s", "samples", "verdict"]
    unneeded = {*left_out, *([] if at_once else [AT_ONCE]), *([] if several else ["images/s"])}
    shown = [name not in unneeded for name in header]

    def cells(one: LatencySeries) -> list[str]:
        stats = one.stats
        percentiles = (
            (stats.p50_ms, stats.p50_low_ms, stats.p50_high_ms),
            (stats.p90_ms, stats.p90_low_ms, stats.p90_high_ms),
            (stats.p99_ms, stats.p99_low_ms, stats.p99_high_ms),
        )
        return [
            *(one.name, str(one.threads), str(one.batch), str(one.streams)),
            *(
                _with_interval(value, *((low, high) if number < intervals else (None, None)))
                for number, (value, low, high) in enumerate(percentiles)
            ),
            *(f"{one.images_per_second:,.0f}", f"{len(one.samples_ms):,}", "stable" if one.stable else "doubtful"),
        ]

    return list(compress(header, shown)), [list(compress(cells(one), shown)) for one in series]


def change_table(changes: Sequence[Change]) -> str:
    """Each series before and after, with the ratio's interval."""
    lines = _doubts((one.doubts, one.name, str(Setting(one.threads, one.batch, one.streams))) for one in changes)
    at_once = any(one.streams > 1 for one in changes)
    rows = [
        (
            one.name,
            str(one.threads),
            str(one.batch),
            *([str(one.streams)] if at_once else []),
            f"{one.before_ms:.3f}",
            f"{one.after_ms:.3f}",
            f"{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})",
        )
        for one in changes
    ]
    shared = ("model", "threads", "batch", *([AT_ONCE] if at_once else []))
    header = (*shared, "before, p50 ms", "after", "times as fast (95 %)")
    return "\n".join((*lines, table(header, rows, right=range(1, len(header)))))


def fleet_tables(fleet: Fleet) -> str:
    """One table for each model and device."""
    fleet = plain_record(fleet)
    blocks = []
    for one in fleet.tables:
        title = f"{one.model} on {one.device}"
        if one.differs:
            title += f" (apart, for its environment differs: {'; '.join(one.differs)})"
        at_once = any(row.streams > 1 for row in one.rows)
        rows = [
            (
                row.name,
                str(row.threads),
                str(row.batch),
                *([str(row.streams)] if at_once else []),
                f"{row.p50_ms:.3f}",
                f"{row.p90_ms:.3f}",
                f"{row.p99_ms:.3f}",
                "-" if row.speedup is None else f"{row.speedup:.2f}",
                "doubtful" if row.doubts else "stable",
                row.source,
            )
            for row in one.rows
        ]
        shared = ("model", "threads", "batch", *([AT_ONCE] if at_once else []))
        header = (*shared, "p50 ms", "p90 ms", "p99 ms", "over float", "verdict", "from")
        if needed_width(header, rows) > width():
            shown = [name != "p90 ms" for name in header]
            header, rows = tuple(compress(header, shown)), [tuple(compress(row, shown)) for row in rows]
        blocks.append(f"{wrapped(title)}\n{table(header, rows, right=range(1, len(header) - 2))}")
    return "\n\n".join(blocks)


def profile_table(table_: LatencyTable) -> str:
    """Each layer at each precision, with its gain; conversions; how well whole graphs were predicted."""
    table_ = plain_record(table_)
    pairs = list(dict.fromkeys((time.weight_bits, time.act_bits) for time in table_.times))
    times = {(time.layers, time.weight_bits, time.act_bits): time.ms for time in table_.times}
    widest = max(pairs, key=lambda pair: pair[0] * pair[1])
    rows = []
    for layers in dict.fromkeys(time.layers for time in table_.times):
        found = [times.get((layers, *pair)) for pair in pairs]
        slow, fast = times.get((layers, *widest)), min(ms for ms in found if ms is not None)
        gain = "-" if slow is None or not fast else f"{slow / fast:.2f}"
        rows.append((", ".join(layers), *("-" if ms is None else f"{ms:.4f}" for ms in found), gain))
    names = [f"w{pair[0]}a{pair[1]}, ms" for pair in pairs]
    lines = [table(("layer", *names, f"over w{widest[0]}a{widest[1]}"), rows, right=range(1, len(pairs) + 2))]
    lines += [
        f"w{one.before[0]}a{one.before[1]} -> w{one.after[0]}a{one.after[1]}: {one.ms:.4f} ms and "
        f"{one.ns_per_element:.3f} ns for each element"
        for one in table_.conversions
        if one.ms or one.ns_per_element
    ]
    checked = sorted(abs(one.error) for one in table_.observations if one.error is not None)
    if checked:
        lines.append(
            f"{len(checked)} mixed graphs, each predicted without knowing it: median error "
            f"{100 * checked[len(checked) // 2]:.1f} %, largest {100 * checked[-1]:.1f} %"
        )
    lines += _doubts((one.doubts, one.name, "") for one in table_.observations)
    lines += [f"{name} is left out, no engine of it is built: {why}" for name, why in table_.refused.items()]
    return "\n".join(lines)


def _doubts(found: Iterable[tuple[tuple[str, ...], str, str]]) -> list[str]:
    """Each doubt once, with whom it is about, from (doubts, name, setting) of all."""
    entries = list(found)
    lines = []
    for doubt in dict.fromkeys(doubt for doubts, _, _ in entries for doubt in doubts):
        about = []
        for setting in dict.fromkeys(setting for _, _, setting in entries):
            everyone = [(doubt in doubts, name) for doubts, name, one in entries if one == setting]
            names = [name for has, name in everyone if has]
            if names:
                who = "all" if 1 < len(names) == len(everyone) else ", ".join(names)
                about.append(f"{who} ({setting})" if setting else who)
        lines.append(wrapped(f"doubtful: {'; '.join(about)}: {doubt}"))
    return lines


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({low:.3f}-{high:.3f})"


def _trtexec_line(times: TrtexecTimes) -> str:
    if times.failed is not None:
        return wrapped(f"trtexec on {times.name} (batch {times.batch}): {times.failed}")
    named = {"compute" if name == COMPUTE else name: ms for name, ms in times.median_ms.items()}
    parts = sorted(named.items(), key=lambda one: one[0] != "compute")
    medians = ", ".join(f"{name} {ms:.3f}" for name, ms in parts)
    return wrapped(f"trtexec on {times.name} (batch {times.batch}): p50 ms of {medians}")


def _parts_line(series: LatencySeries) -> str:
    parts = ", ".join(f"{name} {series.part(name).p50_ms:.3f}" for name in series.parts_ms)
    return wrapped(f"{series.name} ({series.setting}): p50 ms of {series.figure}; {parts}")
