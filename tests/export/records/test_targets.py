"""What the records of targets promise is there: dialects, rules, runtimes, settings."""

from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import ModelError, RuntimeUnavailable
from limpq_deploy.export.qdq.base import Dialect
from limpq_deploy.export.qdq.build import dialect_named
from limpq_deploy.export.records import targets
from limpq_deploy.export.records.targets import (
    EXPORTED,
    RUNTIMES,
    TARGETS,
    RuntimeSpec,
    TargetSpec,
    runtime_record,
    taking,
    target_named,
)
from limpq_deploy.export.records.tensorrt_versions import form_for
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import BuildsEngines
from limpq_deploy.pipeline.config import Config

exported = pytest.mark.parametrize("target", [TARGETS[name] for name in EXPORTED], ids=lambda target: target.name)


def test_every_file_beside_the_base_is_of_a_target_in_the_table() -> None:
    files = {path.stem for path in Path(targets.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert files == set(TARGETS)


@exported
def test_an_exported_target_has_a_dialect_rules_and_forms(target: TargetSpec) -> None:
    assert target.runs_on is not None
    assert issubclass(dialect_named(target.runs_on.dialect), Dialect)
    assert callable(import_module(f"limpq_deploy.export.lint.{target.runs_on.dialect}").findings)
    assert form_for(target) in target.forms
    assert (target.form_key is None) == (not target.versions)
    if len(target.forms) > 1:
        assert {form_for(target, version).version for version in target.versions} == set(target.versions)


@pytest.mark.parametrize("record", RUNTIMES.values(), ids=lambda record: record.name)
def test_a_runtime_is_what_its_record_says_or_says_that_nothing_drives_it(record: RuntimeSpec) -> None:
    if record.code is None:
        with pytest.raises(RuntimeUnavailable, match=f"^nothing here drives {record.title}: use --no-engine"):
            runtime_named(record.name)
        return
    found = runtime_named(record.name)
    assert found.name == record.name
    assert isinstance(found, BuildsEngines) == record.engines


def test_two_targets_never_share_a_key_of_their_files() -> None:
    keys = [target.form_key for target in TARGETS.values() if target.form_key is not None]
    assert len(keys) == len(set(keys))


def test_settings_of_targets_are_settings_of_builds_and_all_others_are_for_every_target() -> None:
    known = {field.name for field in fields(Config)}
    for target in TARGETS.values():
        assert set(target.settings) <= known
        assert all(target.name in taking(setting) for setting in target.settings)
    assert taking("seed") == tuple(TARGETS)


def test_what_is_not_known_or_not_exported_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown target 'abacus'; known targets: onnxruntime"):
        target_named("abacus")
    with pytest.raises(ModelError, match="unknown runtime 'abacus'; known runtimes: onnxruntime"):
        runtime_record("abacus")
    trained = next(target for target in TARGETS.values() if not target.exportable)
    with pytest.raises(ModelError, match="trained and never exported"):
        form_for(trained)
