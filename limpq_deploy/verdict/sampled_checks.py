"""Checks of what is measured on a sample, images or calls. Pure.

Each passes or fails where its 95 % interval lies on one side of the limit, and is left open where the limit lies in it.
"""

from collections.abc import Mapping

from limpq_deploy.export.timing.report import FLOAT_SERIES, LatencyReport, LatencySeries
from limpq_deploy.tasks.score import Difference
from limpq_deploy.train.evaluate import PairedComparison
from limpq_deploy.verdict.record import (
    FP32,
    MIXED,
    UNIFORM,
    AccuracyResult,
    BitOpsCount,
    Check,
    Limits,
    NotMeasured,
    Undecided,
    float_baseline,
)

Finding = Check | Undecided | NotMeasured

Span = tuple[float, float, float]
"""Lower end of a figure's 95 % interval, the figure, the upper end."""

MOST_TIMES = 1000
"""More repetitions than this are no advice."""


def accuracy_checks(accuracy: AccuracyResult | None, limits: Limits, why: Mapping[str, str]) -> list[Finding]:
    """The mixed model against the float one, and against the uniform one."""
    against_float, against_uniform = "accuracy_against_float", "accuracy_against_uniform"
    if accuracy is None:
        return [missing(against_float, "accuracy", why), missing(against_uniform, "accuracy", why)]
    reference, mixed = accuracy.float, accuracy.mixed
    for other in (mixed, accuracy.uniform, accuracy.uniform8, accuracy.fp8):
        if other is not None and other.images != reference.images:
            raise ValueError(f"accuracies on {reference.images} and {other.images} images cannot be compared")
    findings: list[Finding] = []
    if accuracy.against_float is None:
        findings.append(NotMeasured(name=against_float, reason="the models were not compared image by image"))
    else:
        figures = f"{mixed.measure.said(mixed.value)} against {reference.shown} in float"
        unit = mixed.measure.points
        findings.append(_drop(against_float, accuracy.against_float, figures, limits.max_accuracy_drop, unit))
    if accuracy.uniform_bits is None:
        return findings
    if accuracy.uniform is None or accuracy.against_uniform is None:
        return [*findings, missing(against_uniform, "uniform", why)]
    pair = accuracy.against_uniform
    worse = pair.p_first_worse < limits.significance
    if pair.points >= 0:
        judged = "not worse"
    elif worse:
        judged = f"worse beyond noise (p = {pair.p_first_worse:.2g}, limit {limits.significance:g})"
    else:
        judged = f"worse, within the noise of {pair.images:,} images (p = {pair.p_first_worse:.2g})"
    check = Check(
        name=against_uniform,
        passed=pair.points >= 0 or not worse,
        detail=(
            f"{mixed.measure.said(mixed.value)} against {accuracy.uniform.shown} with {accuracy.uniform_bits} "
            f"within the same budget ({pair.points:+.2f} {mixed.measure.points}, 95 % interval "
            f"{pair.interval[0]:+.2f} to {pair.interval[1]:+.2f}{_counted(pair)}): {judged}"
        ),
    )
    return [*findings, check]


def _counted(pair: PairedComparison | Difference) -> str:
    if isinstance(pair, Difference):
        return ""
    return f"; {pair.only_first} images right only here, {pair.only_second} only there"


def _drop(name: str, pair: PairedComparison | Difference, figures: str, most: float, unit: str) -> Finding:
    """Whether the first model loses at most so many points, or units of its figure, against the second."""
    low, high = pair.interval
    detail = (
        f"{figures} ({pair.points:+.2f} {unit}, 95 % interval {low:+.2f} to {high:+.2f} on {pair.images:,} images; "
        f"at most {most:g} may be lost)"
    )
    if low >= -most or high < -most:
        return Check(name=name, passed=low >= -most, detail=detail)
    images = pair.images_that_decide(-most)
    needs = "no number of images, as the difference is the limit itself"
    if images is not None:
        needs = f"about {_rounded(images):,} images, if the difference stays"
    return Undecided(name=name, detail=f"{detail}: not decided by these images", needs=needs)


def latency_checks(report: LatencyReport | None, limits: Limits, why: Mapping[str, str]) -> list[Finding]:
    """The limits that were asked for: milliseconds, and speed over float."""
    findings: list[Finding] = []
    mixed = _deployed(report, MIXED)
    if limits.max_latency_ms is not None or (report is None and "latency" in why):
        if limits.max_latency_ms is None or mixed is None:
            findings.append(missing("latency", "latency", why))
        else:
            stats = mixed.stats
            figures = (
                f"p50 {stats.p50_ms:.3f} ms (95 % interval {stats.p50_low_ms:.3f} to {stats.p50_high_ms:.3f}) at batch "
                f"{mixed.batch}, limit {limits.max_latency_ms:g} ms{_doubtful(mixed)}"
            )
            span = stats.p50_low_ms, stats.p50_ms, stats.p50_high_ms
            findings.append(_at_most("latency", span, limits.max_latency_ms, figures))
    if limits.min_speedup is not None:
        slow = _deployed(report, FLOAT_SERIES)
        if report is None or mixed is None or slow is None or slow.batch != mixed.batch:
            findings.append(missing("speedup", "latency", why))
        else:
            gain = report.speedup(MIXED, FLOAT_SERIES, threads="default", batch=mixed.batch)
            other = float_baseline(series.name for series in report.series)
            figures = (
                f"{gain.ratio:.2f} times as fast as {other} (95 % interval {gain.low:.2f} to {gain.high:.2f}) "
                f"at batch {gain.batch}, at least {limits.min_speedup:g} asked{_doubtful(mixed, slow)}"
            )
            span = gain.low, gain.ratio, gain.high
            findings.append(_at_least("speedup", span, limits.min_speedup, figures))
    return findings


