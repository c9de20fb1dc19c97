"""Which look at an untrained policy tells what fine-tuning makes of it, and what each look costs.

`importance.py` has fine-tuned many policies; its file of lines (``--lines``) and its joint networks (beside that file)
are taken as they are. Every policy is looked at again, before any fine-tuning, by several judges:

- ``preview``: the joint network with BatchNorm estimated anew, as a build's tournament looks at it; ``joint-0``: the
  same with statistics of images as training sees them, augmented;
- ``joint-N``, ``float-N``: that network, or the float network with first scales, after N steps of 64 images with the
  recipe of fine-tuning (distilled, the rates of fine-tuning falling to zero within the N steps).

Each look gives top-1, cross-entropy and KL divergence to the float network on the held-out images; those of ``preview``
and ``joint-0`` of uniform bits and ``kl`` are also evaluated on ``test``, to compare what needs no fine-tuning with
what fine-tuning reaches. No judge is chosen by that.

``--prices`` times the parts of every way to a quantized network within one process, and calibrates uniform policies
without training. Everything done is kept in --out (one for each network) and taken from there by the next run.
``--figures FILE.json`` writes what `judges_page.py` makes the page of; networks that FILE has already stay in it.

    python benchmarks/judges.py --lines DIR/float_nets_made-mobilenet-300-float-300.jsonl --out DIR2
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import importance
import numpy as np
import torch
from judges_page import figures_of, page
from judges_prices import prices
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.preview import BATCHNORM_IMAGES
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, model_of_policy
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.train.accuracy import evaluated, settle_batchnorm
from limpq_deploy.train.kept_memory import freed_memory_kept
from limpq_deploy.train.loop import train
from limpq_deploy.train.losses import Pass, Teacher, cross_entropy, distilled
from limpq_deploy.train.settings import finetune_settings

LOOKS = {
    "preview": ("joint", 0, False),
    "joint-0": ("joint", 0, True),
    "joint-50": ("joint", 50, True),
    "float-100": ("float", 100, True),
    "float-50": ("float", 50, True),
    "float-0": ("float", 0, True),
}
"""Start, steps, and whether BatchNorm's statistics are of augmented images."""
TESTED = ("preview", "joint-0")
TESTED_POLICIES = ("uniform", "kl")
"""Looks and policies that are evaluated on the test split too."""
CONTROLS = ("reversed", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, help="what importance.py wrote; without it, it is run for two policies")
    parser.add_argument("--model", default="float_nets_made:mobilenet")
    parser.add_argument("--out", type=Path, default=Path("limpq-judges"))
    parser.add_argument("--seeds", type=int, nargs="+", help="lines of these seeds alone")
    parser.add_argument("--budgets", nargs="+", help="lines of these budgets alone")
    parser.add_argument("--policies", nargs="+", help="lines of these policies alone, such as uniform kl")
    parser.add_argument("--looks", nargs="+", choices=LOOKS, default=list(LOOKS))
    parser.add_argument("--no-controls", action="store_true", help="leave reversed and random for later")
    parser.add_argument("--no-test", action="store_true", help="leave the test split alone")
    parser.add_argument("--prices", action="store_true", help="time every way, and calibrate without training")
    parser.add_argument("--figures", type=Path, help="measure nothing, and renew this network's part of FILE.json")
    parser.add_argument("--quick", action="store_true", help="the first two policies of the first seed")
    parser.add_argument("--smoke", action="store_true", help="a few images and steps: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    options.out.mkdir(parents=True, exist_ok=True)
    if options.lines is None:
        options.lines = short_tournament(options)
    looks = options.out / "looks.jsonl"
    before = None
    if options.figures is None:
        measure(options, looks)
    elif options.figures.exists():
        before = json.loads(options.figures.read_text())
    found = figures_of(options.model, _read(options.lines), _read(looks), options.out, machine(), before)
    if options.figures is not None:
        options.figures.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found) if options.json else page(found))


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    return {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}


def short_tournament(options: argparse.Namespace) -> Path:
    """Uniform bits and one program, trained here for a moment: lines where there are none."""
    steps = 2 if options.smoke else 10
    asked = SimpleNamespace(
        model=options.model,
        out=options.out,
        smoke=options.smoke,
        seeds=[0],
        budgets=["w3a3"],
        only=["uniform", "kl"],
        joint_steps=steps,
        steps=steps,
        start="float",
    )
    file = options.out / f"{importance.of_settings(asked)}.jsonl"  # type: ignore[arg-type]
    importance.run(asked, file)  # type: ignore[arg-type]
    return file


def measure(options: argparse.Namespace, looks: Path) -> None:
    """Look at every line by every judge, as far as that is not done."""
    subject = importance.opened(options.model, options.out, smoke=options.smoke)
    wanted = [
        line
        for line in _read(options.lines)
        if (options.seeds is None or line["seed"] in options.seeds)
        and (options.budgets is None or line["budget"] in options.budgets)
        and (options.policies is None or line["policy"].split()[0] in options.policies)
        and not (options.no_controls and line["policy"] in CONTROLS)
    ]
    joint_steps = int(options.lines.stem.removeprefix(options.model.replace(":", "-")).split("-")[1])
    done = {(one["seed"], one["bits"], one["look"]) for one in _read(looks)}
    judges: dict[int, Judges] = {}
    for line in wanted[:2] if options.quick or options.smoke else wanted:
        for name in options.looks:
            if (line["seed"], line["bits"], name) in done:
                continue
            if line["seed"] not in judges:
                judges[line["seed"]] = Judges(subject, line["seed"], options.lines.parent, joint_steps, options)
            tested = name in TESTED and line["policy"].split()[0] in TESTED_POLICIES and not options.no_test
            steps = 2 if options.smoke else 100
            _append(looks, judges[line["seed"]].look(line["bits"], name, most_steps=steps, tested=tested))
            done.add((line["seed"], line["bits"], name))
    if options.prices or options.smoke:
        seed = wanted[0]["seed"]
        some = judges.get(seed) or Judges(subject, seed, options.lines.parent, joint_steps, options)
        prices(subject, some.traced, some.joint, options.out / "prices.json", seed=seed, smoke=options.smoke)


