"""One channel of a convolution times k, undone by its BatchNorm: the same function must keep its accuracy at 8 bits.

CIFAR-10 ResNet-20 (the shared weights), w8a8 without training: scales from 256 training images, as a build's uniform
8-bit baseline has them, the model computing as exported. Beside each other: channels as they were given ("before": only
networks with depthwise layers were equalised) and equalised before every BatchNorm, as builds do now ("after").

Keys: `layers` (convolutions tried, one at a time); `rows`: [{`k`, `before`, `after`}], each with `worst_sqnr_db` and
`median_sqnr_db` of the logits over the convolutions, and `top1` in percent with `layer` (the convolution with the worst
SQNR before, at the largest k) scaled; `float_top1`, `images`.

    python benchmarks/channel_scaling.py --json
    python benchmarks/channel_scaling.py --smoke --json     two convolutions, 50 images, scales from 32
"""

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_data import cifar10
from torch import nn

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.train.accuracy import top1

FACTORS = (1, 20, 200, 3000)
CHANNEL = 0
NOISE_IMAGES = 32
"""Training images by whose logits noise is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five convolutions, 500 images")
    parser.add_argument(
        "--smoke", action="store_true", help="two convolutions, 50 images, scales from 32: half a minute"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--data", type=Path, help="folder with train, val and test of class folders")
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    layers, images, seen = (
        (2, 50, NOISE_IMAGES) if options.smoke else (5, 500, 256) if options.quick else (None, 2000, 256)
    )
    with tempfile.TemporaryDirectory() as work:
        data, weights = options.data, options.weights
        if data is None or weights is None:
            data, weights = cifar10(Path(work), smoke=options.smoke)
        found = measure(data, weights, layers=layers, images=images, seen=seen)
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))


def measure(data: Path, weights: Path, *, layers: int | None, images: int, seen: int) -> dict[str, Any]:
    start = time.perf_counter()
    subject = Subject(Config(model="resnet20", weights=weights, data=f"imagefolder:{data}", target="onnxruntime"))
    model, shape = subject.model.eval(), subject.preprocess.shape
    convolutions = [(one.name, one.batchnorm) for one in trace(model, shape).layers if one.batchnorm is not None]
    tried = convolutions[:: -(-len(convolutions) // layers)] if layers is not None else convolutions
    training = subject.first_images(seen)
    test = subject.dataset.split("test")
    test = test.subset(np.linspace(0, len(test) - 1, images).astype(int))
    noise = {
        (k, after): [noise_db(subject, scaled(model, *pair, k), training, after) for pair in tried]
        for k in FACTORS
        for after in (False, True)
    }
    worst = int(np.argmin(noise[FACTORS[-1], False]))
    rows: list[dict[str, Any]] = []
    for k in FACTORS:
        row: dict[str, Any] = {"k": k}
        for name, after in (("before", False), ("after", True)):
            row[name] = {
                "worst_sqnr_db": round(min(noise[k, after]), 2),
                "median_sqnr_db": round(statistics.median(noise[k, after]), 2),
                "top1": accuracy(subject, scaled(model, *tried[worst], k), training, after, test),
            }
        rows.append(row)
        print(json.dumps(row), file=sys.stderr)
    environment = read_environment()
    return {
        "float_top1": top1(model, test),
        "images": images,
        "layers": len(tried),
        "layer": tried[worst][0],
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def scaled(model: nn.Module, layer: str, norm: str, k: float) -> nn.Module:
    """A copy with one channel of a convolution times k and its BatchNorm undoing it, BatchNorm's epsilon included."""
    changed = copy.deepcopy(model)
    convolution, batchnorm = changed.get_submodule(layer), changed.get_submodule(norm)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(batchnorm, nn.BatchNorm2d)
    assert batchnorm.running_mean is not None
    assert batchnorm.running_var is not None
    with torch.no_grad():
        before = (batchnorm.running_var[CHANNEL].double() + batchnorm.eps).sqrt()
        convolution.weight[CHANNEL] *= k
        batchnorm.running_mean[CHANNEL] *= k
        batchnorm.running_var[CHANNEL] *= k * k
        after = (batchnorm.running_var[CHANNEL].double() + batchnorm.eps).sqrt()
        batchnorm.weight[CHANNEL] *= float(after / before / k)
    return changed


def quantized(subject: Subject, model: nn.Module, seen: torch.Tensor, equalise: bool) -> QuantizedModel:
    """w8a8 with first scales."""
    traced = trace(copy.deepcopy(model), subject.preprocess.shape)
    if equalise:
        equalise_channels(traced)
    policy = eight(subject)
    made = model_of_policy(traced, subject.placement, policy)
    made.initialise_scales(seen)
    made.set_bits(policy)
    return made.eval()


def eight(subject: Subject) -> dict[str, tuple[int, int]]:
    return {layer.name: (8, 8) for layer in subject.placement.searched}


def noise_db(subject: Subject, model: nn.Module, seen: torch.Tensor, equalise: bool) -> float:
    """SQNR of the logits of 32 training images, in dB."""
    images = seen[:NOISE_IMAGES]
    made = quantized(subject, model, images, equalise)
    with torch.no_grad(), as_recorded(made, eight(subject)):
        exact = model(images)
        return float(10 * torch.log10(exact.square().sum() / (made(images) - exact).square().sum()))


def accuracy(subject: Subject, model: nn.Module, seen: torch.Tensor, equalise: bool, test: Split) -> float:
    """Top-1 in percent."""
    made = quantized(subject, model, seen, equalise)
    with as_recorded(made, eight(subject)):
        return round(top1(made, test), 2)


if __name__ == "__main__":
    main()
