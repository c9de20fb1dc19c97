"""What the method costs, in relation to a float epoch and to one uniform training, beside what rivals' scores cost.

One run, one network, one machine: joint training, every measure, the program for one budget and for a front, a preview;
a float epoch and a uniform fine-tuning of as many steps; Hessian traces and gradient scores (`rival_scores.py`) and
learned bit-widths (`fractional_bits.py`). A training is as many steps as it has times one; all else is run whole, or a
batch of it as often as it has batches. Rounds take all in turn, figures are medians of processor seconds (one thread),
and **ratios are the result**: seconds are this machine's.

Keys: `seconds`, `over_float_epoch`, `over_uniform` (by what was measured), `counts` (steps, images, samples that the
seconds stand for), `rounds`, `machine`.
"""

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from fractional_bits import learn
from importance import BITS, budget_of, learned, opened
from rival_scores import MOST, STEPS, GradientScores, HessianTraces, batches_of, calibrated
from torch import nn

from limpq_deploy.importance.all_measures import BATCH, IMAGES
from limpq_deploy.importance.divergence import add_divergence
from limpq_deploy.importance.fisher import add_fisher
from limpq_deploy.importance.preview import preview
from limpq_deploy.importance.variants import batch_statistics, searched_tensors
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.candidates import find
from limpq_deploy.policy.costs import BitOps, total_cost, uniform_pairs
from limpq_deploy.policy.front import sweep
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.train.joint import joint_passes
from limpq_deploy.train.loop import train
from limpq_deploy.train.losses import Pass, Teacher, cross_entropy, distilled
from limpq_deploy.train.settings import TrainSettings, finetune_settings, joint_settings

BUDGET, UNIFORM = "w3a3", (3, 3)
TRAINING = 300
"""Steps of a training."""
POINTS = 50
"""Budgets of the front."""
FLOAT, QAT, JOINT, MEASURES = "a float epoch", "uniform training", "joint training", ("scale", "kl and loss", "fisher")
PROGRAM, FRONT, PREVIEW = "the program, one budget", f"the program, a front of {POINTS}", "one preview"
WHOLE, LEAN = "the whole search", "the search on kl alone"
HESSIAN, GRADIENT, LEARNED = "Hessian traces", "gradient scores", "learned bits, one budget"
PREVIEWS = 5
"""Of a tournament: four measures and uniform bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of everything is timed: steps of a training, rounds of all."""

    steps: int
    rounds: int
    joint_steps: int
    samples: int


