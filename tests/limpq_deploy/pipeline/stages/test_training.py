"""A build that was stopped in the middle of a training."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.stages import training
from limpq_deploy.pipeline.stages.run import run_build
from limpq_deploy.train.settings import Training
from limpq_deploy.workspace.sources import code_of
from limpq_deploy.workspace.workspace import Passed

CONFIG = Config(bits=(2, 4), training=Training(float_steps=3, joint_steps=16))


def build(config: Config, *, fresh: bool = False) -> str:
    """Build up to the indicators; returns what their stage said."""
    said: list[Passed] = []
    run_build(config, until="indicators", fresh=fresh, say=said.append)
    return said[-1].said


def stop_in_joint_training(config: Config) -> None:
    """Ctrl-C once three steps are logged."""
    log = config.out / "training" / "indicators.jsonl"

    def watch() -> None:
        while not log.exists() or log.read_text().count("\n") < 3:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        build(config)
    watcher.join()


def checkpoint(config: Config) -> Path:
    return config.out / "training" / "indicators.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(CONFIG, out=tmp_path_factory.mktemp("whole") / "build")
    assert "went on" not in build(config)
    assert not checkpoint(config).exists()
    return config.out


def test_a_stopped_build_goes_on_and_ends_with_the_same_files(whole: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path / "build")
    stop_in_joint_training(config)
    assert checkpoint(config).exists()
    said = build(config)
    assert "; went on from step " in said
    assert not checkpoint(config).exists()
    assert (config.out / "joint.safetensors").read_bytes() == (whole / "joint.safetensors").read_bytes()
    found, expected = (json.loads((folder / "indicators.json").read_text()) for folder in (config.out, whole))
    assert found["layers"] == expected["layers"]
    assert found["source"]["loss"] == expected["source"]["loss"]
    assert (config.out / "training" / "indicators.jsonl").read_text().count("\n") == 16


def test_a_checkpoint_of_other_settings_is_left_aside_with_a_sentence(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path / "build")
    stop_in_joint_training(config)
    other = replace(config, training=replace(CONFIG.training, joint_lr=0.02))
    said = build(other)
    assert "; began anew: " in said
    assert "training.settings.learning_rate is 0.01, not 0.02" in said
    assert not checkpoint(config).exists()


def test_a_checkpoint_of_other_code_is_left_aside_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, out=tmp_path / "build")
    stop_in_joint_training(config)
    monkeypatch.setattr(training, "code_of", lambda run: replace(code_of(run), sources="edited"))
    said = build(config)
    assert "; began anew: " in said
    assert 'not "edited"' in said


def test_a_fresh_build_does_not_go_on(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path / "build", training=replace(CONFIG.training, joint_steps=12))
    stop_in_joint_training(config)
    said = build(config, fresh=True)
    assert "went on" not in said
    assert "anew" not in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, which computes fp16")
def test_a_precision_that_this_machine_lacks_stops_the_build_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="precision fp16 needs a GPU"):
        build(replace(CONFIG, out=tmp_path / "build", training=Training(precision="fp16")))
    assert not (tmp_path / "build").exists()
