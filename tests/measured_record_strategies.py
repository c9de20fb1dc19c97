"""Random records of what is measured: environment, latency, accuracy, parity, lint, verdict, bundle."""

from hypothesis import strategies as st

from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.lint.finding import SEVERITIES, Finding
from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
from limpq_deploy.export.records.environment import Environment
from limpq_deploy.export.reference.given_comparison import GivenComparison
from limpq_deploy.export.reference.parity import Disagreement, ParityReport, TensorParity
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.ship.manifest import BundleFile, CanaryFiles, Manifest
from limpq_deploy.export.ship.verify import CanaryReport, VerifyReport
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries, Speedup
from limpq_deploy.export.timing.timing_statistics import latency_stats
from limpq_deploy.train.evaluate import Accuracy, PairedComparison
from limpq_deploy.verdict.record import (
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
    outcome_of,
)

from .record_strategies import (
    BUDGET,
    COUNT,
    JSON,
    NAME,
    POSITIVE,
    REAL,
    SHA256,
    SHARE,
    TEXT,
    THREADS,
    exactly,
    optional,
    tuples,
)

ENVIRONMENT = st.builds(
    Environment,
    cpu=TEXT,
    architecture=TEXT,
    logical_cpus=st.integers(1, 512),
    usable_cpus=st.integers(1, 512),
    instruction_sets=tuples(NAME),
    os=TEXT,
    python=TEXT,
    libraries=st.dictionaries(NAME, TEXT, max_size=2),
    governor=optional(TEXT),
    load_average=optional(exactly(3, REAL)),
)
PROTOCOL = st.builds(
    LatencyProtocol,
    batch=st.integers(1, 256),
    threads=THREADS,
    warm_up_ms=POSITIVE,
    settle_ms=POSITIVE,
    turn_ms=POSITIVE,
    turn_calls=st.integers(1, 9),
    min_seconds=POSITIVE,
    min_iterations=st.integers(1, 999),
    seed=st.integers(0, 99),
)


@st.composite
def latency_series(draw: st.DrawFn, name: str = "mixed") -> LatencySeries:
    samples = draw(tuples(st.floats(0.001, 1e6), min_size=2, max_size=6))
    turns = (1, len(samples) - 1)
    return LatencySeries(
        name=name,
        threads=draw(THREADS),
        batch=draw(st.integers(1, 9)),
        samples_ms=samples,
        turns=turns,
        warm_up_calls=draw(st.integers(1, 9)),
        settle_calls=draw(st.integers(0, 9)),
        stats=latency_stats(samples, turns, seed=0),
        doubts=draw(tuples(TEXT)),
        other_cpus=draw(optional(SHARE)),
        options=draw(st.dictionaries(NAME, JSON, max_size=2)),
    )


LATENCY_REPORT = st.builds(
    LatencyReport,
    environment=ENVIRONMENT,
    protocols=tuples(PROTOCOL),
    series=st.tuples(latency_series("mixed"), latency_series("float")),
)

CANARY_REPORT = st.builds(
    CanaryReport,
    images=COUNT,
    bit_equal=st.booleans(),
    logits=COUNT,
    differing=COUNT,
    max_abs_difference=REAL,
    top1_changed=COUNT,
    same_cpu_kind=st.booleans(),
    note=TEXT,
)
VERIFY = st.builds(VerifyReport, files=COUNT, bytes=COUNT, canaries=optional(CANARY_REPORT))


