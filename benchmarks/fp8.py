"""FP8 (E4M3) beside int8 and FP16 on target tensorrt_rtx, without training: top-1 by format and range method.

ResNet-20 on the shared test images of CIFAR-10, and MobileNetV2 on the shared sample of ImageNet (``--imagenet``).
Accuracies are of the quantized model in PyTorch that computes as its file does, sums rounded to FP16 (parity:
`tests/limpq_deploy/builds/test_rtx_build.py` compares them code by code); `fp16` is the float file in half precision,
executed as written. The first and last layer are in int8 throughout. ``chosen``: formats that a search on ``kl`` gives
within the BitOps of w8a8, and its layers in FP8. ``--moved`` instead: formats that a search on ``kl`` gives within
bytes that a call may move (``--max-moved-mib``, batch 1), priced by NVIDIA's compiler, and what engines of them move.
``--model float_nets_made:mobilenet``: the small network of `float_nets` on the same images, with its own weights.

    python benchmarks/fp8.py --json
    python benchmarks/fp8.py --imagenet --uniform --quick --json      minutes; without --uniform an hour of two cores
    python benchmarks/fp8.py --moved --test-images 2500 --work DIR --json      goes on where it was stopped
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from shared_data import cifar10, imagenet

from limpq_deploy.calibration.numbers.formats import FORMATS, FP8, pair_name
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.graph.to_float16 import in_half
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes.onnxruntime.as_written import AsWritten
from limpq_deploy.export.timing.cost_table import Moved
from limpq_deploy.export.timing.predictions import predicted
from limpq_deploy.export.timing.pricing import PricingSettings, built_moved, price
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.edges import layer_edges
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import trace
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.budgets import budgets_from_options
from limpq_deploy.policy.candidates import find
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.policy.spaces import in_space
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.quantized_model import joint_model, model_of_policy
from limpq_deploy.train.accuracy import figure
from limpq_deploy.train.device import device_of
from limpq_deploy.train.evaluate import evaluate, wilson_interval
from limpq_deploy.train.joint import read_indicators
from limpq_deploy.train.ptq import Calibration, correct, set_ranges

IMAGES, SEED = 512, 0
RANGES = ("minmax", "mse")
SPACE = "formats:int8,fp8,fp16"
MIB = 2**20
SHARES = (0.25, 0.5, 0.75)
"""Budgets of bytes: of the way from the fewest that any formats move to those of FP16."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", action="store_true", help="MobileNetV2 on the sample of ImageNet")
    parser.add_argument("--model", default="resnet20", help="on CIFAR-10; or float_nets_made:NAME")
    parser.add_argument("--moved", action="store_true", help="policies within bytes moved; needs NVIDIA's compiler")
    parser.add_argument("--graphs", type=int, help="engines that mix formats, for prices [default: 64]")
    parser.add_argument("--test-images", type=int, help="evenly among all [default: all]")
    parser.add_argument("--work", type=Path, help="folder of what is found, to go on there [default: a passing one]")
    parser.add_argument("--quick", action="store_true", help="mse alone")
    parser.add_argument("--uniform", action="store_true", help="int8 and FP8 throughout alone, no search")
    parser.add_argument("--smoke", action="store_true", help="a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        work = options.work or Path(passing)
        if options.imagenet:
            images, classes, weights = imagenet(work, smoke=options.smoke)
            config = Config(
                model="torchvision/mobilenet_v2",
                weights=weights,
                data=f"imagefolder:{images}",
                classes=classes,
                target="tensorrt_rtx",
            )
        else:
            config = on_cifar10(options.model, work, smoke=options.smoke)
        methods = RANGES[1:] if options.quick or options.smoke or options.moved else RANGES
        graphs = 4 if options.smoke else options.graphs
        found = Bench(config, work, options.test_images).measure(
            methods, moved=options.moved, uniform=options.uniform, graphs=graphs
        )
    print(json.dumps(found) if options.json else page(found))


def on_cifar10(model: str, work: Path, *, smoke: bool) -> Config:
    """Shared images and weights, or a network of `float_nets` with its own."""
    images, weights = cifar10(work, smoke=smoke)
    if ":" in model:
        weights = Path(__file__).with_name("float_nets") / f"{model.partition(':')[2]}.safetensors"
    return Config(model=model, weights=weights, data=f"imagefolder:{images}", target="tensorrt_rtx")


class Bench:
    """A network, its images, and the rows found; those of an earlier run in ``work`` are taken as they are."""

    def __init__(self, config: Config, work: Path, test_images: int | None) -> None:
        self.config, self.work, self.subject = config, work, Subject(config)
        subject = self.subject
        self.traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
        self.placement = subject.placement
        self.train, test = subject.dataset.split("train"), subject.dataset.split("test")
        count = min(test_images or len(test), len(test))
        self.test = test.subset(np.linspace(0, len(test) - 1, count).astype(int))
        self.rows: list[dict[str, Any]] = []

    def measure(self, methods: tuple[str, ...], *, moved: bool, uniform: bool, graphs: int | None) -> dict[str, Any]:
        """All rows, and what they were measured with."""
        start = time.perf_counter()
        names = [layer.name for layer in self.placement.searched]
        for ranges in methods:
            for name in ("int8", "fp8"):
                self.row(name, dict.fromkeys(names, (FORMATS[name], FORMATS[name])), ranges)
        template = float_template(self.traced, self.placement)
        own: dict[str, Any] = {}
        if moved:
            own = self.within_bytes(template, graphs)
        elif not uniform:
            indicators = self.indicators()
            budgets = budgets_from_options(indicators, like="w8a8")
            chosen = find(indicators, budgets, one_recipe(indicators, importance="kl"), solve=PolicySearch()).pairs()
            self.row("chosen", chosen, "mse")
            own["fp8_layers_chosen"] = [name for name, pair in chosen.items() if pair == (FP8, FP8)]
        plain = strip_markers(template)
        environment = read_environment()
        floats = {name: _top1(model, self.work, self.test) for name, model in _floats(plain)}
        shown = {*floats.values(), *(row[correction] for row in self.rows for correction in ("none", "bias"))}
        return {
            "model": self.config.model,
            **floats,
            "intervals": {f"{top1:.2f}": _interval(top1, len(self.test)) for top1 in sorted(shown)},
            "rows": self.rows,
            **own,
            "searched_layers": len(names),
            "test_images": len(self.test),
            "calibration_images": IMAGES,
            "seconds": round(time.perf_counter() - start, 1),
            "cpu": environment.cpu,
            "python": environment.python,
            "libraries": environment.libraries,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }

    def row(self, name: str, policy: dict[str, tuple[int, int]], ranges: str, **told: Any) -> None:
        """Top-1 of a policy, calibrated; ``told``: what else is known of it."""
        found: dict[str, Any] = {"format": name, "ranges": ranges}
        known = json.dumps([found, sorted(policy.items()), len(self.test)])
        file = self.work / "rows" / f"{hashlib.sha256(known.encode()).hexdigest()[:16]}.json"
        if file.is_file():
            found = json.loads(file.read_text())
        else:
            model = model_of_policy(self.traced, self.placement, policy)
            set_ranges(model, self.train, ranges=ranges, images=IMAGES, seed=SEED)
            model.set_bits(policy)
            plain = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            batches = Calibration(self.train, images=IMAGES, seed=SEED, device=device_of(model))
            for correction in ("none", "bias"):
                model.load_state_dict(plain)
                correct(correction, model, policy, batches)
                with as_recorded(model.eval(), policy):
                    found[correction] = round(figure(model, self.test, self.subject.judge), 2)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found))
        self.rows.append(found | told)
        print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)

    def indicators(self) -> Indicators:
        """``kl`` of int8 and FP8."""
        file = self.work / "indicators.json"
        if not file.is_file():
            joint = joint_model(self.traced, self.placement, (8, FP8))
            set_ranges(joint, self.train, ranges="mse", images=IMAGES, seed=SEED)
            found = measured(read_indicators(joint, (8, FP8)), joint, self.train, images=256, seed=SEED)
            write_record(found, file)
        return load_record(Indicators, file)

    def within_bytes(self, template: onnx.ModelProto, graphs: int | None) -> dict[str, Any]:
        """Rows of policies within budgets of bytes, and what engines of them and of uniform formats move."""
        settings, names = PricingSettings(batch=1, graphs=graphs), [layer.name for layer in self.placement.searched]
        edges = [(edge.producer, edge.consumer) for edge in layer_edges(self.traced)]
        pairs = [(width, width) for width in FORMATS.values()]
        table = price(template, self.placement, edges, pairs, settings, model_sha256="", report=_told)
        write_record(table, self.work / "cost-table.json")

        def built(policy: dict[str, tuple[int, int]]) -> float:
            moved = built_moved(template, self.placement, policy, settings)
            return round(sum(moved.values(), Moved()).bytes / MIB, 4)

        uniform = {name: built(dict.fromkeys(names, (width, width))) for name, width in FORMATS.items()}
        indicators = self.indicators()
        offered = in_space(read_by(indicators, "kl"), SPACE)

        def within(limit: float, *, least: bool = False) -> dict[str, tuple[int, int]]:
            budgets = budgets_from_options(offered, cost_table=self.work / "cost-table.json", max_moved_mib=limit)
            admit = _all_alike if least else lambda found: in_space(found, SPACE)
            recipe = one_recipe(indicators, importance="kl")
            return find(indicators, budgets, recipe, solve=PolicySearch(), admit=admit).pairs()

        fewest = within(10 * max(uniform.values()), least=True)  # nothing matters, so that the bytes decide
        least = predicted(table, fewest).bytes / MIB
        limits = {f"{100 * share:.0f} %": round(least + share * (uniform["fp16"] - least), 4) for share in SHARES}
        policies = {"fewest bytes": (None, fewest)} | {
            f"within {share}": (limit, within(limit)) for share, limit in limits.items()
        }
        for name, (limit, policy) in policies.items():
            self.row(
                name,
                policy,
                "mse",
                max_moved_mib=limit,
                predicted_mib=round(predicted(table, policy).bytes / MIB, 4),
                built_mib=built(policy),
                layers={one: sum(pair == (width, width) for pair in policy.values()) for one, width in FORMATS.items()},
                bits={layer: pair_name(pair) for layer, pair in policy.items()},
            )
        errors = [abs(check.error) for check in table.checks]
        return {
            "compiler": table.compiler,
            "batch": settings.batch,
            "built_mib": uniform,
            "checks": {"engines": len(errors), "mean_error": round(sum(errors) / len(errors), 4)},
        }