def uniform_speed_checks(
    report: LatencyReport | None, bitops: tuple[BitOpsCount, ...], unknown: Mapping[str, tuple[str, ...]]
) -> list[Finding]:
    """Where the engine executes fewer BitOps than a uniform one that was timed beside it, it has to be faster. Not
    measured where executed BitOps are assumed in part."""
    executed = {entry.name: entry.realised_all for entry in bitops}
    series_of = {name: name for name in UNIFORM}
    if report is not None and any(series.name == FP32 for series in report.series) and FLOAT_SERIES in executed:
        executed["float16"], series_of["float16"] = executed[FLOAT_SERIES], FLOAT_SERIES
    mixed = _deployed(report, MIXED)
    findings: list[Finding] = []
    for name, timed in series_of.items():
        other = _deployed(report, timed)
        if report is None or mixed is None or other is None or other.batch != mixed.batch:
            continue
        if not executed.get(MIXED, 0) < executed.get(name, 0):
            continue
        assumed = [(one, unknown[one]) for one in (MIXED, timed) if unknown.get(one)]
        if assumed:
            of = " and ".join(f"{len(layers)} layers of the {one} engine ({some(layers)})" for one, layers in assumed)
            reason = f"executed BitOps are assumed: the precision of {of} is unknown"
            findings.append(NotMeasured(name=f"faster_than_{name}", reason=reason))
            continue
        gain = report.speedup(MIXED, timed, threads="default", batch=mixed.batch)
        figures = (
            f"{executed[MIXED] / 1e9:,.4g} G BitOps executed against {executed[name] / 1e9:,.4g} G, and "
            f"{gain.ratio:.2f} times its speed (95 % interval {gain.low:.2f} to {gain.high:.2f})"
            f"{_doubtful(mixed, other)}"
        )
        findings.append(_faster(f"faster_than_{name}", (gain.low, gain.ratio, gain.high), figures))
    return findings


def _at_most(name: str, span: Span, most: float, figures: str) -> Finding:
    """A figure against the most that it may be."""
    low, _, high = span
    if high <= most or low > most:
        return Check(name=name, passed=high <= most, detail=figures)
    return Undecided(name=name, detail=f"{figures}: not decided by these calls", needs=_more_calls(span, most))


def _at_least(name: str, span: Span, least: float, figures: str) -> Finding:
    """A figure against the least that it may be."""
    low, _, high = span
    if low >= least or high < least:
        return Check(name=name, passed=low >= least, detail=figures)
    return Undecided(name=name, detail=f"{figures}: not decided by these calls", needs=_more_calls(span, least))


def _faster(name: str, span: Span, figures: str) -> Finding:
    """A ratio of speeds that has to be above 1; at 1 neither is."""
    low, _, high = span
    if low > 1 or high < 1:
        return Check(name=name, passed=low > 1, detail=figures)
    return Undecided(name=name, detail=f"{figures}: not decided by these calls", needs=_more_calls(span, 1.0))


def _more_calls(span: Span, limit: float) -> str:
    """An interval narrows with the square root of the calls."""
    low, figure, high = span
    distance, half = abs(figure - limit), figure - low if figure > limit else high - figure
    times = (half / distance) ** 2 if distance else float("inf")
    if times > MOST_TIMES:
        return f"more than {MOST_TIMES:,} times as many calls: the figure is the limit, as far as these calls show"
    return f"about {max(2, round(times))} times as many calls (--latency-seconds), if the figure stays"


def _deployed(report: LatencyReport | None, name: str) -> LatencySeries | None:
    """The series that limits are about: the runtime's default threads, smallest batch."""
    if report is None:
        return None
    series = [series for series in report.series if series.name == name and series.threads == "default"]
    return min(series, key=lambda one: one.batch, default=None)


def _doubtful(*series: LatencySeries) -> str:
    doubts = sorted({doubt for one in series for doubt in one.doubts})
    return f"; doubtful: {'; '.join(doubts)}" if doubts else ""


def _rounded(number: int) -> int:
    """Two significant digits."""
    return int(float(f"{number:.1e}"))


def some(names: tuple[str, ...]) -> str:
    """The first five, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def missing(check: str, part: str, why: Mapping[str, str]) -> NotMeasured:
    """A check whose part was not measured, and why."""
    return NotMeasured(name=check, reason=why.get(part, f"{part.replace('_', ' ')} was not measured"))
