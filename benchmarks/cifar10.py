"""ResNet-20 on CIFAR-10 through the whole pipeline: mixed bits beside uniform ones at the same BitOps.

Needs the shared data (LIMPQ_SHARED, or ../shared beside the checkout): 20,000 training, 2,000 validation and 5,000
test images, and the trained ResNet-20 of 91.78 % on those test images. Its weights have seen training and validation
images; only ``top1``, on the test split, measures accuracy. Each build is `limpq-deploy build` with the defaults for
this number of images; ``--quick`` shortens training to end within minutes, so that its accuracies say that the
pipeline runs and no more.

Keys: ``float_top1``; ``policies``: name (mixed, or the uniform policy trained beside it by the same recipe), like,
seed, ``gbitops`` (nominal, pinned layers included), ``top1_preview`` (straight from the joint network, BatchNorm
re-estimated, on the *validation* split), ``top1`` (test, the exported file on ONNX Runtime), ``top1_trained`` (test,
the torch model).
"""

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from shared_data import cifar10

from limpq_deploy.calibration.records import load_record
from limpq_deploy.cli.output.tables import stage_line
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.pipeline.config import Config, Training
from limpq_deploy.pipeline.stages.run import run_build
from limpq_deploy.train.finetuned import FineTuned
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.file_names import FINETUNED_RECORD, PARITY, UNIFORM_RECORD
from limpq_deploy.workspace.workspace import Passed

QUICK, SMOKE = Training(joint_steps=30, finetune_steps=40), Training(joint_steps=2, finetune_steps=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one budget, one seed, short training")
    parser.add_argument("--smoke", action="store_true", help="a few images and steps: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--like", nargs="+", default=["w4a4"], help="budgets (default: w4a4)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--out", type=Path, default=Path("limpq-build-cifar10"), help="builds are kept here and resumed"
    )
    options = parser.parse_args()
    short = options.quick or options.smoke
    likes = options.like[:1] if short else options.like
    seeds = options.seeds[:1] if short else options.seeds
    data, weights = cifar10(options.out, smoke=options.smoke)
    result: dict[str, Any] = {"policies": [], "quick": options.quick, "smoke": options.smoke}
    for like in likes:
        for seed in seeds:
            config = Config(
                model="resnet20",
                weights=weights,
                data=f"imagefolder:{data}",
                like=like,
                seed=seed,
                out=options.out
                / f"{'smoke-' if options.smoke else 'quick-' if options.quick else ''}{like}-seed{seed}",
                training=SMOKE if options.smoke else QUICK if options.quick else Training(),
            )
            if options.smoke:
                config = replace(config, latency_seconds=0.05)
            measured = run_build(config, say=say)
            assert measured.verdict is not None
            result |= summary(config.out, measured.verdict)
            result["policies"] += policies(config, measured.verdict)
    result |= {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def say(passed: Passed) -> None:
    """One line per stage on standard error."""
    click.echo(stage_line(passed), err=True)


def summary(folder: Path, verdict: Verdict) -> dict[str, Any]:
    """What is measured once for a build: float accuracy, parity, latency."""
    assert verdict.accuracy is not None
    assert verdict.latency is not None
    parity = load_record(ParityReport, folder / PARITY)
    return {
        "float_top1": verdict.accuracy.float.value,
        "mismatches_reference": parity.mismatches,
        "codes": parity.elements,
        "logits_bit_equal": parity.logits_equal,
        "layer_mismatches": sum(entry.mismatches for entry in parity.faithful),
        "top1_agreement": parity.top1_agreement,
        "speedups": [
            {"over": gain.over, "threads": gain.threads, "ratio": gain.ratio, "low": gain.low, "high": gain.high}
            for gain in verdict.latency.speedups
        ],
        "outcome": verdict.outcome,
        "failed_checks": [check.name for check in verdict.checks if not check.passed],
        "undecided_checks": [one.name for one in verdict.undecided],
    }


def policies(config: Config, verdict: Verdict) -> list[dict[str, Any]]:
    """The mixed policy and the uniform one beside it."""
    accuracy = verdict.accuracy
    assert accuracy is not None
    found = []
    for bitops, measured, record in (
        (verdict.bitops[0], accuracy.mixed, FINETUNED_RECORD),
        (verdict.bitops[1], accuracy.uniform, UNIFORM_RECORD),
    ):
        if measured is None or not (config.out / record).is_file():
            continue
        trained = load_record(FineTuned, config.out / record)
        found.append(
            {
                "name": bitops.name,
                "like": config.like,
                "seed": config.seed,
                "gbitops": bitops.nominal_all / 1e9,
                "top1_preview": trained.candidates[0].val,
                "top1_trained": trained.top1.test,
                "top1": measured.value,
                "epochs": trained.epochs,
            }
        )
    return found


if __name__ == "__main__":
    main()
