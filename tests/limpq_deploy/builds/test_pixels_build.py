"""Builds that ship a model which takes pixels."""

import json
from pathlib import Path

import numpy as np
import onnx

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.ship.manifest import Manifest

from .conftest import Command


def test_a_build_for_pixels_ships_a_file_that_takes_them_and_answers_as_the_one_that_was_measured(
    copy: Path, settings: Path, run: Command
) -> None:
    result = run("build", "--config", settings, "--out", "out", "--input", "uint8", "--json")
    assert result.exit_code == 0, result.output
    ran = {stage["name"] for stage in json.loads(result.stdout)["stages"] if stage["ran"]}
    assert not ran & {"float", "indicators", "search", "finetune", "uniform"}
    shipped = copy / "bundle" / "model.onnx"
    assert shipped.read_bytes() == (copy / "model.uint8.onnx").read_bytes()
    assert onnx.load(shipped).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    manifest = load_record(Manifest, copy / "bundle" / "manifest.json")
    assert manifest.preprocess is not None
    assert (manifest.preprocess["mean"], manifest.preprocess["std"]) == ([0.0], [1 / 255])
    canaries = np.load(copy / "bundle" / "canary_inputs.npy")
    assert (canaries.min(), canaries.max()) == (0, 255)

    verified = run("verify", copy / "bundle", "--json")
    assert json.loads(verified.stdout)["canaries"]["bit_equal"]
    accuracies = [
        json.loads(run("evaluate", copy / name, "--data", "digits", "--json").stdout)
        for name in ("model.qdq.onnx", "model.uint8.onnx")
    ]
    assert [one.pop("model") for one in accuracies] == [str(copy / "model.qdq.onnx"), str(copy / "model.uint8.onnx")]
    assert accuracies[0] == accuracies[1]
    timed = run("bench", copy / "model.uint8.onnx", "--seconds", "0.2", "--threads", "1", "--json")
    assert timed.exit_code == 0, timed.output
