"""What a stage reads of its settings while it runs is declared, or lies in a file that it reads."""

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.pipeline import context
from limpq_deploy.pipeline.config import Config, load_config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.declaration import SETTINGS, Stage
from limpq_deploy.pipeline.stages.facts import OF_DATA, OF_MODEL, OF_PLACEMENT
from limpq_deploy.pipeline.stages.listed import stages_of
from limpq_deploy.progress import silent
from limpq_deploy.train.settings import Training
from limpq_deploy.workspace.step import Part

IDLE = {"out", *(f"training.{name}" for name in ("workers", "log", "tensorboard", "checkpoint_steps"))}
IDLE |= {"training.checkpoint_minutes"}
"""Settings that change no result."""

CARRIED = {
    "float.safetensors": {*OF_MODEL, "seed"},  # of fresh weights
    "joint.safetensors": {*OF_MODEL, *OF_DATA, "bits", "target", "seed", "ptq"},
    "indicators.json": {"model", "bits", "seed"},
    "placement.json": {*OF_PLACEMENT},
    "model.qdq.onnx": {*OF_DATA, *OF_PLACEMENT, "scales", "seed", "tensorrt"},
    "baselines/float.onnx": {*OF_MODEL, *OF_DATA, *OF_PLACEMENT, "seed"},
    "verdict.json": {*OF_MODEL, "target"},
    "report.html": {*SETTINGS},  # it names the whole command
}
"""Settings whose values a file fixes: with another one it is another file, so that who reads it runs again."""

read: set[str] = set()


class Given(dict[str, Any]):
    """Keys of ``[training]`` that say something; which are looked for is noted."""

    def get(self, key: str, default: Any = None) -> Any:
        read.add(f"training.{key}")
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        read.add(f"training.{key}")
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        read.add(f"training.{key}")
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        read.update(f"training.{key}" for key in self.keys())
        return super().__iter__()


class NotedTraining(Training):
    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if f"training.{name}" in SETTINGS:
            read.add(f"training.{name}")
        return super().__getattribute__(name)

    def given(self) -> dict[str, Any]:
        values = {field.name: object.__getattribute__(self, field.name) for field in dataclasses.fields(Training)}
        return Given({name: value for name, value in values.items() if value is not None})


class NotedConfig(Config):
    """A configuration that notes which of its fields are read."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in SETTINGS:
            read.add(name)
        return super().__getattribute__(name)


def noted(config: Config) -> NotedConfig:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
    training = {field.name: getattr(config.training, field.name) for field in dataclasses.fields(Training)}
    return NotedConfig(**{**values, "training": NotedTraining(**training)})


def covered(stage: Stage, config: Config, folder: Path) -> set[str]:
    """Settings that a stage may read: those that it declares, and those that its files fix."""
    files = [one.file if isinstance(one, Part) else one for one in stage.step(Subject(config), folder).reads]
    return {*stage.depends_on, *(name for file in files for name in CARRIED.get(file, ()))}


@pytest.mark.parametrize(
    ("change", "last"),
    [
        ({}, "bundle"),
        ({"ptq": True, "importance": "scale", "storage": "int4", "input": "uint8", "scales": "pow2"}, "export"),
        ({"ptq": True, "importance": "scale", "target": "tensorrt", "engine": False}, "bundle"),
    ],
    ids=["trained", "calibrated", "handed over"],
)
def test_a_setting_that_a_stage_reads_while_it_runs_is_declared(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], last: str
) -> None:
    monkeypatch.setattr(context, "open_dataset", functools.cache(context.open_dataset))
    folder = Path(shutil.copytree(finished, tmp_path / "out"))
    short = Training(float_steps=2, joint_steps=2, finetune_steps=4)
    config = replace(load_config(finished / "config.json"), out=folder, training=short, latency_seconds=0.02, **change)
    undeclared = {}
    for stage in stages_of(Subject(config)):
        subject = Subject(noted(config))  # a new one: what an earlier stage has made would be read no more
        if not stage.needed(subject, folder):
            continue
        read.clear()
        stage.run(subject, folder, silent)
        assert read, stage.name
        undeclared[stage.name] = read - covered(stage, config, folder) - IDLE
        if stage.name == last:
            break
    assert {name: settings for name, settings in undeclared.items() if settings} == {}
    assert last in undeclared
