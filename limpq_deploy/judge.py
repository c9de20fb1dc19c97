"""The checks: from measurements to a verdict. Pure, so that every rule can be read and tried here."""

from collections.abc import Iterable, Mapping

from limpq_deploy.export.engine_precision import UNKNOWN
from limpq_deploy.export.latency import LatencyReport, LatencySeries, Threads
from limpq_deploy.policy import BudgetUse
from limpq_deploy.verdict import (
    AccuracyResult,
    BitOps,
    Check,
    EndToEndParity,
    LatencyLine,
    LatencyResult,
    LayerParity,
    Limits,
    NotMeasured,
    TrainedParity,
    Verdict,
    outcome_of,
)

MIXED, FLOAT = "mixed", "float"
"""Names of the latency series that limits are about."""

FP32 = "fp32"
"""Name of a further float series; where there is one, `FLOAT` is the engine in FP16."""

UNIFORM = ("uniform8", "float16")
"""Names of the engines of one precision throughout that a budgeted engine is set beside."""

Finding = Check | NotMeasured


def judge(
    *,
    model: str,
    target: str,
    budgets: tuple[BudgetUse, ...],
    bitops: tuple[BitOps, ...],
    limits: Limits,
    accuracy: AccuracyResult | None = None,
    parity: EndToEndParity | None = None,
    layer_parity: LayerParity | None = None,
    trained_parity: TrainedParity | None = None,
    float_nodes: tuple[str, ...] | None = None,
    planned_float: Mapping[str, str] | None = None,
    latency: LatencyReport | None = None,
    untold: Mapping[str, tuple[str, ...]] | None = None,
    reasons: dict[str, str] | None = None,
    notes: Iterable[str] = (),
) -> Verdict:
    """Check every measurement against its limit.

    None stands for a part that was not measured: its checks are listed under ``not_measured`` with the reason found in
    ``reasons`` under "accuracy", "uniform", "parity", "layer_parity", "float_nodes" or "latency". ``float_nodes``:
    names of the Conv, Gemm, MatMul and Add nodes that the runtime's optimised graph computes in float, those of
    layers that the policy leaves in float excepted; ``planned_float``: the precision in which the engine runs each of
    these. ``untold``: by name of an entry of ``bitops``, layers of which the engine does not tell the precision, so
    that their executed bits are assumed. ``trained_parity``: where it is promised that nothing differs; else None, and
    no check. Raises ValueError when accuracies were not measured on the same number of images.
    """
    why = reasons or {}
    found = [
        *(_budget(budget) for budget in budgets),
        _parity(parity, limits, why),
        _layer_parity(layer_parity, limits, why),
        *_trained_parity(trained_parity),
        _integers(float_nodes, tuple(planned_float or ()), why),
        *_floats(planned_float or {}),
        *_accuracy(accuracy, limits, why),
        *_latency(latency, limits, why),
        *_faster_than_uniform(latency, bitops, untold or {}),
    ]
    checks = tuple(finding for finding in found if isinstance(finding, Check))
    not_measured = tuple(finding for finding in found if isinstance(finding, NotMeasured))
    result = summarise_latency(latency) if latency is not None else None
    outcome = outcome_of(checks, not_measured)
    return Verdict(
        model=model,
        target=target,
        outcome=outcome,
        passed=outcome == "passed",
        checks=checks,
        not_measured=not_measured,
        budgets=budgets,
        bitops=bitops,
        limits=limits,
        accuracy=accuracy,
        parity=parity,
        layer_parity=layer_parity,
        trained_parity=trained_parity,
        float_nodes=float_nodes,
        latency=result,
        notes=(*notes, *_accuracy_notes(accuracy), *_latency_notes(result), *_uniform_notes(result, bitops)),
    )


def summarise_latency(report: LatencyReport) -> LatencyResult:
    """Percentiles of every series, and the mixed model's speed-up over each other one of the same run."""
    lines = tuple(
        LatencyLine(
            name=series.name,
            threads=series.threads,
            batch=series.batch,
            p50_ms=series.stats.p50_ms,
            p90_ms=series.stats.p90_ms,
            p99_ms=series.stats.p99_ms,
            doubts=series.doubts,
        )
        for series in report.series
    )
    runs = {series.setting for series in report.series if series.name == MIXED}
    speedups = tuple(
        report.speedup(MIXED, series.name, threads=series.threads, batch=series.batch, streams=series.streams)
        for series in report.series
        if series.name != MIXED and series.setting in runs
    )
    return LatencyResult(lines=lines, speedups=speedups)


