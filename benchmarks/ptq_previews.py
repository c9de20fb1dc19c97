"""What previews say of policies where nothing is trained, and what calibration makes of these policies: CIFAR-10.

Candidates of a PTQ build within a budget (the programs of all measures, and uniform bits) are previewed in the network
of all widths, twice: with the float model's BatchNorm statistics (``own``), and with statistics estimated anew
(``anew``), as previews had them until 29 Nov 2026. A build goes by the ``better`` of the two. Each candidate is then
calibrated and tested. Which one a rule takes: the least mean loss, ties as in a build; beside it rules that a few
images do not decide, on the losses with statistics estimated anew: ``median``, ``winsorised`` (most paired comparisons
won by the mean of differences, 5 % at both ends cut), ``sign`` (won on most images), ``cut`` (means of losses of at
most that of a uniform guess).

Keys: `nets` {name: {`float_top1`, `bits`, `budgets` {budget: {`candidates` [{`name`, `anew`, `own` {`loss`, `median`,
`top1`}, `test`, `distance`, `correction`}], `takes` {rule: name}}}}}, `images`.

    python benchmarks/ptq_previews.py --net mnasnet --weights FILE --out DIR --figures FILE.json
    python benchmarks/ptq_previews.py --smoke --json      a few images: that it runs to its end

Weights of mnasnet and regnet: those that `trained_nets.py` keeps in its --out; of resnet20 the shared ones.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from shared_data import cifar10

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.preview import Preview, preview
from limpq_deploy.importance.ties import chosen
from limpq_deploy.pipeline.config import trusted_config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.previewer import load_joint
from limpq_deploy.policy.budgets import budgets_from_options, parse_like, uniform_policy_within
from limpq_deploy.policy.candidates import find, uniform_candidate
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.recipes import recipes
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.quant.quantized_model import model_of_policy
from limpq_deploy.train.accuracy import figure, figure_and_losses
from limpq_deploy.train.finetuned import Top1
from limpq_deploy.train.ptq import calibrate
from limpq_deploy.workspace.file_names import FLOAT_WEIGHTS, INDICATORS

HERE = Path(__file__).resolve().parent
NETS: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    "mnasnet": ("trained_nets_made:mnasnet", (4, 8), ("w8a8", "w6a8")),
    "regnet": ("trained_nets_made:regnet", (4, 8), ("w8a8", "w6a8")),
    "resnet20": ("resnet20", (2, 3, 4, 5, 6), ("w3a3", "w4a4", "w5a5")),
}
"""Of each network the model, the candidate widths and the budgets."""
HELD, VAL, TEST, CALIBRATION = 1000, 500, 2000, 256
"""Images that preview, that choose a correction, that test, and that calibrate. Ranges of the network of all widths are
of 512."""
RULES = ("anew", "own", "better", "median", "winsorised", "sign", "cut")
CUT = 0.05

Losses = Sequence[NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="resnet20")
    parser.add_argument("--weights", type=Path, help="of the float network; resnet20: the shared ones")
    parser.add_argument("--out", type=Path, help="keep images and the network of all widths here, and go on from them")
    parser.add_argument("--figures", type=Path, help="renew this network's part of FILE.json")
    parser.add_argument("--quick", action="store_true", help="the first budget alone")
    parser.add_argument("--smoke", action="store_true", help="a few images, one budget: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.weights is None and options.net != "resnet20":
        parser.error(f"{options.net} has no shared weights; give --weights")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        data, shared = cifar10(out, smoke=options.smoke)
        folder = with_ranges(options.net, options.weights or shared, data, out / options.net)
        budgets = NETS[options.net][2][: 1 if options.quick or options.smoke else None]
        measured = measure(folder, budgets, few=options.smoke) | {"bits": NETS[options.net][1]}
    environment = read_environment()
    nets = {}
    if options.figures is not None and options.figures.exists():
        nets = json.loads(options.figures.read_text())["nets"]
    found = {
        "nets": nets | {options.net: measured},
        "images": {"held": HELD, "val": VAL, "test": TEST, "calibration": CALIBRATION},
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
    }
    if options.figures is not None:
        options.figures.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found) if options.json else page(found))


def with_ranges(net: str, weights: Path, data: Path, out: Path) -> Path:
    """The folder of a PTQ build up to its indicators; finished stages are not run again."""
    model, bits, _ = NETS[net]
    command = [sys.executable, "-m", "limpq_deploy", "indicators", "--ptq", "--bits", ",".join(map(str, bits))]
    command += ["--model", model, "--weights", str(weights), "--data", f"imagefolder:{data}", "--seed", "0"]
    command += ["--target", "onnxruntime", "--calibration-images", "512", "--out", str(out)]
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(command, env=environment, stdout=sys.stderr, check=True)
    return out


def measure(folder: Path, budgets: Sequence[str], *, few: bool) -> dict[str, Any]:
    """All budgets of one network; a policy that several of them have is looked at once."""
    subject = Subject(trusted_config(folder, trusted=True))
    indicators = load_record(Indicators, folder / INDICATORS)
    looks = Looks(subject, folder, few=few)
    found = {}
    for like in budgets:
        named = candidates(indicators, like)
        rows = [{"name": name, **looks(policy.pairs())} for name, policy in named.items()]
        seen = [looks.previews[_key(policy.pairs())] for policy in named.values()]
        takes = {rule: rows[place]["name"] for rule, place in taken(seen, list(named.values()), rows).items()}
        found[like] = {"candidates": rows, "takes": takes}
    return {"float_top1": looks.float_top1, "budgets": found}


def candidates(indicators: Indicators, like: str) -> dict[str, Policy]:
    """Distinct policies within a budget by name, uniform bits first."""
    budgets = budgets_from_options(indicators, like=like)
    programs = {recipe.title: find(indicators, budgets, recipe, solve=PolicySearch()) for recipe in recipes(indicators)}
    pair = uniform_policy_within(indicators, budgets, parse_like(like))
    named: dict[str, Policy] = {}
    if pair is not None:
        first = next(iter(programs.values()))
        named[f"uniform {pair_name(pair)}"] = uniform_candidate(pair, indicators, budgets, first)
    distinct: dict[Any, str] = {}
    for name, policy in (named | programs).items():
        distinct.setdefault(_key(policy.pairs()), name)
    return {name: policy for name, policy in (named | programs).items() if name in distinct.values()}


class Looks:
    """Previews of a policy with both statistics, and what calibration makes of it."""

    def __init__(self, subject: Subject, folder: Path, *, few: bool) -> None:
        self.subject, self.traced = subject, subject.traced(folder / FLOAT_WEIGHTS)
        self.joint = load_joint(subject, self.traced, folder)
        self.judge = subject.judge.beside(self.traced.graph_module.eval())
        self.train, held = (subject.joint_data.split(name) for name in ("train", "val"))
        self.held, dataset = some(held, 50 if few else HELD), subject.dataset
        parts = {"val": VAL, "test": TEST}
        splits = {name: some(dataset.split(name), 50 if few else images) for name, images in parts.items()}
        self.dataset: DataSet = replace(dataset, splits={"train": dataset.split("train"), **splits})
        self.float_top1 = figure(self.traced.graph_module, self.dataset.split("test"))
        self.previews: dict[Any, tuple[Preview, Preview]] = {}
        self._rows: dict[Any, dict[str, Any]] = {}

    def __call__(self, pairs: Mapping[str, BitPair]) -> dict[str, Any]:
        key = _key(pairs)
        if key not in self._rows:
            anew = preview(self.joint, pairs, train=self.train, held=self.held, judge=self.judge)
            self.joint.set_bits(pairs)
            top1, losses = figure_and_losses(self.joint, self.held, self.judge)
            own = replace(anew, top1=top1, losses=losses, loss=float(np.mean(losses)), batchnorm_images=0)
            self.previews[key] = anew, own
            self._rows[key] = {"anew": summary(anew), "own": summary(own), **self.calibrated(dict(pairs))}
            print(json.dumps(self._rows[key]), file=sys.stderr)
        return self._rows[key]

    def calibrated(self, pairs: dict[str, BitPair]) -> dict[str, Any]:
        """Test top-1, the distance to the float model on the images that chose the correction, and which that was."""
        model = model_of_policy(self.traced, self.subject.placement, pairs, scales="free", share=True)
        found = calibrate(
            model,
            pairs,
            self.dataset,
            ranges=None,
            images=CALIBRATION,
            seed=0,
            float_top1=Top1(val=0.0, test=0.0),
            judge=self.subject.judge,
            float_model=self.traced.graph_module,
        )
        assert found.calibrated is not None
        name = found.calibrated.chosen
        distance = next(one.loss for one in found.calibrated.corrections if one.name == name)
        return {"test": round(found.top1.test, 2), "distance": round(distance, 4), "correction": name}


def some(split: Split, images: int) -> Split:
    """So many images, from all of it."""
    return split.subset(np.linspace(0, len(split) - 1, min(images, len(split))).astype(np.int64))


def summary(found: Preview) -> dict[str, float]:
    median = float(np.median(found.losses))
    return {"loss": round(found.loss, 4), "median": round(median, 4), "top1": round(found.top1, 2)}


def taken(seen: Sequence[tuple[Preview, Preview]], policies: list[Policy], rows: list[Any]) -> dict[str, int]:
    """The place of the candidate that each rule takes."""
    uniform = next((at for at, row in enumerate(rows) if row["name"].startswith("uniform")), None)
    ways = {
        "anew": [anew for anew, _ in seen],
        "own": [own for _, own in seen],
        "better": [min(pair, key=lambda one: one.loss) for pair in seen],
    }
    ways["cut"] = [_cut(one) for one in ways["anew"]]
    found = {rule: chosen(previews, policies, uniform=uniform) for rule, previews in ways.items()}
    losses = [np.asarray(one.losses) for one in ways["anew"]]
    found["median"] = min(range(len(losses)), key=lambda at: float(np.median(losses[at])))
    found["winsorised"] = winner(losses, lambda one: float(np.clip(one, *np.quantile(one, [CUT, 1 - CUT])).mean()))
    found["sign"] = winner(losses, lambda one: float(np.sign(one).mean()))
    return {rule: found[rule] for rule in RULES}


def winner(losses: Losses, mean: Callable[[NDArray[np.float64]], float]) -> int:
    """The one that wins most comparisons in pairs, by the mean of another's losses less its own."""
    won = [sum(mean(other - one) > 0 for other in losses) for one in losses]
    return int(np.argmax(won))


