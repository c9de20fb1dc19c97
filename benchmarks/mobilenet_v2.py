"""MobileNetV2 on the shared ImageNet sample: indicators of depthwise and pointwise layers, W8A8 and mixed bits, parity.

Needs the shared data (LIMPQ_SHARED, or ../shared beside the checkout). Images: `test` is ilsvrc_val-dev (650 images of
469 classes), `val` imagenette_val (600 of 10), 227x227, centre crop. Training images are imagenette_train (1,500 of 10
classes), so labels play no part: fine-tuning learns from the logits of the float model, and BatchNorm statistics stay.
The joint training is short, on smaller images, with weights frozen. Accuracies are those of the exported files on ONNX
Runtime.

Keys: ``float``; ``models``: name, gbitops (224 px, all layers), fine-tuning steps, bits of the searched layers (weight,
activation), top-1 on both splits.
``indicators``: by bit-width the medians of learned weight and activation scales of depthwise and pointwise layers, and
of the paper's first weight scales where channels are not equalised; their ratios; how many depthwise layers have a
larger weight scale than the median pointwise one. ``parity``: integer reference against ONNX Runtime code by code, and
the trained model layer by layer. ``reference``: top-1 of the integer reference on `test`, and images that the exported
file and another execution put into different classes.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mobilenet_v2_bench import Bench, Extent
from shared_data import imagenet

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.budgets import like_budget, parse_like
from limpq_deploy.policy.candidates import find
from limpq_deploy.policy.costs import BitOps, total_cost, uniform_pairs
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.train.joint import uniform

FULL = Extent(joint_steps=40, joint_batch=8, size=96, measure=256, steps=24, batch=16, images=None, parity=16)
QUICK = Extent(joint_steps=4, joint_batch=8, size=64, measure=16, steps=2, batch=8, images=100, parity=2)

SMOKE = Extent(joint_steps=1, joint_batch=2, size=32, measure=4, steps=1, batch=2, images=10, parity=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and images, to see that it runs")
    parser.add_argument("--smoke", action="store_true", help="one step, a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--like", nargs="+", default=["w6a6"], help="budgets of mixed and uniform policies (w6a6)")
    parser.add_argument("--importance", nargs="+", default=["scale", "kl"], help="measures of importance (scale kl)")
    parser.add_argument("--out", type=Path, default=Path("limpq-build-mobilenet-v2"), help="images and files")
    options = parser.parse_args()
    extent = SMOKE if options.smoke else QUICK if options.quick else FULL
    importance = options.importance[:1] if options.smoke else options.importance
    result = measure(extent, options.like, importance, options.out)
    result |= {"quick": options.quick, "python": platform.python_version(), "machine": platform.machine()}
    result |= {"cpus": os.cpu_count(), "load": os.getloadavg()}
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def measure(extent: Extent, likes: Sequence[str], measures: Sequence[str], out: Path) -> dict[str, Any]:
    started = time.perf_counter()
    images, classes, weights = imagenet(out, smoke=extent is SMOKE)
    bench = Bench(extent, images, classes, weights, out)
    say("indicators", started)
    indicators = bench.indicators()
    result: dict[str, Any] = {"indicators": bench.contrast(indicators), "models": []}
    result["float"] = bench.accuracies(bench.float_file)
    eight = uniform(bench.placement, 8)
    for name, pairs, steps in (
        ("w8a8 without training", eight, 0),
        ("w8a8", eight, extent.steps),
        *rivals(indicators, likes, measures, extent.steps),
    ):
        say(name, started)
        model = bench.trained(pairs, steps)
        path = bench.export(name, model, pairs)
        result["models"].append(
            {"name": name, "gbitops": total_cost(BitOps(pinned=True), indicators, pairs) / 1e9, "steps": steps}
            | {"bits": " ".join(f"{weight}{act}" for weight, act in pairs.values())}
            | bench.accuracies(path)
        )
        if name == "w8a8":
            say("parity", started)
            result |= bench.parity(path, model, pairs)
    return result | {"like": likes, "seconds": round(time.perf_counter() - started)}


def rivals(
    indicators: Indicators, likes: Sequence[str], measures: Sequence[str], steps: int
) -> Iterator[tuple[str, dict[str, BitPair], int]]:
    """Uniform and mixed policies of equal BitOps, each without training and after ``steps``."""
    for like in likes:
        weight, act = parse_like(like)
        budget = like_budget(indicators, weight, act)
        policies = {f"uniform {like}": uniform_pairs(indicators, weight, act)}
        for name in measures:
            recipe = one_recipe(indicators, importance=name)
            policies[f"{name} within {like}"] = find(indicators, [budget], recipe, solve=PolicySearch()).pairs()
        for title, pairs in policies.items():
            yield f"{title}, without training", pairs, 0
            yield title, pairs, steps


def say(what: str, started: float) -> None:
    print(f"{time.perf_counter() - started:6.0f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
