"""The checks: from measurements to a verdict. Pure, so that every rule can be read and tried here."""

from collections.abc import Iterable, Mapping

from limpq_deploy.export.runtimes.tensorrt.precision import UNKNOWN
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord
from limpq_deploy.export.timing.report import FLOAT_SERIES, LatencyReport, Threads
from limpq_deploy.policy.policy import BudgetUse
from limpq_deploy.verdict.float_worth import float_notes
from limpq_deploy.verdict.record import (
    FP32,
    MIXED,
    UNIFORM,
    AccuracyResult,
    BitOpsCount,
    Check,
    EndToEndParity,
    LatencyLine,
    LatencyResult,
    LayerParity,
    Limits,
    NotMeasured,
    Undecided,
    Verdict,
    float_baseline,
    outcome_of,
)
from limpq_deploy.verdict.sampled_checks import (
    Finding,
    accuracy_checks,
    latency_checks,
    missing,
    some,
    uniform_speed_checks,
)


def judge(
    *,
    model: str,
    target: str,
    budgets: tuple[BudgetUse, ...],
    bitops: tuple[BitOpsCount, ...],
    limits: Limits,
    accuracy: AccuracyResult | None = None,
    parity: EndToEndParity | None = None,
    layer_parity: LayerParity | None = None,
    trained_parity: EndToEndParity | None = None,
    float_nodes: tuple[str, ...] | None = None,
    planned_float: Mapping[str, str] | None = None,
    float_share: float = 0.0,
    compiler: CompilerWord | None = None,
    latency: LatencyReport | None = None,
    precision_unknown: Mapping[str, tuple[str, ...]] | None = None,
    reasons: dict[str, str] | None = None,
    notes: Iterable[str] = (),
) -> Verdict:
    """Check every measurement against its limit.

    A check that rests on a sample (accuracy, latency) passes or fails where its 95 % interval lies on one side of the
    limit, and is listed under ``undecided`` where the limit lies within.

    None stands for a part that was not measured: its checks are listed under ``not_measured`` with the reason found in
    ``reasons`` under "accuracy", "uniform", "parity" (of an engine: "parity_engine"), "layer_parity", "float_nodes" or
    "latency", which is said even where no limit was asked for. ``float_nodes``:
    names of the Conv, Gemm, MatMul and Add nodes that the runtime's optimised graph computes in float, those of
    layers that the policy keeps in float excepted; ``planned_float``: the precision in which the engine runs each of
    these. ``precision_unknown``: by name of an entry of ``bitops``, layers that its engine reports no precision of, so
    that their executed bits are assumed. ``trained_parity``: where it is promised that nothing differs; else None, and
    no check. ``float_share``: of all multiply-accumulates, those of operators without an integer form.
    ``compiler``: NVIDIA's compiler's word on a file for TensorRT; None for other targets. Raises ValueError when
    accuracies were not measured on the same number of images.
    """
    why = reasons or {}
    found = [
        *(_budget(budget) for budget in budgets),
        _parity(parity, limits, why),
        _layer_parity(layer_parity, limits, why),
        *_trained_parity(trained_parity),
        _integers(float_nodes, tuple(planned_float or ()), why),
        *_floats(planned_float or {}),
        *_float_share(float_share, limits),
        *_compiler(compiler, latency),
        *accuracy_checks(accuracy, limits, why),
        *latency_checks(latency, limits, why),
        *uniform_speed_checks(latency, bitops, precision_unknown or {}),
    ]
    checks = tuple(finding for finding in found if isinstance(finding, Check))
    undecided = tuple(finding for finding in found if isinstance(finding, Undecided))
    not_measured = tuple(finding for finding in found if isinstance(finding, NotMeasured))
    result = summarise_latency(latency) if latency is not None else None
    outcome = outcome_of(checks, undecided, not_measured)
    return Verdict(
        model=model,
        target=target,
        outcome=outcome,
        passed=outcome == "passed",
        checks=checks,
        undecided=undecided,
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
        notes=(
            *float_notes(accuracy),
            *notes,
            *_accuracy_notes(accuracy),
            *_latency_notes(result),
            *_uniform_notes(result, bitops),
        ),
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
        engine = "parity_engine"
        return missing(engine, engine, why) if engine in why else missing(name, "parity", why)
    if parity.layer_by_layer:
        return _engine_parity(parity, limits)
    logits = "bit-equal" if parity.logits_bit_equal else "not bit-equal"
    return Check(
        name=name,
        passed=parity.mismatches == 0 and parity.logits_bit_equal and parity.codes > 0 and parity.images > 0,
        detail=f"{parity.mismatches:,} of {parity.codes:,} codes differ on {parity.images:,} images, logits {logits}",
    )


def _engine_parity(parity: EndToEndParity, limits: Limits) -> Check:
    """An engine that scales in float gives some codes one step off, at ties; never more, and never out of a grid."""
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
        return missing(name, "layer_parity", why)
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
            f"at most {parity.max_tie_distance:.2g} of a step from a tie; {_agreed(parity)}"
        ),
    )


