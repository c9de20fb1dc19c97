"""Tasks beyond one label a picture, each through a whole build to its verdict, in its own measure.

Data are made here: the digits with and without their labels, drawn shapes with masks (a small U-Net) and with boxes (a
tiny detector of two raw heads, whose mAP needs pycocotools).

    python benchmarks/tasks.py --json
    python benchmarks/tasks.py --quick --json      fewer images and steps
    python benchmarks/tasks.py --smoke --json      a few of both: that it runs to its end
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tasks_data import write_digits, write_shapes
from tasks_nets import detector, train_detector

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.tasks.detection import require_coco

HERE = Path(__file__).resolve().parent
IMAGES = {
    "smoke": {"train": 48, "val": 8, "test": 12},
    "quick": {"train": 320, "val": 60, "test": 480},
    "whole": {"train": 2000, "val": 300, "test": 1000},
}
"""Drawn shapes, by extent."""
STEPS: dict[str, dict[str, dict[str, float]]] = {
    "none": {
        "smoke": {"float_steps": 30, "joint_steps": 3, "finetune_steps": 4},
        "quick": {"finetune_steps": 150, "joint_steps": 100},
    },
    "segmentation": {
        "smoke": {"float_steps": 6, "joint_steps": 2, "finetune_steps": 2, "batch_size": 8},
        "quick": {"float_steps": 250, "joint_steps": 40, "finetune_steps": 60, "float_lr": 0.05, "batch_size": 32},
        "whole": {"float_lr": 0.05},
    },
    "detection": {
        "smoke": {"joint_steps": 2, "finetune_steps": 2, "batch_size": 8},
        "quick": {"joint_steps": 60, "finetune_steps": 200},
    },
}
"""``[training]`` of the builds, by task and extent."""
DETECTOR_STEPS = {"smoke": 10, "quick": 600, "whole": 3000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="few images and steps: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("none", "segmentation", "detection"), action="append")
    parser.add_argument("--out", type=Path, help="keep the builds here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.out or Path(scratch)
        asked = options.only or ["none", "segmentation", "detection"]
        extent = "smoke" if options.smoke else "quick" if options.quick else "whole"
        found: dict[str, Any] = {name: MEASURES[name](work / name, extent) for name in asked}
    found["environment"] = read_environment().cpu
    if options.json:
        print(json.dumps(found))
        return
    for name in asked:
        print(name, *(f"{key} {value}" for key, value in found[name].items()))


def without_labels(work: Path, extent: str) -> dict[str, Any]:
    """The digits' default build, and one of the same float weights and of the images alone."""
    write_digits(work / "images")
    steps = ["--config", str(_toml(work, STEPS["none"].get(extent, {}))), "--like", "w4a6"]
    build(work / "labelled", "--data", "digits", *steps)
    weights = work / "labelled" / "float.safetensors"
    data = f"images:{work / 'images'}"
    alone = build(work / "none", "--task", "none", "--data", data, "--weights", str(weights), *steps)
    tops = [evaluate(work / name / "model.qdq.onnx") for name in ("labelled", "none")]
    return {
        **alone,
        "labelled_top1": tops[0],
        "none_top1": tops[1],
        "points_below_labelled": round(tops[0] - tops[1], 4),
    }


def segmentation(work: Path, extent: str) -> dict[str, Any]:
    """A U-Net, trained by the build."""
    write_shapes(work / "data", IMAGES[extent])
    config = _toml(work, STEPS["segmentation"][extent])
    data = f"masks:{work / 'data' / 'masks'}"
    arguments = ("--task", "segmentation", "--model", "tasks_nets:unet", "--data", data, "--like", "w4a6")
    return build(work / "build", *arguments, "--config", str(config))


def detection(work: Path, extent: str) -> dict[str, Any]:
    """A detector, trained here; its two heads are quantized."""
    try:
        require_coco()
    except MissingExtra as error:
        return {"skipped": str(error)}
    made = write_shapes(work / "data", IMAGES[extent])
    torch.manual_seed(0)
    model = detector()
    train_detector(model, *made["train"], steps=DETECTOR_STEPS[extent])
    save_file(model.state_dict(), work / "detector.safetensors")
    config = _toml(work, STEPS["detection"].get(extent, {}))
    data, weights = f"coco:{work / 'data' / 'coco'}", str(work / "detector.safetensors")
    arguments = ("--task", "detection:tasks_nets:decode", "--model", "tasks_nets:detector", "--like", "w5a6")
    return build(work / "build", *arguments, "--data", data, "--weights", weights, "--config", str(config))


MEASURES = {"none": without_labels, "segmentation": segmentation, "detection": detection}


def build(out: Path, *arguments: str) -> dict[str, Any]:
    """One build by the command line; its verdict in few words."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "limpq_deploy", "build", "--target", "onnxruntime", "--seed", "0"]
    command += ["--out", str(out), "--latency-seconds", "0.3", *arguments]
    found = subprocess.run(command, env=_environment(), stdout=subprocess.PIPE, stderr=sys.stderr, check=False)
    if found.returncode not in (0, 3):
        return {"outcome": "no build", "exit_code": found.returncode, "seconds": round(time.perf_counter() - start, 1)}
    verdict = json.loads((out / "verdict.json").read_text())
    accuracy, parity = verdict["accuracy"], verdict.get("parity") or {}
    measure = accuracy["mixed"].get("measure", {"name": "top-1"})["name"]
    scores = {name: accuracy[name] for name in ("float", "mixed", "uniform8", "uniform") if accuracy.get(name)}
    return {
        "outcome": verdict["outcome"],
        "measure": measure,
        **{name: round(one.get("value", one.get("top1")), 4) for name, one in scores.items()},
        "parity_mismatches": parity.get("mismatches"),
        "parity_codes": parity.get("codes"),
        "seconds": round(time.perf_counter() - start, 1),
    }


def evaluate(model: Path) -> float:
    """Top-1 of a file on the digits, with their labels."""
    command = [sys.executable, "-m", "limpq_deploy", "evaluate", str(model), "--data", "digits", "--json"]
    found = subprocess.run(command, env=_environment(), stdout=subprocess.PIPE, check=True)
    return float(json.loads(found.stdout)["top1"])


def _environment() -> dict[str, str]:
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _toml(work: Path, training: dict[str, float]) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    path = work / "config.toml"
    path.write_text("[training]\n" + "".join(f"{key} = {value}\n" for key, value in training.items()))
    return path


if __name__ == "__main__":
    main()