WHOLE_RUN = Extent(steps=8, rounds=3, joint_steps=300, samples=MOST)
QUICK = Extent(steps=3, rounds=1, joint_steps=10, samples=5)
SMOKE = Extent(steps=3, rounds=1, joint_steps=2, samples=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="float_nets_made:mobilenet")
    parser.add_argument("--quick", action="store_true", help="one round, few steps")
    parser.add_argument("--smoke", action="store_true", help="a few images and steps: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="keep images and the joint network here, and take them from there")
    options = parser.parse_args()
    extent = SMOKE if options.smoke else QUICK if options.quick else WHOLE_RUN
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        options.out = options.out or Path(scratch)
        options.out.mkdir(parents=True, exist_ok=True)
        options.joint_steps = extent.joint_steps
        found = measure(options, extent)
    print(json.dumps(found) if options.json else page(found))


def measure(options: argparse.Namespace, extent: Extent) -> dict[str, Any]:
    """All figures."""
    subject = opened(options.model, options.out, smoke=options.smoke)
    indicators, joint = learned(subject, 0, options)
    costs = Costs(subject, indicators, joint, extent)
    load = os.getloadavg()[0]
    taken: dict[str, list[float]] = {}
    for number in range(extent.rounds):
        for name, once in costs.all().items():
            taken.setdefault(name, []).append(once())
        print(f"round {number + 1} of {extent.rounds}", file=sys.stderr, flush=True)
    seconds = {name: median(values) for name, values in taken.items()}
    seconds["scale"] = 0.0
    seconds[LEAN] = seconds[JOINT] + seconds["kl and loss"] + seconds[PROGRAM] + seconds[PREVIEW]
    measures = sum(seconds[name] for name in MEASURES)
    seconds[WHOLE] = seconds[JOINT] + measures + len(MEASURES) * seconds[PROGRAM] + PREVIEWS * seconds[PREVIEW]
    return {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "over_float_epoch": {name: round(value / seconds[FLOAT], 4) for name, value in seconds.items()},
        "over_uniform": {name: round(value / seconds[QAT], 4) for name, value in seconds.items()},
        "counts": costs.counts(),
        "rounds": extent.rounds,
        "machine": {
            "cpus": os.cpu_count(),
            "load": [load, os.getloadavg()[0]],
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


class Costs:
    """What is timed, each as a call that gives the processor seconds of the whole."""

    def __init__(self, subject: Subject, indicators: Indicators, joint: QuantizedModel, extent: Extent) -> None:
        self._subject, self._indicators, self._joint, self._extent = subject, indicators, joint, extent
        self._data = subject.joint_data
        self._train, self._held = self._data.split("train"), self._data.split("val")
        self._size = min(BATCH, len(self._held))
        self._tensors = searched_tensors(subject.placement)
        self._traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
        self._rivals = calibrated(self._traced, subject.placement, BITS, subject.first_images())
        self._traces = self._hutchinson()
        self._traces.run(extent.samples)
        self._samples = len(self._traces.samples)

    def all(self) -> dict[str, Callable[[], float]]:
        return {
            FLOAT: self.float_epoch,
            QAT: self.uniform,
            JOINT: self.joint,
            "kl and loss": self.divergence,
            "fisher": self.fisher,
            PROGRAM: self.program,
            FRONT: self.front,
            PREVIEW: self.preview,
            HESSIAN: self.hessian,
            GRADIENT: self.gradient,
            LEARNED: self.learned,
        }

    def counts(self) -> dict[str, int]:
        return {
            "steps": TRAINING,
            "batch": self._settings().batch_size,
            "steps of a float epoch": self._epoch(),
            "images of measures and traces": IMAGES,
            "Hutchinson samples": self._samples,
            "batches of gradient scores": STEPS,
            "tensors": len(self._tensors),
            "held-out images of a preview": len(self._held),
        }

    def float_epoch(self) -> float:
        net = copy.deepcopy(self._subject.model)
        return self._trained(net, (Pass(name="float"),)) * self._epoch()

    def uniform(self) -> float:
        model = self._subject.quantized(self._traced, uniform_pairs(self._indicators, *UNIFORM))
        return self._trained(model, (Pass(name="train", loss=self._taught()),)) * TRAINING

    def joint(self) -> float:
        model = copy.deepcopy(self._joint)
        settings = joint_settings(len(self._train))
        passes = joint_passes(model, BITS, np.random.default_rng(0), settings, self._teacher())
        return self._trained(model, passes) * TRAINING

    def learned(self) -> float:
        steps = Steps()
        budget = budget_of(self._indicators, BUDGET)
        learn(
            self._joint, self._indicators, budget, self._data, self._teacher(),
            settings=self._settings(), seed=0, report=steps,
        )  # fmt: skip
        return steps.each() * TRAINING

    def divergence(self) -> float:
        [(images_NCHW, labels)] = batches_of(self._held, self._size, self._size, 0)
        self._joint.set_bits(uniform_pairs(self._indicators, BITS[-1], BITS[-1]))

        def batch() -> None:
            with batch_statistics(self._joint):
                add_divergence(
                    self._joint, images_NCHW, labels, self._tensors, BITS[:-1], kl={}, loss={}, task=CLASSIFICATION
                )

        return timed(batch) * IMAGES / self._size

    def fisher(self) -> float:
        [(images_NCHW, _)] = batches_of(self._held, self._size, self._size, 0)
        self._joint.set_bits(uniform_pairs(self._indicators, BITS[-1], BITS[-1]))
        generator = torch.Generator().manual_seed(0)

        def batch() -> None:
            add_fisher(self._joint, images_NCHW, self._tensors, BITS[:-1], generator=generator, table={})

        return timed(batch) * IMAGES / self._size

    def program(self) -> float:
        budget = budget_of(self._indicators, BUDGET)
        recipe = one_recipe(self._indicators, importance="kl")
        return timed(lambda: find(self._indicators, (budget,), recipe, solve=PolicySearch()))

    def front(self) -> float:
        cost = BitOps(pinned=True)
        low, high = (
            total_cost(cost, self._indicators, uniform_pairs(self._indicators, b, b)) for b in BITS[:: len(BITS) - 1]
        )
        limits = [float(limit) / 1e9 for limit in np.linspace(low, high, POINTS)]
        return timed(lambda: sweep(self._indicators, limits, importance="kl"))

    def preview(self) -> float:
        pairs = uniform_pairs(self._indicators, *UNIFORM)
        return timed(lambda: preview(self._joint, pairs, train=self._train, held=self._held))

    def hessian(self) -> float:
        traces = self._hutchinson()
        return timed(traces.sample) * self._samples * IMAGES / self._size

    def gradient(self) -> float:
        scores = GradientScores(self._rivals, BITS)
        size = min(self._settings().batch_size, len(self._held))
        [batch] = batches_of(self._held, size, size, 0)
        return timed(lambda: scores.add(*batch)) * STEPS

    def _hutchinson(self) -> HessianTraces:
        return HessianTraces(self._rivals, batches_of(self._held, self._size, self._size, 0), 0)

    def _trained(self, model: nn.Module, passes: tuple[Pass, ...]) -> float:
        """Seconds of a step."""
        steps = Steps()
        train(model, self._train, self._settings(), seed=0, augment=self._data.augment, passes=passes, report=steps)
        return steps.each()

    def _settings(self) -> TrainSettings:
        return replace(finetune_settings(len(self._train)), steps=self._extent.steps, warmup_steps=1, candidates=1)

    def _epoch(self) -> int:
        return max(1, len(self._train) // self._settings().batch_size)

    def _teacher(self) -> nn.Module:
        return copy.deepcopy(self._traced.graph_module).eval()

    def _taught(self) -> Any:
        own = cross_entropy(self._settings().label_smoothing)
        return distilled(Teacher(self._teacher()), own, weight=1.0, temperature=1.0)


class Steps:
    """A report of a training that keeps the processor time of every step."""

    def __init__(self) -> None:
        self._at: list[float] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self._at.append(time.process_time())

    def each(self) -> float:
        """Median of the steps but the first."""
        return median(after - before for before, after in zip(self._at, self._at[1:], strict=False))


def timed(once: Callable[[], Any]) -> float:
    """Processor seconds."""
    start = time.process_time()
    once()
    return time.process_time() - start


def page(found: dict[str, Any]) -> str:
    """The ratios as a table."""
    counts = found["counts"]
    steps, batch = f"{counts['steps']} steps of {counts['batch']} images", counts["batch"]
    images, tensors = counts["images of measures and traces"], counts["tensors"]
    what = {
        FLOAT: f"{counts['steps of a float epoch']} steps of {batch} images",
        QAT: f"{steps}, w3a3, taught by the float model",
        JOINT: f"{steps}, six passes each",
        "scale": "what joint training learned",
        "kl and loss": f"{images} images, {tensors} tensors at four widths",
        "fisher": f"{images} images, one backward pass",
        PROGRAM: "proved",
        FRONT: f"{POINTS} budgets, each proved",
        PREVIEW: f"{counts['held-out images of a preview']} held-out images",
        LEAN: "joint training, kl, the program, a preview",
        WHOLE: f"joint training, four measures, a program each, {PREVIEWS} previews",
        LEARNED: f"{steps}; after a joint training, once for each budget",
        HESSIAN: f"{counts['Hutchinson samples']} samples on {images} images, all {tensors} tensors at once",
        GRADIENT: f"{counts['batches of gradient scores']} batches of {batch} images, five formats",
    }
    lines = ["| | what it is | in float epochs | in uniform trainings |", "|" + "---|" * 4]
    for name, said in what.items():
        lines.append(
            f"| {name} | {said} | {shown(found['over_float_epoch'][name])} | {shown(found['over_uniform'][name])} |"
        )
    return "\n".join(lines)


def shown(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


if __name__ == "__main__":
    main()
