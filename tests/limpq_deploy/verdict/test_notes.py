"""What `doctor` and `build` say of CPUs that are described, not present."""

from dataclasses import replace
from typing import Any

import pytest

from limpq_deploy.doctor import advice
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes.cpu import describe_cpu

OLD, NEW = (describe_cpu("some", {"avx2", *flags}, "x86_64") for flags in ((), ("avx_vnni",)))


def test_doctor_offers_7_bits_on_an_x86_machine_without_vnni_alone() -> None:
    here = replace(read_environment(), architecture="x86_64", instruction_sets=("avx2",))
    [sentence] = advice(here)
    assert "--pinned-bits 7" in sentence
    assert advice(replace(here, instruction_sets=("avx2", "avx512_vnni"))) == ()
    assert advice(replace(here, architecture="aarch64")) == ()


@pytest.mark.parametrize(
    ("change", "offered"),
    [
        ({}, "--pinned-bits 7 would"),
        ({"bits": (4, 8)}, "--pinned-bits 7 --bits 4,7 would"),
        ({"pinned_bits": 7}, None),
        ({"engine": False}, None),
        ({"target": "tensorrt"}, None),
    ],
)
def test_a_build_for_this_machine_begins_with_the_advice_where_weights_may_saturate(
    change: dict[str, Any], offered: str | None
) -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    from limpq_deploy.pipeline.config import Config
    from limpq_deploy.pipeline.context import Subject
    from limpq_deploy.pipeline.stages.run import notes

    subject = Subject(Config(**change))
    assert list(notes(subject, NEW)) == []
    found = list(notes(subject, OLD))
    assert found == [] if offered is None else [offered in sentence for sentence in found] == [True]


def test_settings_of_trainings_that_a_build_without_training_skips_are_named() -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    from limpq_deploy.pipeline.config import Config, Training
    from limpq_deploy.pipeline.context import Subject
    from limpq_deploy.pipeline.stages.run import notes

    given = Training(float_steps=10, joint_steps=5, finetune_epochs=1, ema=0.5, freeze_weights=True)
    [sentence] = notes(Subject(Config(ptq=True, training=given)), NEW)
    assert sentence.endswith("no effect: joint_steps, finetune_epochs, freeze_weights, ema")
    assert list(notes(Subject(Config(training=given)), NEW)) == []
    assert list(notes(Subject(Config(ptq=True, training=Training(float_steps=10))), NEW)) == []


@pytest.mark.parametrize(
    ("change", "noted"),
    [
        ({"max_latency_ms": 2.0, "like": "w4a4"}, True),
        ({"max_latency_ms": 2.0, "space": "native:onnxruntime", "bits": (8,)}, False),
        ({"max_latency_ms": 2.0, "like": "w4a4", "engine": False}, False),
        ({}, False),
    ],
)
def test_a_latency_limit_that_is_only_checked_says_so(change: dict[str, Any], noted: bool) -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    from limpq_deploy.pipeline.config import Config
    from limpq_deploy.pipeline.context import Subject
    from limpq_deploy.pipeline.stages.run import notes

    found = list(notes(Subject(Config(**change)), NEW))
    assert sum("checked at the end and not searched for" in sentence for sentence in found) == noted


def test_settings_of_engines_are_said_to_be_idle_without_one_and_travel_where_one_is_made_elsewhere() -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    from limpq_deploy.pipeline.config import Config
    from limpq_deploy.pipeline.context import Subject
    from limpq_deploy.pipeline.stages.run import notes

    [sentence] = notes(Subject(Config(engine=False, max_latency_ms=1.0, min_speedup=1.1)), NEW)
    assert sentence == "no engine is built, so these settings have no effect: --max-latency-ms, --min-speedup"
    elsewhere = (
        Config(target="tensorrt", engine=False, max_latency_ms=1.0, builds=2),
        Config(target="tensorrt", engine=False, float_type="float32", tf32=False, batch="1:8:32"),
    )
    for config in elsewhere:
        assert list(notes(Subject(config), NEW)) == []


def test_indicators_alone_say_that_they_are_learned_with_free_scales() -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    from limpq_deploy.pipeline.config import Config
    from limpq_deploy.pipeline.context import Subject
    from limpq_deploy.pipeline.stages.run import notes

    powers = Subject(Config(scales="pow2"))
    [sentence] = notes(powers, NEW, "indicators")
    assert "--scales pow2 has no effect on them" in sentence
    assert list(notes(powers, NEW, "finetune")) == list(notes(powers, NEW)) == []
    assert list(notes(Subject(Config()), NEW, "indicators")) == []
