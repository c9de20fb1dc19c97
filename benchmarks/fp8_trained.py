"""FP16, int8, FP8 and policies found under --max-moved-mib after fine-tuning, on target tensorrt_rtx.

Policies are those of a file of `fp8.py --moved`. Each is fine-tuned as a build does it (float weights and least-squares
scales to begin with, the float model's logits as labels), over seeds that all policies share. FP16 is trained as long
as the others, so that what training alone brings is told apart from formats. A part of the training images is held
out, by which the model as it came or as trained is taken; ``test`` is looked at once. Accuracies are of the model in
PyTorch that computes as its file does, sums rounded to FP16. The first and last layer are in int8 throughout.

Keys: `model`, `steps`, `float` {`held`, `test`} (top-1 in percent, FP32), `lines` [{`seed`, `format`, `layers`,
`held_before`, `held`, `test`, `chosen_step`}], `held_images`, `test_images`. Finished lines are kept in --work and
taken from there.

    python benchmarks/fp8_trained.py --work DIR --json
    python benchmarks/fp8_trained.py --policies benchmarks/fp8_moved_mobilenet.json --work DIR --json
    python benchmarks/fp8_trained.py --quick --json      one seed, ten steps: shows that it runs, and no more
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fp8 import on_cifar10

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.numbers.formats import FORMATS, pair_name
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.train.accuracy import figure
from limpq_deploy.train.finetune import finetune
from limpq_deploy.train.finetuned import Top1
from limpq_deploy.train.settings import finetune_settings

BATCHNORM_IMAGES = 2000
UNKNOWN = Top1(val=float("nan"), test=float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--policies", type=Path, default=Path(__file__).with_name("fp8_moved.json"), help="figures of fp8.py --moved"
    )
    parser.add_argument("--only", nargs="+", help="formats to train, such as int8 'within 25%%'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=300, help="of 64 images")
    parser.add_argument("--work", type=Path, help="folder of finished lines, to go on there [default: a passing one]")
    parser.add_argument("--quick", action="store_true", help="one seed, ten steps")
    parser.add_argument("--smoke", action="store_true", help="two steps, a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    if options.quick or options.smoke:
        options.seeds, options.steps = options.seeds[:1], 2 if options.smoke else 10
    with tempfile.TemporaryDirectory() as passing:
        found = measure(options, options.work or Path(passing))
    print(json.dumps(found) if options.json else page(found))


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All lines, those of an earlier run in ``work`` as they are."""
    known = json.loads(options.policies.read_text())
    subject = Subject(on_cifar10(known["model"], work, smoke=options.smoke))
    kept = work / f"trained-{known['model'].replace(':', '-')}-{options.steps}.jsonl"
    lines = [json.loads(text) for text in kept.read_text().splitlines()] if kept.is_file() else []
    done = {(line["seed"], line["format"]) for line in lines}
    data = _with_test(subject)
    policies = {
        name: pairs for name, pairs in policies_of(known, subject).items() if not options.only or name in options.only
    }
    for seed in options.seeds:
        for name, pairs in policies.items():
            if (seed, name) not in done:
                lines.append({"seed": seed, "format": name} | trained(subject, data, pairs, seed, options.steps))
                with kept.open("a") as out:
                    out.write(json.dumps(lines[-1]) + "\n")
                print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    environment = read_environment()
    return {
        "model": known["model"],
        "steps": options.steps,
        "float": {
            name: round(figure(subject.model.eval(), data.split(split), subject.judge), 2)
            for name, split in (("held", "val"), ("test", "test"))
        },
        "lines": sorted(lines, key=lambda line: (line["seed"], [*policies].index(line["format"]))),
        "held_images": len(data.split("val")),
        "test_images": len(data.split("test")),
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def policies_of(known: dict[str, Any], subject: Subject) -> dict[str, dict[str, BitPair]]:
    """FP16, int8 and FP8 throughout, and the policies of the file that differ from them and from each other."""
    names = [layer.name for layer in subject.placement.searched]
    pair_of = {pair_name((width, width)): (width, width) for width in FORMATS.values()}
    found = {name: dict.fromkeys(names, (FORMATS[name], FORMATS[name])) for name in ("fp16", "int8", "fp8")}
    for row in known["rows"]:
        pairs = {layer: pair_of[bits] for layer, bits in row.get("bits", {}).items()}
        if pairs and pairs not in found.values():
            found[row["format"]] = pairs
    return found


def _with_test(subject: Subject) -> DataSet:
    """Training images without those held out, which are ``val``, and the test images."""
    data = subject.joint_data
    return replace(data, splits={**data.splits, "test": subject.dataset.split("test")})


def trained(subject: Subject, data: DataSet, pairs: dict[str, BitPair], seed: int, steps: int) -> dict[str, Any]:
    """One policy, fine-tuned."""
    traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
    model = subject.quantized(traced, pairs)
    settings = replace(
        finetune_settings(len(data.split("train"))),
        steps=steps,
        warmup_steps=steps // 20,
        candidates=1,
        batchnorm_images=BATCHNORM_IMAGES,
    )
    found = finetune(
        model,
        pairs,
        data,
        settings=settings,
        seed=seed,
        float_top1=UNKNOWN,
        teacher=traced.graph_module,
        foreign_weights=True,
        judge=subject.judge,
    )
    layers = {name: sum(pair == (width, width) for pair in pairs.values()) for name, width in FORMATS.items()}
    return {
        "layers": layers,
        "held_before": round(found.candidates[0].val, 2),
        "held": round(found.top1.val, 2),
        "test": round(found.top1.test, 2),
        "chosen_step": found.chosen_step,
    }


def page(found: dict[str, Any]) -> str:
    """The figures as a Markdown table: a mean and the seeds it is of, and the paired difference to FP16."""
    return "\n".join(_rows(found))


def _rows(found: dict[str, Any]) -> Iterator[str]:
    yield "| formats | layers in int8, FP8, FP16 | held out before, after | test by seed | beside FP16, trained |"
    yield "|" + "---|" * 5
    lines = found["lines"]
    reference = {line["seed"]: line["test"] for line in lines if line["format"] == "fp16"}
    yield f"| float | - | {found['float']['held']:.2f} % | {found['float']['test']:.2f} % | - |"
    for name in dict.fromkeys(line["format"] for line in lines):
        mine = [line for line in lines if line["format"] == name]
        held = f"{fmean(line['held_before'] for line in mine):.2f}, {fmean(line['held'] for line in mine):.2f} %"
        tests = ", ".join(f"{line['test']:.2f}" for line in mine)
        apart = [line["test"] - reference[line["seed"]] for line in mine if line["seed"] in reference]
        spread = f" (sd {stdev(apart):.2f})" if len(apart) > 1 else ""
        beside = "-" if name == "fp16" or not apart else f"{fmean(apart):+.2f}{spread}"
        counts = ", ".join(str(mine[0]["layers"][one]) for one in FORMATS)
        shown = name.replace(" %", "%").replace("%", " %")
        yield f"| {shown} | {counts} | {held} | {tests} % | {beside} |"


if __name__ == "__main__":
    main()