class Judges:
    """All looks at policies of one seed."""

    def __init__(
        self, subject: Subject, seed: int, networks: Path, joint_steps: int, options: argparse.Namespace
    ) -> None:
        asked = SimpleNamespace(model=options.model, out=networks, joint_steps=joint_steps)
        self.indicators, self.joint = importance.learned(subject, seed, asked)  # type: ignore[arg-type]
        self.subject, self.seed, self.kept = subject, seed, options.out / "images-looked-at"
        self.kept.mkdir(exist_ok=True)
        self.data = subject.joint_data
        self.traced: TracedModel = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
        self.teacher = self.traced.graph_module.eval()
        self._held = [
            (torch.from_numpy(images), torch.as_tensor(labels)) for images, labels in evaluated(self.data.split("val"))
        ]
        with torch.no_grad():
            self._wanted = [self.teacher(images) for images, _ in self._held]

    def look(self, bits: str, name: str, *, most_steps: int, tested: bool) -> dict[str, Any]:
        """One judge's figures of one policy, written as the tournament writes its bits."""
        names = [layer.name for layer in self.indicators.layers]
        pairs = {name: (int(pair[0]), int(pair[1])) for name, pair in zip(names, bits.split(), strict=True)}
        start, steps, augmented = LOOKS[name]
        with freed_memory_kept():
            model = self.looked_at(pairs, start, min(steps, most_steps), augmented)
            losses, divergences, hits = self.of_each(model)
        key = f"{self.seed} {bits} {name}".replace(" ", "_")
        np.savez(self.kept / f"{key}.npz", loss=losses, kl=divergences)
        found = {
            **{"seed": self.seed, "bits": bits, "look": name},
            **{"top1": 100 * float(hits.mean()), "loss": float(losses.mean()), "kl": float(divergences.mean())},
        }
        if tested:
            found["test"] = self.top1(model, self.subject.dataset.split("test"))
        return found

    def looked_at(self, pairs: dict[str, BitPair], start: str, steps: int, augmented: bool) -> QuantizedModel:
        """A policy's network after so many steps, BatchNorm estimated anew."""
        model, split = self.begun(pairs, start), self.data.split("train")
        if steps:
            self.adapt(model, steps)
        settle_batchnorm(
            model,
            split,
            images=min(len(split), BATCHNORM_IMAGES),
            seed=self.seed,
            augment=self.data.augment if augmented else None,
        )
        return model.eval()

    def begun(self, pairs: dict[str, BitPair], start: str) -> QuantizedModel:
        """A policy's network as fine-tuning would begin with it."""
        model = model_of_policy(self.traced, self.subject.placement, pairs)
        if start == "joint":
            inherit(model, self.joint)
        else:
            model.initialise_scales(self.subject.first_images())
            model.set_bits(pairs)
        return model

    def adapt(self, model: QuantizedModel, steps: int) -> None:
        """So many steps of the recipe of fine-tuning."""
        train_split = self.data.split("train")
        settings = replace(
            finetune_settings(len(train_split)), steps=steps, warmup_steps=steps // 20, candidates=1, channels_last=True
        )
        loss = distilled(Teacher(self.teacher), cross_entropy(0.0), weight=1.0, temperature=1.0)
        train(model, train_split, settings, seed=self.seed, augment=self.data.augment, passes=(Pass(loss=loss),))

    def of_each(self, model: QuantizedModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cross-entropy, divergence from the float network's outputs and hit of each held-out image."""
        found: list[torch.Tensor] = []
        with torch.no_grad():
            for (images, labels), wanted in zip(self._held, self._wanted, strict=True):
                logits = model(images)
                losses = F.cross_entropy(logits.double(), labels, reduction="none")
                divergences = CLASSIFICATION.distances((logits.double(),), (wanted.double(),))
                found.append(torch.stack([losses, divergences, (logits.argmax(1) == labels).double()]))
        losses, divergences, hits = torch.cat(found, dim=1).numpy()
        return losses, divergences, hits

    def top1(self, model: QuantizedModel, split: Split) -> float:
        """In percent."""
        with torch.no_grad():
            right = sum(
                int((model(torch.from_numpy(images)).argmax(1) == torch.as_tensor(labels)).sum())
                for images, labels in evaluated(split)
            )
        return 100 * right / len(split)


def _read(file: Path) -> list[dict[str, Any]]:
    return list(_records(file)) if file.exists() else []


def _records(file: Path) -> Iterator[dict[str, Any]]:
    for text in file.read_text().splitlines():
        yield json.loads(text)


def _append(file: Path, record: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(record) + "\n")
    print(json.dumps(record), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
