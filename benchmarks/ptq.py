"""Quantization without training: CIFAR-10 ResNet-20 at 8, 6 and 4 bits, by range method and correction.

Top-1 on the 5,000 test images of the exported file on ONNX Runtime, beside the float file. Images and weights are
the shared ones (LIMPQ_SHARED), or ``--data`` and ``--weights``.

    python benchmarks/ptq.py --json
    python benchmarks/ptq.py --quick --json      mse alone
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
from shared_data import cifar10

from limpq_deploy.calibration.numbers.ranges import RANGES
from limpq_deploy.export.qdq.build import build_qdq, strip_markers
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import trace
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.quantized_model import model_of_policy
from limpq_deploy.train.device import device_of
from limpq_deploy.train.evaluate import evaluate
from limpq_deploy.train.ptq import CORRECTIONS, Calibration, correct, set_ranges

IMAGES, SEED = 512, 0
WIDTHS = (8, 6, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="8 bits, a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bits", type=int, nargs="+", default=list(WIDTHS), help="widths of weights and activations")
    parser.add_argument("--data", type=Path, help="folder with train, val and test of class folders")
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        data, weights = options.data, options.weights
        if data is None or weights is None:
            data, weights = cifar10(Path(work), smoke=options.smoke)
        widths = options.bits[:1] if options.smoke else options.bits
        found = measure(data, weights, Path(work), widths=widths, quick=options.quick or options.smoke)
    if options.json:
        print(json.dumps(found))
        return
    print(f"float {found['float_top1']:.2f} %")
    for row in found["rows"]:
        print(f"{row['bits']:5} {row['ranges']:10} " + "  ".join(f"{n} {row[n]:.2f} %" for n in CORRECTIONS))


def measure(data: Path, weights: Path, work: Path, *, widths: list[int], quick: bool) -> dict[str, Any]:
    """All rows of the table, and what they were measured with."""
    start = time.perf_counter()
    config = Config(model="resnet20", weights=weights, data=f"imagefolder:{data}", target="onnxruntime")
    subject = Subject(config)
    traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
    placement, dataset = subject.placement, subject.dataset
    template = float_template(traced, placement)
    runtime, file = runtime_named("onnxruntime"), work / "model.onnx"

    def top1(model: onnx.ModelProto) -> float:
        onnx.save(model, file)
        return evaluate(runtime.load(file).run, dataset.split("test").batches(250)).accuracy.top1

    rows = []
    for bits in widths:
        policy = {layer.name: (bits, bits) for layer in placement.searched}
        for ranges in ["mse"] if quick else RANGES:
            row: dict[str, Any] = {"bits": f"w{bits}a{bits}", "ranges": ranges}
            model = model_of_policy(traced, placement, policy)
            set_ranges(model, dataset.split("train"), ranges=ranges, images=IMAGES, seed=SEED)
            model.set_bits(policy)
            plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            batches = Calibration(dataset.split("train"), images=IMAGES, seed=SEED, device=device_of(model))
            for name in CORRECTIONS:
                model.load_state_dict(plain)
                correct(name, model, policy, batches)
                layers, acts = integer_model(model.eval(), policy)
                row[name] = top1(build_qdq(template, placement, layers, acts, {}))
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    environment = read_environment()
    return {
        "float_top1": top1(strip_markers(template)),
        "test_images": len(dataset.split("test")),
        "calibration_images": IMAGES,
        "seed": SEED,
        "pinned_bits": config.pinned_bits,
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


if __name__ == "__main__":
    main()
