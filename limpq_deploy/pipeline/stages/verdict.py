"""The stage that holds every promise against its measurement."""

from dataclasses import replace
from pathlib import Path

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.records.placement import FLOAT_BITS, BitPair, Placement
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.base import CODED, Engine, keeps_plan
from limpq_deploy.export.runtimes.tensorrt.inspect import planned_precision
from limpq_deploy.export.timing.report import LatencyReport
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.candidate_table import candidate_table
from limpq_deploy.pipeline.stages.comparison import Comparison, fp8_pairs
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.facts import BUILDS, MEASURES, TARGET
from limpq_deploy.pipeline.stages.measure import Measured
from limpq_deploy.pipeline.stages.notes import STUDIES, studied_files, verdict_notes
from limpq_deploy.policy.policy import Policy
from limpq_deploy.progress import Report
from limpq_deploy.verdict.checks import judge
from limpq_deploy.verdict.realised_bits import executed_bits, layers_of_unknown_precision
from limpq_deploy.verdict.recommendation import recommend_by_batch, sentence
from limpq_deploy.verdict.record import (
    NO_GPU,
    BitOpsCount,
    EndToEndParity,
    LayerParity,
    Limits,
    Verdict,
    count_bitops,
    same_bits_everywhere,
)
from limpq_deploy.workspace.file_names import (
    ACCURACY,
    CANDIDATES,
    COMPARISON,
    ENGINE,
    EXPORT,
    FINETUNED_RECORD,
    FLOAT_ENGINE,
    INDICATORS,
    LATENCY,
    LINT,
    MODEL,
    PARITY,
    PLACEMENT,
    POLICY,
    VERDICT,
)

NOT_REPORTED = (
    "the engine's inspector does not report the precision of {} of {} layers; what it says is kept beside the plan "
    "(*.layers.json)"
)

FINISH = "`limpq-deploy finish`"

NO_ENGINE = f"{NO_GPU}, so no engine ran; {FINISH} measures it where there is one"

HALF_BITS = 16
"""Bits of the float model's layers in FP16 engines that do not report them, unless asked for in FP32."""

FLOAT_REASONS = dict.fromkeys(
    ("parity", "layer_parity"), "weights alone are integers, so nothing is executed in integers that could be compared"
)
"""Why a file of float activations has no parity checks."""


def _run(subject: Deployed, folder: Path, report: Report) -> str:
    limits = Limits(
        max_accuracy_drop=subject.config.max_accuracy_drop,
        max_latency_ms=subject.config.max_latency_ms,
        min_speedup=subject.config.min_speedup,
        max_float_share=subject.config.max_float_share,
    )
    policy = load_record(Policy, folder / POLICY)
    parity = load_record(ParityReport, folder / PARITY)
    placement = load_record(Placement, folder / PLACEMENT)
    checked = load_record(LintReport, folder / LINT)
    engine = load_record(Engine, folder / ENGINE) if subject.builds_engine else None
    plain = _float_engine(subject, folder)
    comparison = load_record(Comparison, folder / COMPARISON)
    verdict = judge(
        model=subject.config.model,
        target=subject.target.name,
        budgets=policy.costs,
        bitops=_bitops(subject, placement, policy, comparison, engine, plain),
        limits=limits,
        accuracy=load_record(Measured, folder / ACCURACY).accuracy,
        parity=None
        if placement.weights_only or subject.hands_over
        else EndToEndParity(
            images=parity.images,
            codes=parity.elements,
            mismatches=parity.mismatches,
            logits_bit_equal=parity.integers_equal,
            max_lsb=parity.max_lsb,
            layer_by_layer=parity.mode == "layer by layer",
            lost_bounds=tuple(one.tensor for one in parity.clips.lost) if parity.clips else (),
        ),
        layer_parity=None if placement.weights_only else _layer_parity(parity),
        float_share=placement.float_share,
        compiler=checked.compiler,
        reasons=_reasons(engine, weights_only=placement.weights_only),
        trained_parity=_trained_parity(parity) if _exact(subject, checked) else None,
        float_nodes=unplanned_floats(folder) if engine is not None else None,
        planned_float={name: engine.layer_precision.get(name, "absent") for name in checked.planned_float}
        if engine is not None
        else {},
        latency=load_record(LatencyReport, folder / LATENCY) if subject.builds_engine else None,
        precision_unknown={
            name: layers_of_unknown_precision(one)
            for name, one in (("mixed", engine), ("float", plain))
            if one is not None
        },
        notes=verdict_notes(subject, folder),
    )
    compared = candidate_table(subject, folder, verdict)
    verdict = replace(
        verdict,
        candidates=tuple(compared.candidates),
        recommendation=recommend_by_batch(
            compared,
            own_file=MODEL,
            objective=subject.config.objective,
            max_drop=subject.config.max_accuracy_drop,
            asked=subject.config.batch_range is not None,
        ),
    )
    write_record(verdict, folder / VERDICT)
    assert verdict.recommendation is not None
    shipped = sentence(verdict.recommendation, verdict.outcome)
    return f"{verdict_line(verdict, engine_left=subject.hands_over)}; {shipped}"


def verdict_line(verdict: Verdict, *, engine_left: bool) -> str:
    """The outcome in a line. ``engine_left``: all that a CPU can judge was judged, and the engine is left to another
    machine."""
    failed = [check.name for check in verdict.checks if not check.passed]
    left = [f"{one.name} (what would decide: {one.needs})" for one in verdict.undecided]
    if engine_left and verdict.outcome == "incomplete":
        later = ", ".join(one.name for one in verdict.not_measured if one.name != "latency")
        more = f", and {later}" if later else ""
        return f"passed; latency not measured: {NO_GPU} ({len(verdict.checks)} checks; {FINISH} measures it{more})"
    said = f"{verdict.outcome}: {', '.join(failed) if failed else f'{len(verdict.checks)} checks'}"
    return f"{said}; not decided: {'; '.join(left)}" if left else said


