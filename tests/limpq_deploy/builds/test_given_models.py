"""Models as their owners write them, through a build: in-place sums, modules under two names, wrappers, hooks, half."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.cli.main import main
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.model.tied import distinct
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.run import run_build
from limpq_deploy.train.settings import Training

MODELS = """
import os
import signal
import threading
import torch
from torch import nn
from torch.nn.utils import prune
from limpq_deploy.calibration.datasets import Preprocess


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4))
        self.backbone = self.body  # its second name
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(8, 6, 3, 2, 1)
        self.head = nn.Linear(6, 10)
        self.preprocess = Preprocess(height=16, width=16, mean=(0.3,), std=(0.35,), channels=1)

    def forward(self, x):
        x = self.relu(self.stem(x))
        skip = x
        x += self.body(x)
        x = self.relu(self.last(torch.cat([x, skip], 1)))
        return self.head(x.mean((2, 3)))


def wrapped():
    model = nn.DataParallel(Net().half())
    for name in ("stem", "body"):
        prune.l1_unstructured(getattr(model.module, name)[0], "weight", amount=0.5)
    return model


def hooked():
    model = Net()
    model.register_forward_hook(lambda module, images, result: result / 4)
    return model


def halved():
    model = nn.Sequential(Net().stem, Net().body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).half()
    model.preprocess = Net().preprocess
    return model


class Ended(nn.Sequential):
    def forward(self, x):
        if self.training and len(x) > 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x)


def ended():
    model = Ended(*halved().float())
    model.preprocess = Net().preprocess
    return model


def locked():
    model = halved().float()
    model.lock = threading.Lock()
    return model


def broken():
    return Net().no_such_method()
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"models_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_model_as_people_write_them_is_trained_resumed_and_exported_exactly(models: str, tmp_path: Path) -> None:
    training = Training(float_steps=6, joint_steps=3, finetune_steps=4, checkpoint_steps=1)
    config = Config(
        model=f"{models}:wrapped",
        data="digits",
        out=tmp_path / "out",
        like="w5a5",
        training=training,
        latency_seconds=0.05,
    )
    said: list[str] = []
    outcome = run_build(config, until="verdict", say=lambda passed: None, note=said.append)
    assert outcome.verdict is not None
    changed = [note for note in said if "float16" in note or "pruning" in note]
    assert set(changed) < set(outcome.verdict.notes)
    assert changed == [
        "The model has 16 tensors in float16; it is traced, trained and compared in float32.",
        "Folded into the weights: pruning of stem.0.weight, body.0.weight; training does not keep zeros.",
    ]
    parity = load_record(ParityReport, tmp_path / "out/parity.json")
    assert parity.exact
    again = run_build(config, until="verdict", say=lambda passed: None)
    assert not any(stage.ran for stage in again.stages)


def test_the_given_model_stays_as_it_was_written_beside_the_folded_one(models: str) -> None:
    subject = Subject(Config(model=f"{models}:wrapped"))
    assert "stem.0.weight_orig" in subject.given_model.state_dict()
    assert "stem.0.weight" in subject.model.state_dict()
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        expected = subject.given_model.eval()(images.clone())
        torch.testing.assert_close(subject.model.eval()(images.clone()), expected, rtol=0, atol=0)


def test_weights_of_a_file_are_not_rounded_to_the_format_of_the_given_model(models: str, tmp_path: Path) -> None:
    state = dict(distinct(Subject(Config(model=f"{models}:halved")).model.state_dict()))
    state["4.bias"] = torch.full((10,), 0.1)
    save_file(state, tmp_path / "weights.safetensors")
    subject = Subject(Config(model=f"{models}:halved", weights=tmp_path / "weights.safetensors"))
    assert torch.equal(subject.given_model.state_dict()["4.bias"], state["4.bias"])
    assert subject.model_notes == (
        "The model has 12 tensors in float16; it is traced, trained and compared in float32.",
    )


def test_a_model_that_cannot_be_copied_is_one_sentence_before_any_work(models: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model cannot be copied: TypeError: cannot pickle '_thread.lock' object"):
        run_build(Config(model=f"{models}:locked", out=tmp_path / "out"), say=lambda passed: None)
    assert not (tmp_path / "out/float.safetensors").exists()


def test_an_end_that_the_system_asks_for_in_training_is_no_error_of_the_model(models: str) -> None:
    command = [sys.executable, "-m", "limpq_deploy", "build", "--model", f"{models}:ended", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert json.loads(done.stdout) == {"error": "stopped before the answer", "exit_code": 128 + signal.SIGTERM}
    assert done.stderr.endswith("Stopped by SIGTERM. Finished stages are kept; the same command goes on from there.\n")


def test_a_hook_is_refused_before_any_work(models: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model \(Net\) has a forward hook \(hooked.<locals>.<lambda>"):
        run_build(Config(model=f"{models}:hooked", out=tmp_path / "out"), say=lambda passed: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("debug", [(), ("--debug", "build"), ("build", "--debug")], ids=["", "before", "behind"])
def test_an_error_in_a_factory_is_one_sentence_and_with_debug_its_traceback(
    models: str, debug: tuple[str, ...]
) -> None:
    command = [*(debug or ("build",)), "--model", f"{models}:broken"]
    result = CliRunner().invoke(main, command)
    line = MODELS.splitlines().index("    return Net().no_such_method()") + 1
    sentence = (
        f"Error: '{models}:broken' raised AttributeError: 'Net' object has no attribute 'no_such_method' "
        f"({models}.py:{line}); mend the factory, or see all of it with --debug\n"
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.endswith(sentence)
    if debug:
        assert "Traceback (most recent call last)" in result.stderr
        assert f'{models}.py", line {line}, in broken' in result.stderr
    else:
        assert result.stderr == sentence


def test_debug_shows_the_traceback_of_every_command(tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps({"format": "limpq.policy/1"}))
    for command in (["search", "wrong.json"], ["evaluate", "wrong.json", "--data", "digits"], ["verify", "wrong.json"]):
        words = [str(tmp_path / word) if word == "wrong.json" else word for word in command]
        plain, debug = (CliRunner().invoke(main, [*words, *more]) for more in ([], ["--debug"]))
        assert (plain.exit_code, debug.exit_code) == (1, 1), plain.output
        assert "Traceback" not in plain.stderr
        assert debug.stderr.startswith("Traceback")
        assert debug.stderr.endswith(plain.stderr)
