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
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.params import QuantParams, TensorQuant
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.graph.exported import ExportedFile, ExportRecord
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.environment import Environment
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import TargetSpec
from limpq_deploy.export.reference.given_comparison import GivenComparison
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.ship.manifest import Manifest
from limpq_deploy.export.ship.verify import VerifyReport
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries
from limpq_deploy.pipeline.config import Config, Training, load_config, write_config
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, TYPES
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.train.finetuned import FineTuned
from limpq_deploy.verdict.record import (
    Verdict,
)
from limpq_deploy.workspace.workspace import BuildState

from .measured_record_strategies import (
    ENGINE,
    ENVIRONMENT,
    GIVEN,
    LATENCY_REPORT,
    LINT,
    PARITY_REPORT,
    PROTOCOL,
    VERIFY,
    accuracies,
    latency_series,
    manifests,
    verdicts,
)
from .record_strategies import (
    BUILD_STATE,
    FINETUNED,
    GRID,
    NAME,
    PARAMS,
    POLICY,
    POSITIVE,
    PREPROCESS,
    REAL,
    TARGET,
    TENSOR_QUANT,
    indicators,
    optional,
    placements,
)

EXPORTED_FILE = st.builds(
    ExportedFile, name=NAME, sha256=NAME, size=st.integers(0, 2**40), weights=st.integers(0, 2**40)
)
EXPORT_RECORD = st.builds(
    ExportRecord,
    target=NAME,
    opset=st.integers(17, 25),
    model=EXPORTED_FILE,
    nominal=st.integers(0, 2**40),
    tensorrt=optional(st.sampled_from(["8.6", "10", "11"])),
    batch=optional(st.just("1:8:32")),
    float_layers=st.lists(NAME).map(tuple),
    stored=optional(EXPORTED_FILE),
)

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
    ExportRecord: EXPORT_RECORD,
    GivenComparison: GIVEN,
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


def refusal(cls: type, text: str) -> str | None:
    """What is said of a file that is refused; None of one that is not."""
    try:
        from_json(cls, text, "a file")
    except RecordError as error:
        return str(error)
    return None


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in plain JSON, by the keys and indices that lead there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


@pytest.mark.parametrize("cls", SAVED, ids=lambda cls: cls.__name__)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_damaged_field_is_told_in_one_sentence_of_our_own(cls: type, data: st.DataObject) -> None:
    fields = json.loads(to_json(data.draw(RECORDS[cls])))
    *way, last = data.draw(st.sampled_from(places(fields)[1:]))
    holder = fields
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(st.sampled_from([None, True, "damaged", -7, 1.5, [], {"damaged": 1}]))
    said = refusal(cls, json.dumps(fields))
    assert said is None or said.startswith("a file")
    assert not any(word in (said or "") for word in ("Input", "Field", "valid ", "literal[", ".int", "\n"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\x00"])
def test_what_is_no_json_object_is_refused_by_name(text: str) -> None:
    with pytest.raises(RecordError, match=r"^a file "):
        from_json(Policy, text, "a file")


def test_a_value_of_the_wrong_kind_is_named_with_what_was_found() -> None:
    with pytest.raises(RecordError, match=r'^a file: alpha is "two"; expected a number; '):
        from_json(Policy, '{"format": "limpq.policy/1", "bits": {}, "objective": 1, "alpha": "two"}', "a file")


def test_settings_in_a_record_that_make_no_sense_are_a_damaged_record() -> None:
    with pytest.raises(RecordError, match=r"^a file: the builder level is 9; expected 0 to 5$"):
        from_json(EngineOptions, '{"level": 9}', "a file")


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
    **{name: optional(POSITIVE) for name in BUDGETS if TYPES[name] is float},
    **dict.fromkeys(COST_FILES, optional(ABSOLUTE)),
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