def _agreed(parity: LayerParity) -> str:
    if parity.top1_agreement is None:
        return f"{parity.images:,} images"
    return f"top-1 agrees on {100 * parity.top1_agreement:.2f} % of {parity.images:,} images"


def _trained_parity(parity: EndToEndParity | None) -> list[Finding]:
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
        return missing(name, "float_nodes", why)
    but = f", but for {some(planned)}, which the policy keeps in float" if planned else ""
    if not float_nodes:
        return Check(name=name, passed=True, detail=f"no Conv, Gemm, MatMul or Add is computed in float{but}")
    return Check(
        name=name, passed=False, detail=f"{len(float_nodes)} nodes are computed in float{but}: {some(float_nodes)}"
    )


def _floats(planned: Mapping[str, str]) -> list[Finding]:
    """Layers that were to stay in float: a runtime may quantize what looks as if it could be."""
    others = tuple(f"{name} ({precision})" for name, precision in planned.items() if not precision.startswith("float"))
    if not planned:
        return []
    unknown = tuple(name for name, precision in planned.items() if precision == UNKNOWN)
    if unknown and len(unknown) == len(others):
        return [
            NotMeasured(
                name="floats_as_planned",
                reason=f"the engine does not report the precision of {some(unknown)}",
            )
        ]
    detail = f"{len(planned) - len(others)} of {len(planned)} layers that the policy keeps in float run so"
    return [
        Check(
            name="floats_as_planned",
            passed=not others,
            detail=detail + (f"; not {some(others)}" if others else ""),
        )
    ]


def _float_share(share: float, limits: Limits) -> list[Finding]:
    if limits.max_float_share is None:
        return []
    detail = f"{100 * share:.1f} % of all multiply-accumulates have no integer form"
    passed = share <= limits.max_float_share
    return [Check(name="float_share", passed=passed, detail=f"{detail}; {100 * limits.max_float_share:g} % allowed")]


def _compiler(word: CompilerWord | None, latency: LatencyReport | None) -> list[Finding]:
    """What NVIDIA's compiler makes of the file, where the target asks for it. Where the compiler is not here, that is
    missing only as long as no engine of the target's own has run."""
    name = "compiler_accepts"
    if word is None:
        return []
    if word.accepted is None:
        return [NotMeasured(name=name, reason=word.detail)] if latency is None else []
    wrong = f"; planned in integers and compiled to floats: {some(word.as_floats)}" if word.as_floats else ""
    return [Check(name=name, passed=word.as_planned, detail=word.detail + wrong)]


def _uniform_notes(result: LatencyResult | None, bitops: tuple[BitOpsCount, ...]) -> tuple[str, ...]:
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


def _accuracy_notes(accuracy: AccuracyResult | None) -> tuple[str, ...]:
    if accuracy is None:
        return ()
    if accuracy.uniform_bits is None:
        return ("No uniform policy keeps the budgets and restrictions, so there is none to compare with.",)
    if accuracy.against_uniform is None or accuracy.against_uniform.points >= 0:
        return ()
    return (
        f"On these images the mixed policy is {-accuracy.against_uniform.points:.2f} {accuracy.mixed.measure.points} "
        "worse than "
        f"{accuracy.uniform_bits} within the same budget (95 % interval of the difference "
        f"{accuracy.against_uniform.interval[0]:+.2f} to {accuracy.against_uniform.interval[1]:+.2f}).",
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
        if gain.over == FLOAT_SERIES and gain.high < 1
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
