"""Latency distributions from the raw samples, one group for each run (threads and batch)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries, Setting, Speedup, Threads
from limpq_deploy.report import svg
from limpq_deploy.report.costs import model_name
from limpq_deploy.report.figures import milliseconds, plural
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.rows import Row, RowChart, Scale, round_scale, tick_text
from limpq_deploy.verdict.record import MIXED

HEIGHT = 52
FLOOR = 46
BINS = 120
NEAR_ZERO = 0.4
"""An axis whose shortest sample is below this share of its end starts at zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyGroup:
    """Series that were interleaved in one run. ``beyond``: calls too slow for the picture, as a sentence. ``doubts``:
    (engines that it is about, doubt)."""

    title: str
    chart: RowChart
    series: tuple[LatencySeries, ...]
    speedups: tuple[Speedup, ...]
    protocol: LatencyProtocol | None
    beyond: str | None
    doubts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySection:
    groups: tuple[LatencyGroup, ...]
    doubtful: int


def latency_section(inputs: ReportInputs) -> LatencySection | None:
    report = inputs.latency
    if report is None or not report.series:
        return None
    groups = tuple(_group(report, one) for one in dict.fromkeys(series.setting for series in report.series))
    return LatencySection(groups=groups, doubtful=sum(bool(series.doubts) for series in report.series))


def threads_text(threads: Threads) -> str:
    return "default threads" if threads == "default" else plural(threads, "thread")


def _group(report: LatencyReport, setting: Setting) -> LatencyGroup:
    series = tuple(one for one in report.series if one.setting == setting)
    names = [one.name for one in series]
    protocols = [one for one in report.protocols if one.setting == setting]
    chart, beyond = _chart(series)
    title = f"{threads_text(setting.threads).capitalize()}, batch {setting.batch}"
    if setting.streams > 1:
        title += f", {setting.streams} at once"
    speedups: tuple[Speedup, ...] = ()
    if MIXED in names:
        threads, batch, streams = setting.threads, setting.batch, setting.streams
        speedups = tuple(
            report.speedup(MIXED, name, threads=threads, batch=batch, streams=streams)
            for name in names
            if name != MIXED
        )
    return LatencyGroup(
        title=title,
        chart=chart,
        series=series,
        speedups=speedups,
        protocol=protocols[0] if protocols else None,
        beyond=beyond,
        doubts=_doubts(series),
    )


def _doubts(series: tuple[LatencySeries, ...]) -> tuple[tuple[str, str], ...]:
    """(engines, doubt), each doubt once."""
    engines: dict[str, list[str]] = {}
    for one in series:
        for doubt in one.doubts:
            engines.setdefault(doubt, []).append(model_name(one.name))
    return tuple((", ".join(names), doubt) for doubt, names in engines.items())


def latency_scale(series: tuple[LatencySeries, ...]) -> Scale:
    """From the fastest call to the slowest p99, but at most twice the slowest p90, so that a stall flattens nothing."""
    low = min(min(one.samples_ms) for one in series)
    high = min(max(one.stats.p99_ms for one in series), 2 * max(one.stats.p90_ms for one in series))
    return round_scale(0.0 if low < NEAR_ZERO * high else low, max(high, low), steps=6)


def histogram(samples_ms: NDArray[np.float64], scale: Scale, bins: int = BINS) -> NDArray[np.int64]:
    """Calls in each of ``bins`` equal bins of the axis; those beyond its end are left out."""
    edges = np.linspace(scale.low, scale.high, bins + 1)
    return np.histogram(samples_ms, bins=edges)[0].astype(np.int64)


def _chart(series: tuple[LatencySeries, ...]) -> tuple[RowChart, str | None]:
    scale = latency_scale(series)
    rows = tuple(_row(one, scale) for one in series)
    slow = [sample for one in series for sample in one.samples_ms if sample > scale.high]
    beyond = None
    if slow:
        total = sum(len(one.samples_ms) for one in series)
        beyond = (
            f"{plural(len(slow), 'call')} of {total:,} took longer than the axis shows, "
            f"the slowest {milliseconds(max(slow))}."
        )
    chart = RowChart(rows=rows, axis=scale.axis(tick_text(scale)), axis_name="milliseconds per call")
    return chart, beyond


def _row(series: LatencySeries, scale: Scale) -> Row:
    stats = series.stats
    counts = histogram(np.asarray(series.samples_ms, np.float64), scale)
    tallest = int(counts.max()) or 1
    color = f"m-{series.name}" if series.name in ("mixed", "float", "uniform8") else "m-uniform"
    bars = [
        svg.box(index / BINS, FLOOR - 34 * int(calls) / tallest, 1 / BINS, 34 * int(calls) / tallest, f"hist {color}")
        for index, calls in enumerate(counts)
        if calls
    ]
    tails = [
        svg.vertical(scale(value), FLOOR - height, FLOOR, "tail")
        for value, height in ((stats.p90_ms, 20), (stats.p99_ms, 12))
        if value <= scale.high
    ]
    low, high = scale(stats.p50_low_ms), scale(stats.p50_high_ms)
    marks = (
        scale.grid(HEIGHT),
        *bars,
        svg.horizontal(FLOOR, "base"),
        *tails,
        svg.box(low, FLOOR + 1, max(high - low, 0.002), 4, f"interval {color}"),
        svg.vertical(scale(stats.p50_ms), 4, HEIGHT, "median"),
    )
    label = (
        f"{series.name}: p50 {stats.p50_ms:.3f}, p90 {stats.p90_ms:.3f}, p99 {stats.p99_ms:.3f} ms "
        f"from {len(series.samples_ms)} calls"
    )
    return Row(
        name=model_name(series.name),
        hint="doubtful" if series.doubts else "",
        track=svg.image(label, HEIGHT, *marks),
        value=f"p50 {milliseconds(stats.p50_ms)}",
        detail=f"p99 {milliseconds(stats.p99_ms)}",
    )
