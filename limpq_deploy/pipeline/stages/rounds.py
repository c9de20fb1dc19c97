"""Stages that bring latency into the search: a profile of the model's parts, rounds until a limit holds, and a study of
how far BitOps predict latency here. All time graphs with made-up scales, so nothing has to be trained first."""

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.markers import MARKERS_KEY, markers_text, with_markers
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.runtimes.base import BuildsEngines, Runtime
from limpq_deploy.export.timing.cpu_audit import audit_cpu
from limpq_deploy.export.timing.profile import (
    ProfileSettings,
    figure,
    profile,
    skeleton_of,
    time_graphs,
    write_timing_graphs,
)
from limpq_deploy.export.timing.report import Threads
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.latency.baselines import least_batch
from limpq_deploy.latency.bench import progress_of
from limpq_deploy.latency.rounds import Rounds, Timed, go_round
from limpq_deploy.latency.study import LatencyStudy, narrow_policies, native_policies
from limpq_deploy.latency.study_times import swept_pairs, time_study
from limpq_deploy.model.edges import layer_edges
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.asked_policy import budgets_asked
from limpq_deploy.pipeline.stages.declaration import If, Stage
from limpq_deploy.pipeline.stages.facts import (
    BUILDS,
    ENGINE_OPTIONS,
    FORM,
    INTEGERS,
    MODEL_FACT,
    ON_CPU,
    PROFILED,
    ROUNDS_MADE,
    TIMED,
    profile_seconds,
)
from limpq_deploy.pipeline.stages.template import make_template
from limpq_deploy.policy.budgets import latency_budget
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.progress import Report
from limpq_deploy.workspace.file_names import (
    AUDIT,
    FLOAT_MODEL,
    FLOAT_WEIGHTS,
    INDICATORS,
    MODEL,
    PLACEMENT,
    STUDY,
    TABLE,
    TEMPLATE,
)

THREADS: Threads = "default"
"""As in the verdict's check of latency: the runtime's own choice, at the smallest batch that its engines take."""

STUDY_BUDGETS, STUDY_BITS = 7, (2, 3, 4, 6, 8)
"""Budgets of the study's native sweep, and bits of its narrow one."""

STUDIED_SHARE = 0.3
"""Of the seconds for which the files themselves are timed: there are many graphs, and their order is what is asked."""

ENGINE_BUDGETS, ENGINE_BITS = 5, (2, 4, 8)
"""The same where each graph is an engine that has to be built."""


def _run_profile(subject: Subject, folder: Path, report: Report) -> str:
    traced = subject.traced(folder / FLOAT_WEIGHTS)
    template = make_template(subject, traced)
    plain = strip_markers(template)
    onnx.helper.set_model_props(plain, {MARKERS_KEY: markers_text(template)})
    onnx.save(plain, folder / TEMPLATE)
    edges = [(edge.producer, edge.consumer, edge.elements) for edge in layer_edges(traced)]
    runtime = subject.runtime()
    table = profile(
        template, subject.placement, edges, runtime, _settings(subject, runtime), report=progress_of(report)
    )
    write_record(table, folder / TABLE)
    off = sorted(abs(one.error) for one in table.observations if one.error is not None)
    said = f"{len(subject.placement.layers)} layers on {table.device}"
    if off:
        said += f"; mixed graphs predicted within {100 * off[-1]:.1f} % (median {100 * off[len(off) // 2]:.1f} %)"
    return said


PROFILE = Stage(
    name="profile",
    title="profile",
    settings=ENGINE_OPTIONS,
    facts=(PROFILED, FORM, MODEL_FACT, *TIMED),
    reads=(FLOAT_WEIGHTS, PLACEMENT),
    writes=(TABLE, TEMPLATE),
    run=_run_profile,
    when=(ROUNDS_MADE,),
)
"""What every layer takes on this machine, at each native precision."""


def search_in_rounds(
    subject: Subject,
    folder: Path,
    indicators: Indicators,
    choose: Callable[[tuple[Budget, ...]], Policy],
    report: Report,
) -> tuple[Policy, Rounds]:
    """Choose a policy within the latency limit, time its graph, correct the table, and so on. ``indicators``: those
    that budgets are made for."""
    table = load_record(LatencyTable, folder / TABLE)
    placement = subject.placement
    assert indicators.edges is not None
    edges = [(edge.producer, edge.consumer, edge.elements) for edge in indicators.edges]
    measured = tuple(dict.fromkeys((time.weight_bits, time.act_bits) for time in table.times))
    limit = subject.config.max_latency_ms
    assert limit is not None
    template, runtime = with_markers(load_model(folder / TEMPLATE)), subject.runtime()
    settings = _settings(subject, runtime)
    most = subject.config.latency_rounds
    rounds = 0

    def solve(current: LatencyTable, aim_ms: float) -> Policy:
        return choose((*budgets_asked(subject, indicators), latency_budget(indicators, current, aim_ms)))

    def time(pairs: Mapping[str, BitPair]) -> Timed:
        nonlocal rounds
        rounds += 1
        report(rounds, most, f"round {rounds}")
        return time_policy(template, placement, pairs, table, runtime, settings)

    return go_round(
        table,
        skeleton_of(placement, edges, measured),
        limit_ms=limit,
        solve=solve,
        time=time,
        most=most,
    )