ENGINE_OPTIONS = st.builds(
    EngineOptions,
    float_type=st.sampled_from(["float32", "float16"]),
    tf32=st.booleans(),
    batch=exactly(3, st.integers(1, 64)).map(lambda sizes: BatchRange.parse(":".join(map(str, sorted(sizes))))),
    workspace_mib=optional(st.integers(1, 2**20)),
    level=st.integers(0, 5),
    builds=st.integers(1, 9),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(
        st.lists(st.from_regex(r"[a-z0-9]{1,8}(\.[a-z]{1,4})?", fullmatch=True), min_size=3, unique=True, max_size=5)
    )
    engine = draw(optional(ENGINE_OPTIONS))
    return Manifest(
        model=draw(TEXT),
        target=draw(TEXT) if engine is None else "tensorrt",
        engine=engine,
        model_file=names[0],
        files=tuple(draw(st.builds(BundleFile, name=st.just(name), size=COUNT, sha256=SHA256)) for name in names),
        canaries=CanaryFiles(inputs=names[1], outputs=names[2], images=draw(COUNT)),
        environment=draw(ENVIRONMENT),
        versions=draw(st.dictionaries(NAME, TEXT, max_size=2)),
        policy=draw(JSON),
        verdict=draw(optional(JSON)),
        preprocess=draw(optional(JSON)),
    )


@st.composite
def accuracies(draw: st.DrawFn) -> Accuracy:
    images = draw(st.integers(1, 10**6))
    return Accuracy(
        images=images,
        classes=draw(st.integers(2, 1000)),
        correct=draw(st.integers(0, images)),
        top1=draw(REAL),
        correct_top5=draw(optional(COUNT)),
        top5=draw(optional(REAL)),
    )


LIMITS = st.builds(Limits, max_accuracy_drop=REAL, max_latency_ms=optional(REAL), min_speedup=optional(REAL))
BITOPS = st.builds(
    BitOpsCount, name=NAME, nominal_searched=COUNT, nominal_all=COUNT, realised_searched=COUNT, realised_all=COUNT
)
PAIRED = st.builds(PairedComparison, images=COUNT, only_first=COUNT, only_second=COUNT, p_first_worse=SHARE)
ACCURACY_RESULT = st.builds(
    AccuracyResult,
    float=accuracies(),
    mixed=accuracies(),
    uniform8=optional(accuracies()),
    uniform=optional(accuracies()),
    uniform_bits=optional(TEXT),
    against_uniform=optional(PAIRED),
    against_float=optional(PAIRED),
    of=optional(TEXT),
)
PARITY = st.builds(EndToEndParity, images=COUNT, codes=COUNT, mismatches=COUNT, logits_bit_equal=st.booleans())
LAYER_PARITY = st.builds(
    LayerParity,
    images=COUNT,
    layers=COUNT,
    codes=COUNT,
    mismatches=COUNT,
    max_lsb=COUNT,
    max_tie_distance=SHARE,
    top1_agreement=SHARE,
    disagreements=COUNT,
)
LATENCY_RESULT = st.builds(
    LatencyResult,
    lines=tuples(
        st.builds(
            LatencyLine,
            name=NAME,
            threads=THREADS,
            batch=COUNT,
            p50_ms=REAL,
            p90_ms=REAL,
            p99_ms=REAL,
            doubts=tuples(TEXT),
        )
    ),
    speedups=tuples(
        st.builds(Speedup, name=NAME, over=NAME, threads=THREADS, batch=COUNT, ratio=REAL, low=REAL, high=REAL)
    ),
)


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    checks = draw(tuples(st.builds(Check, name=NAME, passed=st.booleans(), detail=TEXT)))
    not_measured = draw(tuples(st.builds(NotMeasured, name=NAME, reason=TEXT)))
    undecided = draw(tuples(st.builds(Undecided, name=NAME, detail=TEXT, needs=TEXT)))
    outcome = outcome_of(checks, undecided, not_measured)
    return Verdict(
        model=draw(TEXT),
        target=draw(TEXT),
        outcome=outcome,
        passed=outcome == "passed",
        checks=checks,
        undecided=undecided,
        not_measured=not_measured,
        budgets=draw(tuples(BUDGET)),
        bitops=draw(tuples(BITOPS)),
        limits=draw(LIMITS),
        accuracy=draw(optional(ACCURACY_RESULT)),
        parity=draw(optional(PARITY)),
        layer_parity=draw(optional(LAYER_PARITY)),
        float_nodes=draw(optional(tuples(TEXT))),
        latency=draw(optional(LATENCY_RESULT)),
        notes=draw(tuples(TEXT)),
    )


FINDING = st.builds(Finding, rule=TEXT, severity=st.sampled_from(SEVERITIES), node=TEXT, consequence=TEXT, remedy=TEXT)
LINT = st.builds(
    LintReport,
    target=NAME,
    optimized=st.booleans(),
    op_counts=st.dictionaries(TEXT, COUNT, max_size=3),
    float_compute=tuples(TEXT),
    float_nodes=tuples(TEXT),
    findings=tuples(FINDING),
    unavailable=optional(TEXT),
)
TENSOR_PARITY = st.builds(
    TensorParity, tensor=TEXT, elements=COUNT, mismatches=COUNT, max_lsb=COUNT, max_tie_distance=optional(SHARE)
)
GIVEN = st.builds(
    GivenComparison,
    images=COUNT,
    differences=st.dictionaries(NAME, REAL, max_size=2),
    not_compared=st.dictionaries(NAME, TEXT, max_size=2),
    limit=POSITIVE,
)
PARITY_REPORT = st.builds(
    ParityReport,
    model_sha256=SHA256,
    images=COUNT,
    environment=st.dictionaries(NAME, JSON, max_size=3),
    tensors=tuples(TENSOR_PARITY),
    unwatched=st.dictionaries(NAME, TEXT, max_size=2),
    logits_equal=st.booleans(),
    logits_max_difference=REAL,
    faithful=tuples(TENSOR_PARITY),
    folding=tuples(TENSOR_PARITY),
    top1_agreement=optional(SHARE),
    disagreements=tuples(st.builds(Disagreement, image=COUNT, trained=COUNT, runtime=COUNT)),
    notes=tuples(TEXT),
    given=tuples(GIVEN),
)
ENGINE = st.builds(
    Engine,
    model_sha256=SHA256,
    runtime=NAME,
    version=TEXT,
    provider=NAME,
    threads=optional(st.integers(1, 64)),
    options=st.dictionaries(NAME, TEXT, max_size=2),
    layer_precision=st.dictionaries(NAME, st.sampled_from(["u8s8", "u8u8", "float32", "absent"]), max_size=3),
)
