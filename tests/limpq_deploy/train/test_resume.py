"""A training that was killed goes on, and ends as if nothing had happened."""

import dataclasses
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.train.average import WeightAverage
from limpq_deploy.train.execution import Checkpoint, Execution
from limpq_deploy.train.loop import History, train
from limpq_deploy.train.losses import Pass
from limpq_deploy.train.resume import examine
from limpq_deploy.train.settings import TrainSettings
from limpq_deploy.train.state import GeneratorState

SETTINGS = TrainSettings(
    steps=9,
    batch_size=32,
    learning_rate=0.05,
    scale_learning_rate=0.01,
    warmup_steps=2,
    weight_decay=1e-4,
    label_smoothing=0.1,
)
IDENTITY = {"model": "tiny", "training": {"steps": 9, "rate": 0.05}, "bits": (2, 4)}


class Net(nn.Module):
    """Dropout and BatchNorm: what a generator and running statistics have a part in; a module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, bias=False)
        self.backbone = self.conv
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2)
        self.linear = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


class Killed(BaseException):
    """Stands for whatever ends a process in this one."""


def run(
    data: DataSet,
    file: Path | None,
    *,
    kill_at: int | None = None,
    stop: tuple[int, signal.Signals] | None = None,
    every: int = 4,
) -> tuple[History, dict[str, torch.Tensor], list[int]]:
    """A training that draws, averages and is perhaps killed after a step; returns history, tensors, steps reported."""
    torch.manual_seed(1)
    model, rng = Net(), np.random.default_rng(5)
    average = WeightAverage(model, 0.9)
    reported: list[int] = []

    def draw() -> None:
        with torch.no_grad():
            model.linear.bias.add_(float(rng.normal()) * 1e-3)

    def report(done: int, total: int, note: str = "") -> None:
        reported.append(done)
        if stop is not None and done == stop[0]:
            signal.raise_signal(stop[1])
        if done == kill_at and len(reported) > 1:
            raise Killed

    checkpoint = None if file is None else Checkpoint(path=file, identity=IDENTITY, every_steps=every)
    history = train(
        model,
        data.split("train"),
        SETTINGS,
        seed=3,
        augment=data.augment,
        passes=[Pass(name="a"), Pass(name="b", choose=draw)],
        report=report,
        execution=Execution(checkpoint=checkpoint),
        average=average,
        remember={"rng": GeneratorState(rng)},
    )
    return history, {**model.state_dict(), **{f"average.{k}": v for k, v in average.state()[0].items()}}, reported


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(few_digits: DataSet) -> tuple[History, dict[str, torch.Tensor]]:
    history, tensors, _ = run(few_digits, None)
    return history, tensors


@pytest.mark.parametrize("kill_at", [4, 5, 7])
def test_a_killed_training_ends_bit_equal_to_one_that_was_not(
    whole: tuple[History, dict[str, torch.Tensor]], few_digits: DataSet, tmp_path: Path, kill_at: int
) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        run(few_digits, file, kill_at=kill_at)
    history, tensors, reported = run(few_digits, file)
    assert history.losses == whole[0].losses
    assert history.images == whole[0].images
    assert same(tensors, whole[1])
    assert reported == ([4, 5, 6, 7, 8, 9] if kill_at > 4 else list(range(1, 10)))


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_waits_for_the_step_and_keeps_it(
    whole: tuple[History, dict[str, torch.Tensor]],
    few_digits: DataSet,
    tmp_path: Path,
    number: signal.Signals,
    end: type[BaseException],
) -> None:
    file = tmp_path / "state.safetensors"
    before = signal.getsignal(number)
    with pytest.raises(end) as stopped:
        run(few_digits, file, stop=(6, number), every=100)
    assert signal.getsignal(number) is before
    assert not isinstance(stopped.value, SystemExit) or stopped.value.code == 143
    history, tensors, reported = run(few_digits, file)
    assert reported == [6, 7, 8, 9]
    assert history.losses == whole[0].losses
    assert same(tensors, whole[1])


def test_a_signal_in_the_last_step_loses_nothing(
    whole: tuple[History, dict[str, torch.Tensor]], few_digits: DataSet, tmp_path: Path
) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(few_digits, file, stop=(9, signal.SIGINT), every=100)
    history, tensors, reported = run(few_digits, file)
    assert reported == [9]
    assert history.losses == whole[0].losses
    assert same(tensors, whole[1])


def test_a_process_killed_at_any_moment_is_gone_on_from_bit_by_bit(
    scenario: Callable[..., list[str]], run_scenario: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """SIGKILL while steps, candidates and checkpoints follow each other; fine-tuning with a teacher and an average."""
    killed, unhurt = tmp_path / "killed", tmp_path / "unhurt"
    killed.mkdir()
    unhurt.mkdir()
    log = killed / "log.jsonl"
    with subprocess.Popen(scenario("tuned", killed)) as process:
        while not log.exists() or log.read_text().count("\n") < 14:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "tuned.json").exists()
    with safe_open(killed / "state.safetensors", "pt") as stream:
        assert stream.metadata()
    assert run_scenario("tuned", killed) == run_scenario("tuned", unhurt)
    assert log.read_text().count("\n") == 30
    losses = [
        [line.split('"rate"')[0] for line in (f / "log.jsonl").read_text().splitlines()] for f in (killed, unhurt)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "other"}, 'model is "tiny", not "other"'),
        ({"training": {"steps": 9, "rate": 0.1}}, r"training\.rate is 0\.05, not 0\.1"),
        ({"bits": (2, 4, 6)}, r"bits is \[2, 4\], not \[2, 4, 6\]"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(
    few_digits: DataSet, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        run(few_digits, file, kill_at=5)
    other = Checkpoint(path=file, identity={**IDENTITY, **change})
    found = examine(other)
    assert found is not None
    assert found.why_not is not None
    with pytest.raises(ModelError, match=sentence) as refused:
        train(Net(), few_digits.split("train"), SETTINGS, seed=3, execution=Execution(checkpoint=other))
    assert str(refused.value) == found.why_not
    again = examine(dataclasses.replace(other, identity=IDENTITY))
    assert again is not None
    assert (again.step, again.why_not) == (4, None)


def test_damaged_and_foreign_files_are_refused_and_a_missing_one_is_none(few_digits: DataSet, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    checkpoint = Checkpoint(path=file, identity=IDENTITY)
    assert examine(checkpoint) is None
    with pytest.raises(Killed):
        run(few_digits, file, kill_at=5)
    file.write_bytes(file.read_bytes()[:-9])
    damaged = examine(checkpoint)
    assert damaged is not None
    assert "cannot read checkpoint" in str(damaged.why_not)
    save_file({"x": torch.zeros(1)}, file)
    foreign = examine(checkpoint)
    assert foreign is not None
    assert "is no limpq.training/1 file" in str(foreign.why_not)


def test_a_checkpoint_without_the_caller_s_states_is_refused(few_digits: DataSet, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        run(few_digits, file, kill_at=5)
    checkpoint = Checkpoint(path=file, identity=IDENTITY)
    with pytest.raises(ModelError, match="holds average, losses, model, optimizer0, remember-rng; expected losses"):
        train(Net(), few_digits.split("train"), SETTINGS, seed=3, execution=Execution(checkpoint=checkpoint))


def test_no_temporary_file_is_left(few_digits: DataSet, tmp_path: Path) -> None:
    run(few_digits, tmp_path / "state.safetensors", every=2)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
