"""Which measure of importance earns its place: policies at equal cost, fine-tuned alike, on CIFAR-10.

A part of the training images is held out: joint training and fine-tuning do not see it, importance is measured and
policies are previewed on it. The shared float weights of ResNet-20 have seen it, as they have seen all of ``train`` and
``val``; those of `float_nets` (``--model float_nets_made:mobilenet``) have not. Only ``test`` measures accuracy, and
nothing is chosen by it.

For every seed (of joint training and of fine-tuning) and every budget: the uniform policies at the budget, one policy
for each measure, and two controls: ``reversed`` (each layer gets the ``kl`` curve of the layer at the other end of the
ranking) and ``random`` (the program on random curves). Budgets: ``w3a3`` means the BitOps of that uniform policy over
the searched layers, a number such as ``7.5`` that many times their MACs; between uniform policies there is no uniform
policy of that budget, and those below it are what uniform bits have to offer. ``weights3`` limits the size alone: 3
bits for a weight on average, activations at the widest candidate.

Needs the shared data (LIMPQ_SHARED, or ../shared beside the checkout). Joint networks and finished lines are kept in
--out and taken from there when the command is given again. ``--table`` prints what is there and trains nothing.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from shared_data import cifar10, data_folder

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.importance.preview import preview
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.budgets import budgets_of, like_budget, parse_like
from limpq_deploy.policy.candidates import find
from limpq_deploy.policy.costs import Budget, uniform_pairs
from limpq_deploy.policy.importance_names import MEASURES, read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.recipes import one_recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module, save_module
from limpq_deploy.train.finetune import finetune
from limpq_deploy.train.finetuned import Top1
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.settings import finetune_settings, joint_settings

BITS = (2, 3, 4, 5, 6)
WEIGHTS = "weights"
"""What budgets of the size begin with."""
BATCHNORM_IMAGES = 2000
Pairs = dict[str, BitPair]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One policy of one seed. ``preview`` and ``held``: top-1 on held-out images before and after fine-tuning;
    ``test``: after it, on the test split. ``times_macs``: BitOps of searched layers over their MACs; ``weight_bits``:
    of their weights on average."""

    seed: int
    budget: str
    policy: str
    bits: str
    times_macs: float
    weight_bits: float
    preview: float
    preview_loss: float
    held: float
    test: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budgets", nargs="+", default=["w3a3", "7.5"])
    parser.add_argument("--only", nargs="+", help="policies to train, such as uniform kl scale random")
    parser.add_argument("--model", default="resnet20", help="a shared CIFAR ResNet, or float_nets_made:NAME")
    parser.add_argument("--joint-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=300, help="fine-tuning steps of 64 images")
    parser.add_argument(
        "--start", choices=["float", "joint"], default="float", help="weights and scales that fine-tuning begins with"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, few steps: shows that it runs, and no more")
    parser.add_argument("--smoke", action="store_true", help="two steps, a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what --out holds of these settings")
    parser.add_argument("--out", type=Path, default=Path("limpq-importance"))
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.budgets, options.joint_steps, options.steps = options.seeds[:1], ["7.5"], 10, 10
    if options.smoke:
        options.seeds, options.budgets, options.joint_steps, options.steps = options.seeds[:1], ["7.5"], 2, 2
        options.only = ["scale"]
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{of_settings(options)}.jsonl"
    if not options.table:
        run(options, file)
    lines = [Line(**json.loads(text)) for text in file.read_text().splitlines()] if file.exists() else []
    if options.json:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
        print(json.dumps({"lines": [asdict(line) for line in lines], "machine": machine}))
    else:
        print("\n".join(table(lines)))


def run(options: argparse.Namespace, file: Path) -> None:
    """Train every line that ``file`` lacks, and append it."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    subject = opened(options.model, options.out, smoke=options.smoke)
    done = {(line["seed"], line["budget"], line["policy"]) for line in map(json.loads, _lines(file))}
    for seed in options.seeds:
        indicators, joint = learned(subject, seed, options)
        for budget in options.budgets:
            for name, pairs in policies(indicators, budget, seed).items():
                wanted = options.only is None or name.split()[0] in options.only
                if (seed, budget, name) in done or not wanted:
                    continue
                line = trained(subject, joint, indicators, pairs, seed, budget, name, options)
                with file.open("a") as out:
                    out.write(json.dumps(asdict(line)) + "\n")
                print(json.dumps(asdict(line)), file=sys.stderr, flush=True)


def of_network(options: argparse.Namespace) -> str:
    """What joint networks of these settings are called."""
    return f"{options.model.replace(':', '-')}-{options.joint_steps}"


def of_settings(options: argparse.Namespace) -> str:
    """What the lines of these settings are called: others are no part of them."""
    return f"{of_network(options)}-{options.start}-{options.steps}"


def opened(model: str, out: Path, *, smoke: bool) -> Subject:
    """The shared images and weights, unpacked beside the results."""
    images, _ = cifar10(out, smoke=smoke)
    weights = data_folder() / "weights" / f"{model}-cifar10.safetensors"
    if ":" in model:
        weights = Path(__file__).with_name("float_nets") / f"{model.partition(':')[2]}.safetensors"
    return Subject(Config(model=model, weights=weights, data=f"imagefolder:{images}", out=out))


def learned(subject: Subject, seed: int, options: argparse.Namespace) -> tuple[Indicators, QuantizedModel]:
    """Joint training and all measures of one seed, or what an earlier run kept of them."""
    traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
    name = f"{of_network(options)}-{seed}"
    network, record = options.out / f"{name}.safetensors", options.out / f"{name}.indicators.json"
    info = CheckpointInfo(kind="joint", model=options.model, target=subject.target.name, bits=BITS)
    if record.exists():
        joint = joint_model(traced, subject.placement, BITS)
        load_module(network, joint, info)
        return load_record(Indicators, record), joint
    data = subject.joint_data
    settings = joint_settings(len(data.split("train")))
    settings = replace(settings, steps=options.joint_steps, warmup_steps=options.joint_steps // 20, channels_last=True)
    start = time.perf_counter()
    indicators, joint = train_indicators(
        traced, subject.placement, data, bits=BITS, settings=settings, seed=seed, report=said
    )
    between = time.perf_counter()
    indicators = measured(indicators, joint, data.split("val"), seed=seed)
    took = f"{between - start:.0f} s joint training, {time.perf_counter() - between:.0f} s measures"
    print(f"seed {seed}: {took}", file=sys.stderr, flush=True)
    save_module(network, joint, info)
    write_record(indicators, record)
    return indicators, joint


def policies(indicators: Indicators, budget: str, seed: int) -> dict[str, Pairs]:
    """All policies of one budget by name."""
    found: dict[str, Pairs] = {}
    limit = budget_of(indicators, budget)
    if _is_like(budget):
        weight, act = parse_like(budget)
        for pair in dict.fromkeys(((weight, act), (act, weight))):
            found[f"uniform w{pair[0]}a{pair[1]}"] = uniform_pairs(indicators, *pair)
    elif budget in (f"{WEIGHTS}{bits}" for bits in BITS):
        found[f"uniform {budget}"] = uniform_pairs(indicators, int(budget.removeprefix(WEIGHTS)), BITS[-1])
    solve = PolicySearch()
    for name in MEASURES:
        found[name] = find(indicators, (limit,), one_recipe(indicators, importance=name), solve=solve).pairs()
    rng = np.random.default_rng((seed, 99))
    for name, curves in (("reversed", backwards(read_by(indicators, "kl"))), ("random", drawn(indicators, rng))):
        found[name] = solve(curves, (limit,), alpha=1.0, outliers="repair").pairs()
    return found


def budget_of(indicators: Indicators, budget: str) -> Budget:
    """``w3a3``, so many bits for each weight, or so many BitOps for each multiply-accumulate of the searched layers."""
    if _is_like(budget):
        return like_budget(indicators, *parse_like(budget))
    if budget.startswith(WEIGHTS):
        [limit] = budgets_of("max_avg_weight_bits", indicators, float(budget.removeprefix(WEIGHTS)))
        return limit
    one = like_budget(indicators, 1, 1)
    return replace(one, limit=int(one.limit * float(budget)))


def _is_like(budget: str) -> bool:
    return budget.startswith("w") and not budget.startswith(WEIGHTS)


def backwards(indicators: Indicators) -> Indicators:
    """Every layer with the curve of the layer at the other end of the ranking, weights and activations apart."""
    layers = indicators.layers
    heads = list(dict.fromkeys(layer.act_group or layer.name for layer in layers))
    curves = {layer.act_group or layer.name: layer.act for layer in reversed(layers)}
    weights = opposite({layer.name: layer.weight for layer in layers})
    acts = opposite({head: curves[head] for head in heads})
    return replace(
        indicators,
        layers=tuple(
            replace(layer, weight=weights[layer.name], act=acts[layer.act_group or layer.name]) for layer in layers
        ),
    )


def opposite(curves: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """The most important name gets the curve of the least important, and so on."""
    ranked = sorted(curves, key=lambda name: sum(curves[name]))
    return {name: curves[other] for name, other in zip(ranked, reversed(ranked), strict=True)}


def drawn(indicators: Indicators, rng: np.random.Generator) -> Indicators:
    """Falling curves of random numbers."""

    def curve() -> tuple[float, ...]:
        return tuple(sorted(rng.random(len(indicators.bits)).tolist(), reverse=True))

    acts = {layer.act_group or layer.name: curve() for layer in indicators.layers}
    layers = (
        replace(layer, weight=curve(), act=acts[layer.act_group or layer.name], measures=None)
        for layer in indicators.layers
    )
    return replace(indicators, layers=tuple(layers))


def trained(
    subject: Subject,
    joint: QuantizedModel,
    indicators: Indicators,
    pairs: Pairs,
    seed: int,
    budget: str,
    name: str,
    options: argparse.Namespace,
) -> Line:
    """Preview and fine-tune one policy; the test split is looked at once."""
    data = subject.joint_data
    seen = preview(joint, pairs, train=data.split("train"), held=data.split("val"), seed=seed)
    traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
    model = model_of_policy(traced, subject.placement, pairs)
    if options.start == "joint":
        inherit(model, joint)
    else:
        model.initialise_scales(subject.first_images())
        model.set_bits(pairs)
    steps = options.steps
    settings = finetune_settings(len(data.split("train")))
    settings = replace(
        settings,
        steps=steps,
        warmup_steps=steps // 20,
        candidates=1,
        batchnorm_images=BATCHNORM_IMAGES,
        channels_last=True,
    )
    everything = DataSet(
        name=data.name,
        classes=data.classes,
        splits={**data.splits, "test": subject.dataset.split("test")},
        fingerprint=data.fingerprint,
        augment=data.augment,
    )
    found = finetune(
        model,
        pairs,
        everything,
        settings=settings,
        seed=seed,
        float_top1=Top1(val=float("nan"), test=float("nan")),
        teacher=traced.graph_module,
        foreign_weights=True,
        report=said,
    )
    macs = {layer.name: layer.macs for layer in indicators.layers}
    weights = {layer.name: layer.num_weights for layer in indicators.layers}
    return Line(
        seed=seed,
        budget=budget,
        policy=name,
        bits=" ".join(f"{weight}{act}" for weight, act in pairs.values()),
        times_macs=sum(macs[layer] * weight * act for layer, (weight, act) in pairs.items()) / sum(macs.values()),
        weight_bits=sum(weights[layer] * weight for layer, (weight, _) in pairs.items()) / sum(weights.values()),
        preview=seen.top1,
        preview_loss=seen.loss,
        held=found.top1.val,
        test=found.top1.test,
    )


def said(done: int, total: int, note: str = "") -> None:
    if done % 50 == 0 or done == total:
        print(f"  {done}/{total} {note}", file=sys.stderr, flush=True)


def table(lines: list[Line]) -> Iterator[str]:
    """Means over seeds, and the paired difference to the best uniform policy of the same seed."""
    yield "| budget | policy | seeds | cost | preview | held after | test after | test - best uniform |"
    yield "|---|---|---|---|---|---|---|---|"
    for budget in dict.fromkeys(line.budget for line in lines):
        group = [line for line in lines if line.budget == budget]
        for name in dict.fromkeys(line.policy for line in group):
            mine = [line for line in group if line.policy == name]
            yield " | ".join(
                (
                    f"| {budget}",
                    name,
                    str(len(mine)),
                    f"{fmean(map(_cost, mine)):.2f}",
                    *(_mean([getattr(line, key) for line in mine]) for key in ("preview", "held", "test")),
                    f"{_against_uniform(mine, lines)} |",
                )
            )


def _against_uniform(mine: list[Line], lines: list[Line]) -> str:
    """Paired over seeds: against the uniform policy of the same seed within the budget that is best on held images."""
    differences = []
    for line in mine:
        fitting = [
            other
            for other in lines
            if other.seed == line.seed
            and other.policy.startswith("uniform")
            and other.budget.startswith(WEIGHTS) == line.budget.startswith(WEIGHTS)
            and _cost(other) <= _limit(line) + 1e-9
        ]
        if fitting and not line.policy.startswith("uniform"):
            differences.append(line.test - max(fitting, key=lambda other: other.held).test)
    return _mean(differences, sign=True) if differences else ""


def _cost(line: Line) -> float:
    return line.weight_bits if line.budget.startswith(WEIGHTS) else line.times_macs


def _limit(line: Line) -> float:
    if not _is_like(line.budget):
        return float(line.budget.removeprefix(WEIGHTS))
    weight, act = parse_like(line.budget)
    return float(weight * act)


def _mean(values: list[float], *, sign: bool = False) -> str:
    text = f"{fmean(values):+.2f}" if sign else f"{fmean(values):.2f}"
    return text if len(values) < 2 else f"{text} ({stdev(values):.2f})"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