def float_baseline(names: Iterable[str]) -> str:
    """What the series "float" is to be called among series of these names."""
    return f"{FLOAT} (FP16)" if FP32 in names else FLOAT


def _budget(budget: BudgetUse) -> Check:
    kept = budget.used <= budget.limit
    word = "within" if kept else "above"
    return Check(
        name=f"budget_{budget.name}",
        passed=kept,
        detail=f"{budget.used:,} {budget.unit} used, {word} the limit of {budget.limit:,}",
    )


def _parity(parity: EndToEndParity | None, limits: Limits, why: dict[str, str]) -> Finding:
    name = "parity_end_to_end"
    if parity is None:
        return _missing(name, "parity", why)
    if parity.layer_by_layer:
        return _engine_parity(parity, limits)
    logits = "bit-equal" if parity.logits_bit_equal else "not bit-equal"
    return Check(
        name=name,
        passed=parity.mismatches == 0 and parity.logits_bit_equal and parity.codes > 0 and parity.images > 0,
        detail=f"{parity.mismatches:,} of {parity.codes:,} codes differ on {parity.images:,} images, logits {logits}",
    )


def _engine_parity(parity: EndToEndParity, limits: Limits) -> Check:
    """An engine that scales in floats gives some codes one step off, at ties; never more, and never out of a grid."""
    allowed = limits.max_engine_flip_share * parity.codes
    lost = f"; codes leave the grid of {', '.join(parity.lost_bounds[:5])}" if parity.lost_bounds else ""
    return Check(
        name="parity_engine",
        passed=(
            parity.codes > 0
            and parity.images > 0
            and parity.max_lsb <= limits.max_lsb
            and parity.mismatches <= allowed
            and not parity.lost_bounds
        ),
        detail=(
            f"layer by layer {parity.mismatches:,} of {parity.codes:,} codes differ on {parity.images:,} images "
            f"(at most {allowed:,.0f} allowed), by at most {parity.max_lsb} LSB{lost}"
        ),
    )


def _layer_parity(parity: LayerParity | None, limits: Limits, why: dict[str, str]) -> Finding:
    name = "parity_layer_by_layer"
    if parity is None:
        return _missing(name, "layer_parity", why)
    allowed = limits.max_flip_share * parity.codes
    passed = (
        parity.codes > 0
        and parity.max_lsb <= limits.max_lsb
        and (parity.mismatches == 0 or parity.mismatches < allowed)
        and parity.max_tie_distance <= limits.max_tie_distance
    )
    return Check(
        name=name,
        passed=passed,
        detail=(
            f"{parity.mismatches:,} of {parity.codes:,} codes of {parity.layers} layers differ "
            f"(fewer than {allowed:,.1f} allowed), by at most {parity.max_lsb} LSB, "
            f"at most {parity.max_tie_distance:.2g} of a step from a tie; "
            f"top-1 agrees on {100 * parity.top1_agreement:.2f} % of {parity.images:,} images"
        ),
    )


def _trained_parity(parity: TrainedParity | None) -> list[Finding]:
    if parity is None:
        return []
    logits = "bit-equal" if parity.logits_bit_equal else "not bit-equal"
    return [
        Check(
            name="parity_power_of_two",
            passed=parity.mismatches == 0 and parity.logits_bit_equal and parity.codes > 0 and parity.images > 0,
            detail=(
                f"{parity.mismatches:,} of {parity.codes:,} codes of the trained model differ from those of the "
                "engine, "
                f"from the images on, on {parity.images:,} images, logits {logits}"
            ),
        )
    ]


def _integers(float_nodes: tuple[str, ...] | None, planned: tuple[str, ...], why: dict[str, str]) -> Finding:
    name = "integers_everywhere"
    if float_nodes is None:
        return _missing(name, "float_nodes", why)
    but = f", but for {_some(planned)}, which the policy leaves in float" if planned else ""
    if not float_nodes:
        return Check(name=name, passed=True, detail=f"no Conv, Gemm, MatMul or Add is computed in float{but}")
    return Check(
        name=name, passed=False, detail=f"{len(float_nodes)} nodes are computed in float{but}: {_some(float_nodes)}"
    )


