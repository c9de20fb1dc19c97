"""The list of stages: a constant that says what each depends on, reads and writes."""

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.declaration import SETTINGS, Condition, Fact, If
from limpq_deploy.pipeline.stages.facts import (
    BEGAN_HERE,
    HANDED_OVER,
    HANDS_OVER,
    KEEPS_STORED,
    KEEPS_STORED_UNIFORM,
    OWN_FP8,
    OWN_UNIFORM,
    PIXEL_INPUT,
    ROUNDS_MADE,
    STUDIED,
)
from limpq_deploy.pipeline.stages.finish import STAGES as FINISHING
from limpq_deploy.pipeline.stages.handover import CARRIED
from limpq_deploy.pipeline.stages.learn import FLOAT_MODEL
from limpq_deploy.pipeline.stages.listed import STAGES, stages_of
from limpq_deploy.workspace.file_names import CONFIG, HANDOVER, IMAGES, MODEL
from limpq_deploy.workspace.step import Part

IDLE = {
    "out",
    *(f"training.{name}" for name in ("workers", "log", "tensorboard", "checkpoint_minutes", "checkpoint_steps")),
}
"""Settings that change no result."""


ELSEWHERE = (
    BEGAN_HERE,
    HANDS_OVER,
    KEEPS_STORED,
    KEEPS_STORED_UNIFORM,
    OWN_FP8,
    OWN_UNIFORM,
    PIXEL_INPUT,
    ROUNDS_MADE,
    STUDIED,
)
"""Conditions that do not hold where a build is finished, or whose files travel under the same condition (pixels: the
bundle's own model; a uniform model and one of FP8 of their own)."""


def file_of(one: str | Part | If) -> str:
    return one if isinstance(one, str) else one.file


def test_a_stage_that_depends_on_a_setting_which_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float depends on batch_sise; expected fields of Config, or training\.FIELD"):
        replace(FLOAT_MODEL, settings=("batch_sise",))
    with pytest.raises(ValueError, match=r"data depends on training\.sead"):
        Fact("data", ("training.sead",), lambda subject: None)
    with pytest.raises(ValueError, match="only on Sundays depends on weekday"):
        Condition("only on Sundays", ("weekday",), lambda subject, folder: True)


def test_every_file_that_a_stage_reads_is_written_by_one_before_it() -> None:
    written: set[str] = set()
    for stage in STAGES:
        own = [one for one in stage.reads if not isinstance(one, If) or one.condition is not HANDED_OVER]
        assert {file_of(one) for one in own} <= written, stage.name
        assert {name for condition in stage.conditions for name in condition.reads} <= written, stage.name
        written |= {file_of(one) for one in stage.writes}


def test_every_file_that_is_read_where_a_build_is_finished_was_handed_over_or_is_written_there() -> None:
    written = {*CARRIED, MODEL, CONFIG, HANDOVER, IMAGES}
    for stage in FINISHING:
        read = [one for one in stage.reads if not isinstance(one, If) or one.condition not in ELSEWHERE]
        assert {file_of(one) for one in read} <= written, stage.name
        written |= {file_of(one) for one in stage.writes}


def test_every_setting_is_one_of_a_stage_beside_the_page_that_shows_them_all() -> None:
    named = {name for stage in STAGES if stage.name != "report" for name in stage.depends_on}
    assert named == SETTINGS - IDLE


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(ptq=True),
        Config(policy="policy.json", engine=False),  # type: ignore[arg-type]
        Config(target="reference"),
        Config(max_latency_ms=1.0, space="native:onnxruntime", bits=(8,)),
    ],
    ids=["usual", "ptq", "policy", "reference", "latency"],
)
def test_settings_choose_one_stage_of_each_name_without_any_file(config: Config) -> None:
    names = [stage.name for stage in stages_of(Subject(config))]
    assert len(names) == len(set(names))
    assert names[:3] == ["given", "float", "indicators"]
    assert ("profile" in names) == (config.max_latency_ms is not None)
    assert ("export" in names) == (config.target != "reference")
    assert ("verdict" in names) == (config.engine and config.target != "reference")
