"""FP8 (E4M3) beside int8 and FP16 on target tensorrt_rtx, without training: top-1 by format and range method.

ResNet-20 on the shared test images of CIFAR-10, and MobileNetV2 on the shared sample of ImageNet (``--imagenet``).
Accuracies are of the quantized model in PyTorch that computes as its file does, sums rounded to FP16 (parity:
`tests/limpq_deploy/builds/test_rtx_build.py` compares them code by code); `fp16` is the float file in half precision,
executed as written. The first and last layer are in int8 throughout. ``chosen``: formats that a search on ``kl`` gives
within the BitOps of w8a8, and its layers in FP8.

    python benchmarks/fp8.py --json
    python benchmarks/fp8.py --imagenet --json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from shared_data import cifar10, imagenet

from limpq_deploy.calibration.numbers.formats import FORMATS, FP8
from limpq_deploy.export.graph.from_torch import Marker, export_template, fold_batchnorm
from limpq_deploy.export.graph.to_float16 import in_half
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes.onnxruntime.as_written import AsWritten
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import with_quantizers
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.budgets import budgets_from_options
from limpq_deploy.policy.candidates import find
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.quantized_model import joint_model, model_of_policy
from limpq_deploy.train.accuracy import figure
from limpq_deploy.train.device import device_of
from limpq_deploy.train.evaluate import evaluate
from limpq_deploy.train.joint import read_indicators
from limpq_deploy.train.ptq import Calibration, correct, set_ranges

IMAGES, SEED = 512, 0
RANGES = ("minmax", "mse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", action="store_true", help="MobileNetV2 on the sample of ImageNet")
    parser.add_argument("--quick", action="store_true", help="mse alone")
    parser.add_argument("--smoke", action="store_true", help="a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if options.imagenet:
            images, classes, weights = imagenet(Path(work), smoke=options.smoke)
            config = Config(
                model="torchvision/mobilenet_v2",
                weights=weights,
                data=f"imagefolder:{images}",
                classes=classes,
                target="tensorrt_rtx",
            )
        else:
            data, weights = cifar10(Path(work), smoke=options.smoke)
            config = Config(model="resnet20", weights=weights, data=f"imagefolder:{data}", target="tensorrt_rtx")
        found = measure(config, Path(work), RANGES[1:] if options.quick or options.smoke else RANGES)
    print(json.dumps(found) if options.json else page(found))


def measure(config: Config, work: Path, methods: tuple[str, ...]) -> dict[str, Any]:
    """All rows, and what they were measured with."""
    start = time.perf_counter()
    subject = Subject(config)
    traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
    placement, dataset = subject.placement, subject.dataset
    train, test = dataset.split("train"), dataset.split("test")
    rows: list[dict[str, Any]] = []

    def row(name: str, policy: dict[str, tuple[int, int]], ranges: str) -> None:
        model = model_of_policy(traced, placement, policy)
        set_ranges(model, train, ranges=ranges, images=IMAGES, seed=SEED)
        model.set_bits(policy)
        plain = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        batches = Calibration(train, images=IMAGES, seed=SEED, device=device_of(model))
        found: dict[str, Any] = {"format": name, "ranges": ranges}
        for correction in ("none", "bias"):
            model.load_state_dict(plain)
            correct(correction, model, policy, batches)
            with as_recorded(model.eval(), policy):
                found[correction] = round(figure(model, test, subject.judge), 2)
        rows.append(found)
        print(json.dumps(found), file=sys.stderr, flush=True)

    names = [layer.name for layer in placement.searched]
    for ranges in methods:
        for name in ("int8", "fp8"):
            row(name, dict.fromkeys(names, (FORMATS[name], FORMATS[name])), ranges)
    joint = joint_model(traced, placement, (8, FP8))
    set_ranges(joint, train, ranges="mse", images=IMAGES, seed=SEED)
    indicators = measured(read_indicators(joint, (8, FP8)), joint, train, images=256, seed=SEED)
    recipe = one_recipe(indicators, importance="kl")
    budgets = budgets_from_options(indicators, like="w8a8")
    chosen = find(indicators, budgets, recipe, solve=PolicySearch()).pairs()
    row("chosen", chosen, "mse")
    marked = with_quantizers(traced, placement, lambda quantizer: Marker(quantizer.name))
    fold_batchnorm(marked, {layer.name: layer.batchnorm for layer in placement.layers})
    plain = strip_markers(export_template(marked, placement.input_shape, placement.spec.opset))
    environment = read_environment()
    return {
        "model": config.model,
        "fp32": _top1(plain, work, test),
        "fp16": _top1(in_half(plain).model, work, test),
        "rows": rows,
        "fp8_layers_chosen": [name for name, pair in chosen.items() if pair == (FP8, FP8)],
        "searched_layers": len(names),
        "test_images": len(test),
        "calibration_images": IMAGES,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _top1(model: onnx.ModelProto, work: Path, test: Any) -> float:
    file = work / "float.onnx"
    onnx.save(model, file)
    return round(evaluate(AsWritten().load(file).run, test.batches(100)).accuracy.top1, 2)


def page(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| format | ranges | none | bias |", "|---|---|---|---|"]
    lines += [f"| {one['format']} | {one['ranges']} | {one['none']} | {one['bias']} |" for one in found["rows"]]
    floats = f"{found['model']}: FP32 {found['fp32']} %, FP16 {found['fp16']} % of {found['test_images']} images"
    return "\n".join([floats, "", *lines, "", f"chosen in FP8: {', '.join(found['fp8_layers_chosen']) or 'none'}"])


if __name__ == "__main__":
    main()
