"""Builds of tasks beyond one label a picture, and of images without labels."""

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limpq_deploy.calibration.datasets import open_dataset
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.ship.verify import load_manifest
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.tasks.score import Score
from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.train.finetuned import FineTuned, FloatModel
from limpq_deploy.verdict.record import Verdict

from .conftest import Command


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, a part of them, without their labels."""
    root = tmp_path_factory.mktemp("images")
    for name, count in (("train", 200), ("val", 40), ("test", 60)):
        split = open_dataset("digits").split(name)
        pixels = split.preprocess.pixels(split.load(np.arange(count))[0])
        for number, image in enumerate(pixels):
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(image[0]).save(root / name / f"{number:03}.png")
    return root


def test_without_labels_the_float_model_is_teacher_and_judge(
    finished: Path, images: Path, settings: Path, here: Path, run: Command
) -> None:
    weights = finished / "float.safetensors"
    arguments = ("--config", settings, "--task", "none", "--data", f"images:{images}", "--weights", weights)
    result = run("build", *arguments, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "top-1 agreement" in result.output
    verdict = load_record(Verdict, here / "out" / "verdict.json")
    assert verdict.outcome == "passed"
    assert verdict.accuracy is not None
    mixed = verdict.accuracy.mixed
    assert isinstance(mixed, Score)
    assert (mixed.images, mixed.measure.name) == (60, "top-1 agreement")
    assert mixed.value > 70.0
    assert 0 < mixed.details["cosine"] <= 1
    assert mixed.details["sqnr_db"] > 5
    assert verdict.accuracy.float.value == 100.0
    [check] = [check for check in verdict.checks if check.name == "accuracy_against_float"]
    assert check.detail.startswith(f"top-1 agreement {mixed.shown} against 100.00 % in float (")
    measures = load_record(Indicators, here / "out" / "indicators.json").layers[0].measures
    assert set(measures or ()) == {"kl", "fisher"}, "no label, no loss"
    found = load_record(FineTuned, here / "out" / "finetuned.json")
    assert found.figure.name == "top-1 agreement"
    assert load_record(FloatModel, here / "out" / "float.json").top1.test == 100.0
    page = (here / "out" / "report.html").read_text()
    assert "Top-1 agreement, mixed" in page
    assert "sqnr_db" in page
    labels = (here / "out" / "bundle" / "labels.txt").read_text().split()
    assert labels == [str(number) for number in range(10)]
    assert load_manifest(here / "out" / "bundle").canaries.images == 16
    model, reference = here / "out" / "model.qdq.onnx", here / "out" / "baselines" / "float.onnx"
    asked = ("evaluate", model, "--data", f"images:{images}", "--task", "none", "--reference", reference, "--json")
    evaluated = json.loads(run(*asked).stdout)
    assert evaluated["value"] == mixed.value
    labelled = json.loads(run("evaluate", model, "--data", "digits", "--json").stdout)
    before = json.loads(run("evaluate", finished / "model.qdq.onnx", "--data", "digits", "--json").stdout)
    assert labelled["top1"] > before["top1"] - 10, "labels would hardly have taught more"


def test_images_for_calibration_take_the_place_of_labelled_ones_and_the_test_split_stays(
    finished: Path, images: Path, settings: Path, here: Path, run: Command
) -> None:
    weights = finished / "float.safetensors"
    given = ("--config", settings, "--calibration", images / "train", "--weights", weights, "--ptq", "--out", "out")
    result = run("build", *given)
    assert result.exit_code == 0, result.output
    accuracy = load_record(Verdict, here / "out" / "verdict.json").accuracy
    assert accuracy is not None
    assert isinstance(accuracy.mixed, Accuracy)
    assert accuracy.mixed.images == 359
    found = load_record(FineTuned, here / "out" / "finetuned.json")
    assert found.measure is None
    assert found.calibrated is not None
    assert (found.calibrated.images, found.calibrated.held_images) == (180, 20)


def test_what_only_labels_teach_is_refused_where_there_are_none(
    finished: Path, images: Path, here: Path, refused: Callable[..., str]
) -> None:
    data, weights = ("--data", f"images:{images}"), ("--weights", finished / "float.safetensors")
    refused("build", *data, words=("has no class for each image", "--task none"))
    refused("build", "--task", "none", *data, words=("cannot be trained here", "--weights"))
    refused("build", "--task", "none", *data, *weights, "--distill", "0.5", words=("learn from labels", "leave both"))
    refused("build", "--task", "segmentation", words=("has no masks", "masks:PATH"))
    refused("build", "--calibration", here / "nowhere", words=("nowhere", "is no folder"))
    refused("build", "--task", "boxes", words=("--task is 'boxes'", "expected classification"))


OWN = """
import numpy as np
import torch
from torch import nn
from limpq_deploy.tasks.base import Task
from limpq_deploy.tasks.score import Measure


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.map, self.vector, self.number = nn.Conv2d(8, 2, 1), nn.Linear(8, 5), nn.Linear(8, 1)

    def forward(self, images):
        seen = self.body(images)
        mean = seen.mean((2, 3))
        return {"map": self.map(seen), "found": [self.vector(mean), self.number(mean)[:, 0]]}


def net():
    torch.manual_seed(0)
    return Net()


class Size(Task):
    name = "size"
    measure = Measure(name="RMS", higher=False)

    def statistics(self, outputs, targets):
        assert [one.ndim for one in outputs] == [4, 2, 1]
        return [float(np.square(one).mean()) for one in outputs[0]]

    def figure(self, statistics):
        return float(np.sqrt(np.mean(statistics)))
"""


def test_a_network_of_several_outputs_and_a_task_of_ones_own_are_built_and_shipped(
    settings: Path, here: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tritonclient", reason="needs the extra limpq-deploy[serve]")
    import torch

    (here / "own_outputs.py").write_text(OWN)
    monkeypatch.syspath_prepend(here)
    torch.save(importlib.import_module("own_outputs").net().state_dict(), here / "net.pth")
    given = ("--model", "own_outputs:net", "--weights", "net.pth", "--task", "own_outputs:Size")
    result = run("build", "--config", settings, *given, "--ptq", "--out", "out")
    assert result.exit_code == 0, result.output
    assert run("parity", "out").exit_code == 0
    shipped = run("ship", "out", "models", "--name", "own", "--force")
    assert shipped.exit_code == 0, shipped.output
    config = (here / "models/own/config.pbtxt").read_text()
    assert re.findall(r'output \{\s+name: "(\w+)"', config) == ["map", "found_0", "found_1"]
    assert "label_filename" not in config
    replayed = json.loads(run("verify", "models/own", "--replay", "--json").stdout)
    assert (replayed["canaries"]["bit_equal"], replayed["canaries"]["logits"]) == (True, 16 * (2 * 16 * 16 + 5 + 1))
