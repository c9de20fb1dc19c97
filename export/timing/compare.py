"""Latency reports of several runs or machines: compared where environments match, gathered into tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.records.environment import differences
from limpq_deploy.export.timing.report import FLOAT_SERIES, LatencyReport, LatencySeries, Threads
from limpq_deploy.export.timing.timing_statistics import middle, resampled_medians


class Incomparable(LimpqError):
    """Two results were not measured in the same way on the same machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One series before and after. ``ratio`` = p50 before / p50 after, with its 95 % interval: above 1, it became
    faster. The two runs were not interleaved, so the interval knows nothing of a drift between them."""

    name: str
    threads: Threads
    batch: int
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    doubts: tuple[str, ...] = ()
    streams: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRow:
    """One series of a fleet's table. ``speedup``: p50 of the float model of the same run over its own; None without."""

    name: str
    threads: Threads
    batch: int
    figure: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples: int
    source: str
    speedup: float | None = None
    doubts: tuple[str, ...] = ()
    streams: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTable:
    """One model on one device. ``differs``: what sets its environment apart from the first table's of the same model
    and device; figures of different tables are not compared."""

    model: str
    device: str
    rows: tuple[FleetRow, ...]
    libraries: dict[str, str]
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All tables, by model and device."""

    tables: tuple[FleetTable, ...]
    format: Literal["limpq.fleet/1"] = field(default="limpq.fleet/1")


def compare(before: LatencyReport, after: LatencyReport, *, seed: int = 0) -> tuple[Change, ...]:
    """Every series that both reports have. Raises Incomparable, naming what differs, unless environment, threads,
    runtime settings and the kind of figure are the same, and where the reports have no series in common."""
    found = differences(before.environment, after.environment)
    if found:
        raise Incomparable(
            f"the two results come from different environments ({'; '.join(found)}); measure both on one machine with "
            "the same versions"
        )
    key = lambda one: (one.name, one.setting)  # noqa: E731
    later = {key(one): one for one in after.series}
    pairs = [(one, later[key(one)]) for one in before.series if key(one) in later]
    if not pairs:
        raise Incomparable(
            f"the two results have no series in common: {_names(before)} before, {_names(after)} after; measure "
            "files of the same names with the same --threads, --batch and --streams"
        )
    return tuple(_change(first, second, seed) for first, second in pairs)


def unmatched(before: LatencyReport, after: LatencyReport) -> tuple[str, ...]:
    """What `compare` leaves out: series that only one of the reports has, in a sentence for each report."""
    keys = [
        {(one.name, one.setting): f"{one.name} ({one.setting})" for one in report.series} for report in (before, after)
    ]
    found = []
    for which, own, other in (("before", keys[0], keys[1]), ("after", keys[1], keys[0])):
        alone = [text for key, text in own.items() if key not in other]
        if alone:
            found.append(f"only {which}, not compared: {', '.join(alone)}")
    return tuple(found)


def merge(reports: Mapping[str, LatencyReport]) -> Fleet:
    """One table for each model, device and environment. ``reports`` by source, such as a file's name."""
    groups: dict[tuple[str, str], list[tuple[str, LatencyReport]]] = {}
    for source, report in reports.items():
        groups.setdefault((report.model or "model", report.environment.device), []).append((source, report))
    tables: list[FleetTable] = []
    for (model, device), found in sorted(groups.items()):
        first = found[0][1].environment
        same: dict[tuple[str, ...], list[tuple[str, LatencyReport]]] = {}
        for source, report in found:
            same.setdefault(differences(report.environment, first), []).append((source, report))
        for differs, members in same.items():
            tables.append(
                FleetTable(
                    model=model,
                    device=device,
                    rows=tuple(row for source, report in members for row in _rows(source, report)),
                    libraries=members[0][1].environment.libraries,
                    differs=differs,
                )
            )
    return Fleet(tables=tuple(tables))


def _change(before: LatencySeries, after: LatencySeries, seed: int) -> Change:
    for what, one, other in (
        ("figure", before.figure, after.figure),
        ("options", _settings(before), _settings(after)),
    ):
        if one != other:
            raise Incomparable(
                f"{before.name!r} was measured with another {what} ({one}, not {other}); measure both in the same way"
            )
    top, bottom = (
        resampled_medians(np.asarray(one.samples_ms), one.turns, seed=seed + number)
        for number, one in enumerate((before, after))
    )
    low, high = middle(top / bottom)
    return Change(
        name=before.name,
        threads=before.threads,
        batch=before.batch,
        streams=before.streams,
        before_ms=before.stats.p50_ms,
        after_ms=after.stats.p50_ms,
        ratio=before.stats.p50_ms / after.stats.p50_ms,
        low=low,
        high=high,
        doubts=tuple(dict.fromkeys((*before.doubts, *after.doubts))),
    )


def _settings(series: LatencySeries) -> dict[str, object]:
    """Options without what the environment says already."""
    return {name: value for name, value in series.options.items() if name not in ("version", "cpu", "cores", "vnni")}


def _rows(source: str, report: LatencyReport) -> list[FleetRow]:
    slow = {one.setting: one.stats.p50_ms for one in report.series if one.name == FLOAT_SERIES}
    return [
        FleetRow(
            name=one.name,
            threads=one.threads,
            batch=one.batch,
            streams=one.streams,
            figure=one.figure,
            p50_ms=one.stats.p50_ms,
            p90_ms=one.stats.p90_ms,
            p99_ms=one.stats.p99_ms,
            samples=len(one.samples_ms),
            source=source,
            speedup=slow[one.setting] / one.stats.p50_ms if one.setting in slow else None,
            doubts=one.doubts,
        )
        for one in report.series
    ]


def _names(report: LatencyReport) -> str:
    return ", ".join(f"{one.name} ({one.setting})" for one in report.series) or "none"