VERDICT_OF_BUILD = Stage(
    name="verdict",
    title="verdict",
    settings=(
        *("max_accuracy_drop", "max_float_share", "max_latency_ms", "min_speedup"),
        *("float_type", "objective", "ptq", "finetune", "batch"),
    ),
    facts=(TARGET,),
    reads=(
        *(POLICY, COMPARISON, PLACEMENT, INDICATORS, FINETUNED_RECORD),
        *(CANDIDATES, EXPORT, PARITY, ACCURACY, LINT, If(BUILDS, ENGINE), If(BUILDS, LATENCY), *STUDIES),
    ),
    writes=(VERDICT,),
    run=_run,
    when=(MEASURES,),
)
"""Every promise against its measurement, and which file to ship."""


def _reasons(engine: Engine | None, *, weights_only: bool) -> dict[str, str]:
    """Why parts of the verdict were not measured."""
    if engine is None:
        parts = ("float_nodes", "latency") if weights_only else ("parity_engine", "float_nodes", "latency")
        found = dict.fromkeys(parts, NO_ENGINE)
    else:
        unknown = len(layers_of_unknown_precision(engine)), len(engine.layer_precision)
        found = {"float_nodes": NOT_REPORTED.format(*unknown)}
    return (FLOAT_REASONS if weights_only else {}) | found


def _float_engine(subject: Deployed, folder: Path) -> Engine | None:
    """The float model's engine as the audit found it; None where it was none's task."""
    return load_record(Engine, folder / FLOAT_ENGINE) if FLOAT_ENGINE in studied_files(subject) else None


def _bitops(
    subject: Deployed,
    placement: Placement,
    policy: Policy,
    comparison: Comparison,
    engine: Engine | None,
    plain: Engine | None,
) -> tuple[BitOpsCount, ...]:
    """``engine`` is that of the policy, ``plain`` the float model's; uniform bits count as the target promises."""
    counted = [count_bitops("mixed", placement, policy.pairs(), realised=_executed(engine))]
    if comparison.pair is not None:
        pairs = {layer.name: comparison.pair for layer in placement.searched}
        counted.append(count_bitops(f"uniform {comparison.bits}", placement, pairs))
    counted.append(count_bitops("uniform8", placement, same_bits_everywhere(placement, 8, 8)))
    if comparison.fp8 and not comparison.is_fp8:
        counted.append(count_bitops("fp8", placement, fp8_pairs(subject)))
    floats = same_bits_everywhere(placement, FLOAT_BITS, FLOAT_BITS)
    in_half = (subject.config.float_type or subject.target.float_baseline) == "float16"
    halves = same_bits_everywhere(placement, HALF_BITS, HALF_BITS) if in_half else {}
    counted.append(count_bitops("float", placement, floats, realised=halves | _executed(plain)))
    return tuple(counted)


def _executed(engine: Engine | None) -> dict[str, BitPair]:
    """Bits that an engine executes; nothing is known of one that was not built."""
    return executed_bits(engine) if engine is not None else {}


def unplanned_floats(folder: Path) -> tuple[str, ...] | None:
    """What computes in float though it should not: nodes of the graph that the runtime shows, or layers of its engine.
    None where the precision of some layers is unknown, and runs no other one in float.

    Layers that the policy keeps in float are in no list.
    """
    lint = load_record(LintReport, folder / LINT)
    if lint.optimized:
        return lint.float_compute
    planned = planned_precision(load_model(folder / MODEL))
    engine = load_record(Engine, folder / ENGINE)
    unknown = {name for name in layers_of_unknown_precision(engine) if planned[name] in CODED}
    floats = tuple(
        name
        for name, found in engine.layer_precision.items()
        if planned[name] in CODED and name not in unknown and not keeps_plan(planned[name], found)
    )
    return floats if floats or not unknown else None


def _layer_parity(report: ParityReport) -> LayerParity | None:
    if not report.faithful:
        return None
    return LayerParity(
        images=report.images,
        layers=len(report.faithful),
        codes=sum(entry.elements for entry in report.faithful),
        mismatches=sum(entry.mismatches for entry in report.faithful),
        max_lsb=max((entry.max_lsb for entry in report.faithful), default=0),
        max_tie_distance=max((entry.max_tie_distance or 0.0 for entry in report.faithful), default=0.0),
        top1_agreement=report.top1_agreement,
        disagreements=len(report.disagreements),
    )


def _exact(subject: Deployed, checked: LintReport) -> bool:
    """Whether the target sums in integers everywhere, so that scales of powers of two leave nothing to differ."""
    return subject.target.clip == "integer" and not (checked.planned_float or subject.placement.float_operators)


def _trained_parity(report: ParityReport) -> EndToEndParity | None:
    """Only powers of two promise that nothing differs."""
    if report.scales != "pow2" or report.trained_logits_equal is None:
        return None
    return EndToEndParity(
        images=report.images,
        codes=sum(entry.elements for entry in report.end_to_end),
        mismatches=sum(entry.mismatches for entry in report.end_to_end),
        logits_bit_equal=report.trained_logits_equal,
        max_lsb=max((entry.max_lsb for entry in report.end_to_end), default=0),
    )