def _cut(found: Preview) -> Preview:
    losses = tuple(np.minimum(found.losses, np.log(10)))
    return replace(found, losses=losses, loss=float(np.mean(losses)))


def _key(pairs: Mapping[str, BitPair]) -> Any:
    return tuple(sorted(pairs.items()))


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    return np.argsort(np.argsort(values)).astype(np.float64)


def page(found: dict[str, Any]) -> str:
    """The figures as two Markdown tables: test top-1 of what each rule takes, and how previews rank candidates."""
    lines = ["| network, budget | best of | " + " | ".join(RULES) + " |", "|" + "---|" * (len(RULES) + 2)]
    below = ["| network, budget | candidates | anew | own | better |", "|" + "---|" * 5]
    for name, net in found["nets"].items():
        for like, budget in net["budgets"].items():
            rows = {row["name"]: row for row in budget["candidates"]}
            best = max(row["test"] for row in rows.values())
            tests = " | ".join(f"{rows[budget['takes'][rule]]['test']:.2f}" for rule in RULES)
            lines.append(f"| {name}, {like} | {best:.2f} | {tests} |")
            distances = ranks([row["distance"] for row in rows.values()])
            ways = {way: [row[way]["loss"] for row in rows.values()] for way in ("anew", "own")}
            ways["better"] = [min(pair) for pair in zip(ways["anew"], ways["own"], strict=True)]
            told = " | ".join(f"{np.corrcoef(ranks(ways[way]), distances)[0, 1]:.2f}" for way in ways)
            below.append(f"| {name}, {like} | {len(rows)} | {told} |")
    return "\n".join([*lines, "", *below])


if __name__ == "__main__":
    main()