def _floats(planned: Mapping[str, str]) -> list[Finding]:
    """Layers that were to stay in float: a runtime may quantize what looks as if it could be."""
    others = tuple(f"{name} ({precision})" for name, precision in planned.items() if not precision.startswith("float"))
    if not planned:
        return []
    untold = tuple(name for name, precision in planned.items() if precision == UNKNOWN)
    if untold and len(untold) == len(others):
        return [
            NotMeasured(name="floats_as_planned", reason=f"the engine does not tell the precision of {_some(untold)}")
        ]
    detail = f"{len(planned) - len(others)} of {len(planned)} layers that the policy leaves in float run so"
    return [
        Check(
            name="floats_as_planned",
            passed=not others,
            detail=detail + (f"; not {_some(others)}" if others else ""),
        )
    ]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _accuracy(accuracy: AccuracyResult | None, limits: Limits, why: dict[str, str]) -> list[Finding]:
    against_float, against_uniform = "accuracy_against_float", "accuracy_against_uniform"
    if accuracy is None:
        return [_missing(against_float, "accuracy", why), _missing(against_uniform, "accuracy", why)]
    reference, mixed = accuracy.float, accuracy.mixed
    for other in (mixed, accuracy.uniform, accuracy.uniform8):
        if other is not None and other.images != reference.images:
            raise ValueError(f"accuracies on {reference.images} and {other.images} images cannot be compared")
    findings: list[Finding] = [
        Check(
            name=against_float,
            passed=100 * (reference.correct - mixed.correct) <= limits.max_accuracy_drop * reference.images,
            detail=(
                f"top-1 {mixed.top1:.2f} % against {reference.top1:.2f} % in float "
                f"({mixed.top1 - reference.top1:+.2f} points, at most {limits.max_accuracy_drop:g} may be lost)"
            ),
        )
    ]
    if accuracy.uniform_bits is None:
        return findings
    if accuracy.uniform is None or accuracy.against_uniform is None:
        return [*findings, _missing(against_uniform, "uniform", why)]
    pair, uniform = accuracy.against_uniform, accuracy.uniform
    worse = pair.points < 0
    significant = pair.p_first_worse < limits.significance
    if not worse:
        verdict = "not worse"
    elif significant:
        verdict = f"worse beyond noise (p = {pair.p_first_worse:.2g}, limit {limits.significance:g})"
    else:
        verdict = f"worse, within the noise of {pair.images:,} images (p = {pair.p_first_worse:.2g})"
    findings.append(
        Check(
            name=against_uniform,
            passed=not (worse and significant),
            detail=(
                f"top-1 {mixed.top1:.2f} % against {uniform.top1:.2f} % with {accuracy.uniform_bits} "
                f"within the same budget ({pair.points:+.2f} points; {pair.only_first} images right only here, "
                f"{pair.only_second} only there): {verdict}"
            ),
        )
    )
    return findings


def _latency(report: LatencyReport | None, limits: Limits, why: dict[str, str]) -> list[Finding]:
    findings: list[Finding] = []
    mixed = _deployed(report, MIXED)
    if limits.max_latency_ms is not None:
        findings.append(
            _missing("latency", "latency", why)
            if mixed is None
            else Check(
                name="latency",
                passed=mixed.stats.p50_ms <= limits.max_latency_ms,
                detail=(
                    f"p50 {mixed.stats.p50_ms:.3f} ms (95 % interval {mixed.stats.p50_low_ms:.3f} to "
                    f"{mixed.stats.p50_high_ms:.3f}) at batch {mixed.batch}, limit {limits.max_latency_ms:g} ms"
                    f"{_doubtful(mixed)}"
                ),
            )
        )
    if limits.min_speedup is not None:
        slow = _deployed(report, FLOAT)
        if report is None or mixed is None or slow is None or slow.batch != mixed.batch:
            findings.append(_missing("speedup", "latency", why))
        else:
            gain = report.speedup(MIXED, FLOAT, threads="default", batch=mixed.batch)
            other = float_baseline(series.name for series in report.series)
            findings.append(
                Check(
                    name="speedup",
                    passed=gain.ratio >= limits.min_speedup,
                    detail=(
                        f"{gain.ratio:.2f} times as fast as {other} (95 % interval {gain.low:.2f} to {gain.high:.2f}) "
                        f"at batch {gain.batch}, at least {limits.min_speedup:g} asked{_doubtful(mixed, slow)}"
                    ),
                )
            )
    return findings


