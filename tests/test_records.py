"""Every record that travels survives JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.grid import QuantGrid
from limpq_deploy.calibration.params import QuantParams, TensorQuant
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.config import Config, Training, load_config, write_config
from limpq_deploy.evaluate import Accuracy, PairedComparison
from limpq_deploy.export.environment import Environment
from limpq_deploy.export.finding import Finding
from limpq_deploy.export.latency import LatencyProtocol, LatencyReport, LatencySeries, Speedup
from limpq_deploy.export.lint import LintReport
from limpq_deploy.export.manifest import BundleFile, CanaryFiles, Manifest
from limpq_deploy.export.parity import Disagreement, ParityReport, TensorParity
from limpq_deploy.export.placement import ActQuantizer, LayerPlacement, Placement
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.stability import latency_stats
from limpq_deploy.export.targets import TARGETS, TargetSpec
from limpq_deploy.export.verify import CanaryReport, VerifyReport
from limpq_deploy.finetuned import Candidate, FineTuned, Top1
from limpq_deploy.indicators import Indicators, LayerEdge, LayerIndicators, Measure, PinnedLayer
from limpq_deploy.pipeline import BuildState, StageState
from limpq_deploy.policy import BudgetUse, LayerBits, Policy, SolverResult
from limpq_deploy.settings import FinetuneSettings
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
    Verdict,
    outcome_of,
)

TEXT = st.text(max_size=12)
NAME = st.from_regex(r"[a-z][a-z0-9_.]{0,9}", fullmatch=True)
COUNT = st.integers(0, 2**70)
REAL = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(1e-30, 1e30)
SHARE = st.floats(0, 1)
THREADS: st.SearchStrategy[Any] = st.one_of(st.just("default"), st.integers(1, 64))


def tuples(item: st.SearchStrategy[Any], **sizes: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(item, **({"max_size": 3} | sizes)).map(tuple)  # type: ignore[arg-type]


def exactly(size: int, item: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*[item] * size)


def optional(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | item


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | TEXT | REAL,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAME, inner, max_size=2),
    max_leaves=4,
)

GRID = st.booleans().flatmap(
    lambda signed: st.builds(
        QuantGrid, bits=st.integers(2, 8), signed=st.just(signed), narrow=st.booleans() if signed else st.just(False)
    )
)
PARAMS = st.one_of(
    st.builds(QuantParams, grid=GRID, scale=exactly(1, POSITIVE)),
    st.builds(QuantParams, grid=GRID, scale=tuples(POSITIVE, min_size=1), axis=st.integers(0, 3)),
)
TENSOR_QUANT = st.builds(TensorQuant, tensor=TEXT, params=PARAMS)
TARGET = st.sampled_from(sorted(TARGETS.values(), key=lambda target: target.name))


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    names = draw(st.lists(NAME, min_size=1, max_size=4, unique=True))
    bits = optional(st.integers(2, 8))
    quantizers = tuple(
        draw(
            st.builds(
                ActQuantizer,
                name=st.just(name),
                tensor=NAME,
                signed=st.booleans(),
                bits=bits,
                layers=tuples(NAME),
                parent=optional(st.sampled_from(names)),
            )
        )
        for name in names
    )
    layer = st.builds(
        LayerPlacement,
        name=NAME,
        kind=st.sampled_from(["conv", "linear"]),
        input=st.sampled_from(names),
        macs=COUNT,
        num_weights=COUNT,
        out_channels=st.integers(1, 99),
        pinned_bits=bits,
        batchnorm=optional(NAME),
    )
    return Placement(
        model=draw(NAME),
        target=draw(st.sampled_from(sorted(TARGETS))),
        input_shape=draw(tuples(st.integers(1, 999), min_size=3)),
        layers=draw(tuples(layer)),
        quantizers=quantizers,
    )


@st.composite
def indicators(draw: st.DrawFn) -> Indicators:
    bits = tuple(sorted(draw(st.sets(st.integers(2, 8), min_size=1, max_size=5))))
    row = exactly(len(bits), POSITIVE)
    measures = optional(st.dictionaries(NAME, st.builds(Measure, weight=row, act=row), max_size=2))
    names = draw(st.lists(NAME, max_size=4, unique=True))
    layers = tuple(
        draw(
            st.builds(
                LayerIndicators,
                name=st.just(name),
                macs=COUNT,
                num_weights=COUNT,
                weight=row,
                act=row,
                act_group=optional(st.just(f"group of {name}")),
                weight_init=optional(row),
                act_init=optional(row),
                measures=measures,
                kind=st.sampled_from([None, "conv", "linear"]),
            )
        )
        for name in names
    )
    pinned = st.builds(
        PinnedLayer,
        name=st.just("the.pinned.one"),
        macs=COUNT,
        num_weights=COUNT,
        weight_bits=st.just(8),
        act_bits=st.just(8),
    )
    ends = [LayerEdge(producer=names[0], consumer=name, elements=draw(COUNT)) for name in names[1:]]
    return Indicators(
        model=draw(TEXT),
        bits=bits,
        layers=layers,
        pinned=draw(tuples(pinned, max_size=1)),
        source=draw(optional(JSON)),
        edges=draw(st.sampled_from([None, (), tuple(ends)])),
    )


BUDGET = st.builds(BudgetUse, name=NAME, used=COUNT, limit=COUNT, unit=TEXT)
SOLVER = st.builds(SolverResult, name=NAME, status=NAME, bound=REAL, gap=REAL, seconds=REAL)
POLICY = st.builds(
    Policy,
    bits=st.dictionaries(NAME, st.builds(LayerBits, weight=st.integers(2, 8), act=st.integers(2, 8)), max_size=3),
    objective=REAL,
    alpha=REAL,
    costs=tuples(BUDGET),
    solver=optional(SOLVER),
    model=optional(TEXT),
    source=optional(JSON),
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

SHA256 = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
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


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(
        st.lists(st.from_regex(r"[a-z0-9]{1,8}(\.[a-z]{1,4})?", fullmatch=True), min_size=3, unique=True, max_size=5)
    )
    return Manifest(
        model=draw(TEXT),
        target=draw(TEXT),
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
    BitOps, name=NAME, nominal_searched=COUNT, nominal_all=COUNT, realised_searched=COUNT, realised_all=COUNT
)
ACCURACY_RESULT = st.builds(
    AccuracyResult,
    float=accuracies(),
    mixed=accuracies(),
    uniform8=optional(accuracies()),
    uniform=optional(accuracies()),
    uniform_bits=optional(TEXT),
    against_uniform=optional(
        st.builds(PairedComparison, images=COUNT, only_first=COUNT, only_second=COUNT, p_first_worse=SHARE)
    ),
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
    outcome = outcome_of(checks, not_measured)
    return Verdict(
        model=draw(TEXT),
        target=draw(TEXT),
        outcome=outcome,
        passed=outcome == "passed",
        checks=checks,
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


FINDING = st.builds(Finding, node=TEXT, rule=TEXT, consequence=TEXT, remedy=TEXT)
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
PREPROCESS = st.sampled_from([1, 3]).flatmap(
    lambda channels: st.builds(
        Preprocess,
        height=st.integers(1, 300),
        width=st.integers(1, 300),
        mean=exactly(channels, REAL),
        std=exactly(channels, POSITIVE),
        resize=optional(st.integers(300, 999)),
        channels=st.just(channels),
    )
)
FINETUNE_SETTINGS = st.builds(
    FinetuneSettings,
    steps=st.integers(4, 10**6),
    batch_size=st.integers(2, 1024),
    learning_rate=POSITIVE,
    scale_learning_rate=POSITIVE,
    warmup_steps=st.integers(0, 3),
    weight_decay=SHARE,
    label_smoothing=st.floats(0, 0.9),
    momentum=st.floats(0, 0.99),
    gradient_clip=POSITIVE,
    augment=st.booleans(),
    candidates=st.integers(1, 4),
    batchnorm_images=st.integers(2, 10**6),
)
TOP1 = st.builds(Top1, val=REAL, test=REAL)
FINETUNED = st.builds(
    FineTuned,
    model=NAME,
    target=NAME,
    bits=st.dictionaries(NAME, st.builds(LayerBits, weight=st.integers(2, 8), act=st.integers(2, 8)), max_size=3),
    seed=COUNT,
    settings=FINETUNE_SETTINGS,
    epochs=POSITIVE,
    float_top1=TOP1,
    top1=TOP1,
    chosen_step=COUNT,
    candidates=tuples(st.builds(Candidate, step=COUNT, val=REAL)),
    weights=tuples(TENSOR_QUANT),
    activations=tuples(TENSOR_QUANT),
    seconds=POSITIVE,
)
STAGE = st.builds(
    StageState, inputs=SHA256, outputs=st.dictionaries(NAME, SHA256, max_size=3), seconds=POSITIVE, said=TEXT
)
BUILD_STATE = st.builds(BuildState, stages=st.dictionaries(NAME, STAGE, max_size=3))


RECORDS: dict[type, st.SearchStrategy[Any]] = {
    QuantGrid: GRID,
    QuantParams: PARAMS,
    TensorQuant: TENSOR_QUANT,
    TargetSpec: TARGET,
    Placement: placements(),
    Indicators: indicators(),
    Policy: POLICY,
    Environment: ENVIRONMENT,
    LatencyProtocol: PROTOCOL,
    LatencySeries: latency_series(),
    LatencyReport: LATENCY_REPORT,
    Manifest: manifests(),
    VerifyReport: VERIFY,
    Accuracy: accuracies(),
    Verdict: verdicts(),
    LintReport: LINT,
    ParityReport: PARITY_REPORT,
    Engine: ENGINE,
    Preprocess: PREPROCESS,
    FineTuned: FINETUNED,
    BuildState: BUILD_STATE,
}
SAVED = [cls for cls in RECORDS if any(one.name == "format" for one in dataclasses.fields(cls))]


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_record_survives_json(cls: type, data: st.DataObject) -> None:
    record = data.draw(RECORDS[cls])
    text = to_json(record)
    assert from_json(cls, text, "a file") == record
    assert to_json(from_json(cls, text, "a file")) == text


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
def test_a_record_is_frozen_has_slots_and_takes_keywords_only(cls: type) -> None:
    params = cls.__dataclass_params__  # type: ignore[attr-defined]
    assert params.frozen
    assert "__slots__" in vars(cls)
    assert all(one.kw_only for one in dataclasses.fields(cls))


@pytest.mark.parametrize("cls", SAVED, ids=lambda cls: cls.__name__)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_another_format_is_refused_by_name_and_a_newer_field_is_not(cls: type, data: st.DataObject) -> None:
    record = data.draw(RECORDS[cls])
    fields = json.loads(to_json(record))
    assert from_json(cls, json.dumps(fields | {"new_in_a_later_version": 1}), "a file") == record
    with pytest.raises(RecordError, match=r"a file has format 'limpq\.other/1'; expected 'limpq\."):
        from_json(cls, json.dumps(fields | {"format": "limpq.other/1"}), "a file")
    del fields["format"]
    with pytest.raises(RecordError, match="a file has format None"):
        from_json(cls, json.dumps(fields), "a file")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\x00"])
def test_what_is_no_json_object_is_refused_by_name(text: str) -> None:
    with pytest.raises(RecordError, match=r"^a file "):
        from_json(Policy, text, "a file")


def test_a_value_of_the_wrong_kind_is_named_with_what_was_found() -> None:
    with pytest.raises(RecordError, match=r"a file: alpha: .*found 'two'"):
        from_json(Policy, '{"format": "limpq.policy/1", "bits": {}, "objective": 1, "alpha": "two"}', "a file")


def test_numbers_that_are_not_finite_are_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Policy(bits={}, objective=float("inf"), alpha=1.0))


ABSOLUTE = NAME.map(lambda name: Path("/somewhere") / name)
STEPS, RATE = optional(st.integers(1, 10**6)), optional(st.floats(1e-6, 10))
CONFIG = st.builds(
    Config,
    model=NAME,
    weights=optional(ABSOLUTE),
    data=NAME,
    classes=optional(ABSOLUTE),
    target=st.sampled_from([None, "onnxruntime", "tensorrt", "reference"]),
    bits=st.sets(st.integers(2, 8), min_size=1).map(lambda bits: tuple(sorted(bits))),
    like=optional(st.just("w4a4")),
    max_gbitops=optional(POSITIVE),
    compression_ratio=optional(POSITIVE),
    max_mib=optional(POSITIVE),
    max_latency_ms=optional(POSITIVE),
    min_speedup=optional(POSITIVE),
    max_accuracy_drop=REAL,
    pinned_bits=st.integers(2, 8),
    alpha=POSITIVE,
    outliers=st.sampled_from(["forbid", "repair", "keep"]),
    engine=st.booleans(),
    latency_seconds=POSITIVE,
    seed=st.integers(0, 2**63 - 1),
    out=NAME.map(Path),
    training=st.builds(
        Training,
        batch_size=STEPS,
        float_steps=STEPS,
        float_lr=RATE,
        joint_steps=STEPS,
        joint_lr=RATE,
        finetune_steps=STEPS,
        finetune_lr=RATE,
    ),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=CONFIG)
def test_a_configuration_survives_its_file(tmp_path: Path, config: Config) -> None:
    write_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
