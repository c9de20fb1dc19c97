"""Builds of tasks beyond one label a picture, and of images without labels."""

import json
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