def _faster_than_uniform(
    report: LatencyReport | None, bitops: tuple[BitOps, ...], untold: Mapping[str, tuple[str, ...]]
) -> list[Finding]:
    """Where the engine executes fewer BitOps than a uniform one that was timed beside it, it has to be faster. Not
    measured where executed BitOps are assumed in part."""
    executed = {entry.name: entry.realised_all for entry in bitops}
    series_of = {name: name for name in UNIFORM}
    if report is not None and any(series.name == FP32 for series in report.series) and FLOAT in executed:
        executed["float16"], series_of["float16"] = executed[FLOAT], FLOAT
    mixed = _deployed(report, MIXED)
    findings: list[Finding] = []
    for name, timed in series_of.items():
        other = _deployed(report, timed)
        if report is None or mixed is None or other is None or other.batch != mixed.batch:
            continue
        if not executed.get(MIXED, 0) < executed.get(name, 0):
            continue
        assumed = [(one, untold[one]) for one in (MIXED, timed) if untold.get(one)]
        if assumed:
            of = " and ".join(f"{len(layers)} layers of the {one} engine ({_some(layers)})" for one, layers in assumed)
            reason = f"executed BitOps are assumed: the precision of {of} is not told"
            findings.append(NotMeasured(name=f"faster_than_{name}", reason=reason))
            continue
        gain = report.speedup(MIXED, timed, threads="default", batch=mixed.batch)
        findings.append(
            Check(
                name=f"faster_than_{name}",
                passed=gain.ratio > 1,
                detail=(
                    f"{executed[MIXED] / 1e9:,.4g} G BitOps executed against {executed[name] / 1e9:,.4g} G, and "
                    f"{gain.ratio:.2f} times its speed (95 % interval {gain.low:.2f} to {gain.high:.2f})"
                    f"{_doubtful(mixed, other)}"
                ),
            )
        )
    return findings


def _uniform_notes(result: LatencyResult | None, bitops: tuple[BitOps, ...]) -> tuple[str, ...]:
    """That no gain over a uniform engine is to be expected, where both execute the same; and what it costs."""
    executed = {entry.name: entry.realised_all for entry in bitops}
    asked = {entry.name: entry.nominal_all for entry in bitops}
    return tuple(
        f"The mixed engine executes as many BitOps as {gain.over} and runs at {gain.ratio:.2f} times its speed (95 % "
        f"{gain.low:.2f} to {gain.high:.2f}, {_threads(gain.threads)}): below 8 bits nothing is faster here, and grids "
        "are cut by Clips of their own."
        for gain in (result.speedups if result is not None else ())
        if gain.over in UNIFORM
        and gain.high < 1
        and gain.threads == "default"
        and executed.get(MIXED) == executed.get(gain.over) is not None
        and asked[MIXED] < asked[gain.over]  # at the same bits there is nothing to explain but the machine
    )


def _deployed(report: LatencyReport | None, name: str) -> LatencySeries | None:
    """The series that limits are about: the runtime's default threads, smallest batch."""
    if report is None:
        return None
    series = [series for series in report.series if series.name == name and series.threads == "default"]
    return min(series, key=lambda one: one.batch, default=None)


def _accuracy_notes(accuracy: AccuracyResult | None) -> tuple[str, ...]:
    if accuracy is None:
        return ()
    if accuracy.uniform_bits is None:
        return ("No uniform policy keeps the budgets and restrictions, so there is none to compare with.",)
    if accuracy.against_uniform is None or accuracy.against_uniform.points >= 0:
        return ()
    return (
        f"On these images the mixed policy is {-accuracy.against_uniform.points:.2f} points worse than "
        f"{accuracy.uniform_bits} within the same budget: the search did not pay here.",
    )


def _latency_notes(result: LatencyResult | None) -> tuple[str, ...]:
    """What float is here, and where quantization does not pay."""
    if result is None:
        return ()
    names = {line.name for line in result.lines}
    other = float_baseline(names)
    kinds = (
        f"Float is the float model's engine in FP16; {FP32} is that of the same file with float32 products, no TF32."
    )
    slow = [
        f"{gain.ratio:.2f} times its speed with {_threads(gain.threads)} at batch {gain.batch}"
        for gain in result.speedups
        if gain.over == FLOAT and gain.high < 1
    ]
    return (
        *((kinds,) if FP32 in names else ()),
        *(
            [f"The mixed engine is slower than {other}: {', '.join(slow)}. Quantization does not pay here."]
            if slow
            else ()
        ),
    )


def _threads(count: Threads) -> str:
    if count == "default":
        return "the runtime's default threads"
    return "one thread" if count == 1 else f"{count} threads"


def _doubtful(*series: LatencySeries) -> str:
    doubts = sorted({doubt for one in series for doubt in one.doubts})
    return f"; doubtful: {'; '.join(doubts)}" if doubts else ""


def _missing(check: str, part: str, why: dict[str, str]) -> NotMeasured:
    return NotMeasured(name=check, reason=why.get(part, f"{part.replace('_', ' ')} was not measured"))