def time_policy(
    template: onnx.ModelProto,
    placement: Placement,
    pairs: Mapping[str, BitPair],
    table: LatencyTable,
    runtime: Runtime,
    settings: ProfileSettings,
) -> Timed:
    """Time a policy's graph beside those of the uniform policies, which tell how fast the machine is now: the
    geometric mean of their times over those in the table."""
    then = {one.name: one.measured_ms for one in table.observations if one.name.startswith("uniform")}
    policies = {one.name: one.pairs for one in table.observations if one.name in then}
    with tempfile.TemporaryDirectory() as folder:
        files = write_timing_graphs(template, placement, {"policy": pairs, **policies}, Path(folder))
        series = time_graphs(files, runtime, settings)
    found = figure(series["policy"], settings)
    slower = [math.log(figure(series[name], settings).ms / ms) for name, ms in then.items()]
    return Timed(
        measured_ms=found.ms,
        low_ms=found.low_ms,
        high_ms=found.high_ms,
        speed=math.exp(sum(slower) / len(slower)) if slower else 1.0,
        doubts=series["policy"].doubts,
    )


def _run_study(subject: Subject, folder: Path, report: Report) -> str:
    indicators = load_record(Indicators, folder / INDICATORS)
    template = with_markers(load_model(folder / FLOAT_MODEL))
    runtime = subject.runtime()
    settings = ProfileSettings(
        threads=THREADS, batch=least_batch(runtime), seconds=subject.config.latency_seconds * STUDIED_SHARE
    )
    found = measure_study(template, subject.placement, indicators, runtime, settings, report)
    write_record(found, folder / STUDY)
    slow = ""
    if subject.target.device == "cpu":
        audit = audit_cpu(folder / MODEL, folder / FLOAT_MODEL, runtime)
        write_record(audit, folder / AUDIT)
        slow = f"; {len(audit.slower)} integer layers slower than in float" if audit.slower else ""
    order = "undefined" if found.realised.value is None else f"{found.realised.value:.2f}"
    doubtful = f"; {found.doubtful} of {len(found.points)} figures doubtful" if found.doubtful else ""
    return (
        f"rank correlation with executed BitOps {order} ({found.realised.policies} engines); within "
        f"{100 * found.narrow_spread:.0f} % over 2 to 8 bits{doubtful}{slow}"
    )


STUDY_OF_LATENCY = Stage(
    name="study",
    title="latency, BitOps",
    settings=("latency_seconds", *ENGINE_OPTIONS),
    facts=TIMED,
    reads=(If(ON_CPU, MODEL), FLOAT_MODEL, INDICATORS, PLACEMENT),
    writes=(STUDY, If(ON_CPU, AUDIT)),
    run=_run_study,
    when=(BUILDS, INTEGERS),
)
"""How far BitOps predict latency on this machine, and, on ONNX Runtime, what each layer takes beside the float model's
(of an engine the audit tells it). Where weights alone are integers, all policies take one time."""


def measure_study(
    template: onnx.ModelProto,
    placement: Placement,
    indicators: Indicators,
    runtime: Runtime,
    settings: ProfileSettings,
    report: Report,
) -> LatencyStudy:
    """Time the study's graphs, interleaved, and say what they show; fewer where each is an engine."""
    engines = isinstance(runtime, BuildsEngines)
    budgets, bits = (ENGINE_BUDGETS, ENGINE_BITS) if engines else (STUDY_BUDGETS, STUDY_BITS)
    native = native_policies(indicators, placement, budgets, swept_pairs(placement, runtime))
    policies = {**native, **narrow_policies(placement, bits)}
    return time_study(template, placement, policies, runtime, settings, progress_of(report))


def _settings(subject: Subject, runtime: Runtime) -> ProfileSettings:
    return ProfileSettings(threads=THREADS, batch=least_batch(runtime), seconds=profile_seconds(subject))