def _all_alike(indicators: Indicators) -> Indicators:
    """Indicators in the space of formats, by which all are as good."""
    offered = in_space(indicators, SPACE)
    zeros = (0.0,) * len(offered.bits)
    return replace(offered, layers=tuple(replace(layer, weight=zeros, act=zeros) for layer in offered.layers))


def _floats(plain: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield "fp32", plain
    yield "fp16", in_half(plain).model


def _interval(top1: float, images: int) -> list[float]:
    """Ends of the 95 % interval of a share of so many images, in percent."""
    return [round(100 * end, 2) for end in wilson_interval(round(top1 * images / 100), images)]


def _told(done: int, total: int, note: str) -> None:
    print(f"{done} of {total}, {note}", file=sys.stderr, flush=True)


def _top1(model: onnx.ModelProto, work: Path, test: Any) -> float:
    file = work / "float.onnx"
    onnx.save(model, file)
    return round(evaluate(AsWritten().load(file).run, test.batches(100)).accuracy.top1, 2)


def page(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| format | ranges | none | bias | MiB predicted | built |", "|---|---|---|---|---|---|"]
    for one in found["rows"]:
        built = one.get("built_mib", found.get("built_mib", {}).get(one["format"], ""))
        cells = [one["format"], one["ranges"], one["none"], one["bias"], one.get("predicted_mib", ""), built]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    floats = f"{found['model']}: FP32 {found['fp32']} %, FP16 {found['fp16']} % of {found['test_images']} images"
    chosen = (
        [f"chosen in FP8: {', '.join(found['fp8_layers_chosen']) or 'none'}"] if "fp8_layers_chosen" in found else []
    )
    return "\n".join([floats, "", *lines, "", *chosen])


if __name__ == "__main__":
    main()
