"""How far the program's answer is from what others find: learned bit-widths, Hessian traces, gradient scores.

Each rival gives a policy for a budget, which is previewed and fine-tuned exactly as the policies of `importance.py`, on
the same joint networks and seeds, so that its line stands beside the lines of that tournament (``--beside``). ``learned
bits``: widths trained for this one budget (`fractional_bits.py`), from the joint network, for as many steps as
fine-tuning, then rounded within the budget. ``hessian`` and ``gradient``: the program on scores of the float network
(`rival_scores.py`). They are measured here and are no part of the product.

Keys: `lines` (of the rivals, each with `widths` as learned and `used`, the share of the budget that those take),
`beside` (the tournament's lines of the same seeds and budgets), `settings`, `machine`.

    python benchmarks/learned_bits.py --seeds 0 1 2 --out DIR --beside DIR/float_nets_made-mobilenet-300-float-300.jsonl

Finished lines and joint networks are kept in --out and taken from there when the command is given again; ``--table``
takes what is there and trains nothing.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from fractional_bits import learn
from importance import Line, budget_of, learned, of_settings, opened, said, trained
from importance import table as lines_table
from rival_scores import MOST, STEPS, GradientScores, HessianTraces, batches_of, calibrated

from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.train.settings import finetune_settings

LEARNED = "learned bits"
RIVALS = (LEARNED, "hessian", "gradient")
TRACE_IMAGES, BATCH = 128, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budgets", nargs="+", default=["w3a3", "weights3"])
    parser.add_argument("--only", nargs="+", choices=RIVALS, default=RIVALS)
    parser.add_argument("--model", default="float_nets_made:mobilenet")
    parser.add_argument("--joint-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning, and of learning widths")
    parser.add_argument("--beside", type=Path, help="lines of importance.py")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps: shows that it runs, and no more")
    parser.add_argument("--smoke", action="store_true", help="two steps, a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what --out holds of these settings")
    parser.add_argument("--out", type=Path, default=Path("limpq-learned-bits"))
    options = parser.parse_args()
    options.start, options.score_steps, options.samples = "float", STEPS, MOST
    if options.quick:
        options.seeds, options.joint_steps, options.steps = options.seeds[:1], 10, 10
        options.score_steps, options.samples = 4, 4
    if options.smoke:
        options.seeds, options.joint_steps, options.steps = options.seeds[:1], 2, 2
        options.budgets, options.score_steps, options.samples = options.budgets[:1], 1, 1
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"rivals-{of_settings(options)}.jsonl"
    if not options.table:
        run(options, file)
    mine = [line for line in rows(file) if line["seed"] in options.seeds and line["budget"] in options.budgets]
    of = {(line["seed"], line["budget"]) for line in mine}
    beside = rows(options.beside) if options.beside is not None else []
    found = {
        "lines": mine,
        "beside": [line for line in beside if (line["seed"], line["budget"]) in of],
        "settings": {"model": options.model, "joint_steps": options.joint_steps, "steps": options.steps},
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()},
    }
    print(json.dumps(found) if options.json else page(found))


def run(options: argparse.Namespace, file: Path) -> None:
    """Train every line that ``file`` lacks, and append it."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    subject = opened(options.model, options.out, smoke=options.smoke)
    done = {(line["seed"], line["budget"], line["policy"]) for line in rows(file)}
    for seed in options.seeds:
        indicators, joint = learned(subject, seed, options)
        scores: dict[str, Indicators] = {}
        for budget in options.budgets:
            for name in options.only:
                if (seed, budget, name) in done or (name == "gradient" and budget.startswith("weights")):
                    continue
                kept = file.with_name(f"{file.stem}-{seed}-{budget}-{name.replace(' ', '-')}.json")
                if not kept.exists():
                    kept.write_text(
                        json.dumps(found_by(name, subject, joint, indicators, budget, seed, scores, options))
                    )
                policy = json.loads(kept.read_text())
                pairs = {layer: (weight, act) for layer, (weight, act) in policy["pairs"].items()}
                more = {key: value for key, value in policy.items() if key != "pairs"}
                line = trained(subject, joint, indicators, pairs, seed, budget, name, options)
                with file.open("a") as out:
                    out.write(json.dumps(asdict(line) | more) + "\n")
                print(json.dumps(asdict(line)), file=sys.stderr, flush=True)


def found_by(
    name: str,
    subject: Subject,
    joint: QuantizedModel,
    indicators: Indicators,
    budget: str,
    seed: int,
    scores: dict[str, Indicators],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """A rival's policy (`pairs`), and what is recorded beside its line. ``scores`` keeps those of this seed."""
    start, limit, data = time.process_time(), budget_of(indicators, budget), subject.joint_data
    if name == LEARNED:
        settings = finetune_settings(len(data.split("train")))
        settings = replace(settings, steps=options.steps, warmup_steps=options.steps // 20, candidates=1)
        teacher = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape)).graph_module
        found = learn(joint, indicators, limit, data, teacher, settings=settings, seed=seed, report=said)
        pairs, more = found.pairs, {"widths": found.widths, "used": round(found.used, 5)}
    else:
        if name not in scores:
            scores[name] = scored(name, subject, indicators, seed, options)
        pairs, more = PolicySearch()(scores[name], (limit,), alpha=1.0, outliers="repair").pairs(), {}
    return {"pairs": pairs, **more, "cpu_seconds": round(time.process_time() - start, 1)}


def scored(name: str, subject: Subject, indicators: Indicators, seed: int, options: argparse.Namespace) -> Indicators:
    """Importance of the float network by a rival's measure, on held-out images."""
    traced = equalise_channels(trace(subject.model.eval(), subject.preprocess.shape))
    held = subject.joint_data.split("val")
    model = calibrated(traced, subject.placement, indicators.bits, subject.first_images())
    if name == "hessian":
        size = min(TRACE_IMAGES, len(held))
        traces = HessianTraces(model, batches_of(held, size, size, seed), seed)
        traces.run(options.samples)
        return traces.indicators(indicators)
    scores = GradientScores(model, indicators.bits)
    left = options.score_steps
    for epoch in range(left):  # ModelOpt goes over its images again where they end
        for images_NCHW, labels in batches_of(held, len(held), min(BATCH, len(held)), seed + 1000 * epoch)[:left]:
            scores.add(images_NCHW, labels)
            left -= 1
        if left <= 0:
            break
    return scores.indicators(indicators)


def rows(file: Path) -> list[dict[str, Any]]:
    """Lines of a JSONL file; none where there is none."""
    return [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []


def page(found: dict[str, Any]) -> str:
    """Tables: all policies, rivals less the others, widths, how far these are apart, and what was learned."""
    names = Line.__slots__
    lines = [Line(**{name: one[name] for name in names}) for one in (*found["beside"], *found["lines"])]
    tables = lines_table(lines), differences(lines), policies(lines), distances(lines), learning(found)
    return "\n\n".join("\n".join(table) for table in tables)


def differences(lines: list[Line]) -> Iterator[str]:
    """Paired over seeds: every rival less every policy of the tournament."""
    yield "| budget | rival | less | seeds | preview loss | preview | held after | test after |"
    yield "|" + "---|" * 8
    for budget in dict.fromkeys(line.budget for line in lines):
        group = [line for line in lines if line.budget == budget]
        by = {(line.policy, line.seed): line for line in group}
        others = [name for name in dict.fromkeys(line.policy for line in group) if name not in RIVALS]
        for rival in (name for name in RIVALS if any(line.policy == name for line in group)):
            for other in others:
                seeds = [line.seed for line in group if line.policy == rival and (other, line.seed) in by]
                if seeds:
                    cells = [
                        spread([getattr(by[rival, s], key) - getattr(by[other, s], key) for s in seeds], digits)
                        for key, digits in (("preview_loss", 4), ("preview", 2), ("held", 2), ("test", 2))
                    ]
                    yield f"| {budget} | {rival} | {other} | {len(seeds)} | {' | '.join(cells)} |"


def policies(lines: list[Line]) -> Iterator[str]:
    """Bits of the rivals and of the program on ``kl``."""
    yield "| budget | seed | policy | weight and activation bits, layer by layer |"
    yield "|" + "---|" * 4
    for budget in dict.fromkeys(line.budget for line in lines):
        for seed in sorted({line.seed for line in lines}):
            mine = {line.policy: line.bits for line in lines if (line.budget, line.seed) == (budget, seed)}
            for name in ("kl", *RIVALS):
                if name in mine:
                    yield f"| {budget} | {seed} | {name} | {mine[name]} |"


def distances(lines: list[Line]) -> Iterator[str]:
    """How many bits apart the widths of two policies of one seed are, the mean over tensors and seeds."""
    ends = ("kl", *(name for name in RIVALS if any(line.policy == name for line in lines)))
    yield f"| budget | policy | {' | '.join(f'bits from {end}' for end in ends)} |"
    yield "|" + "---|" * (2 + len(ends))
    for budget in dict.fromkeys(line.budget for line in lines):
        by = {(line.policy, line.seed): line.bits for line in lines if line.budget == budget}
        for name in dict.fromkeys(policy for policy, _ in by):
            each = [[apart(by[name, s], by[end, s]) for p, s in by if p == name and (end, s) in by] for end in ends]
            cells = [f"{fmean(one):.2f}" if one and name != end else "" for end, one in zip(ends, each, strict=True)]
            yield f"| {budget} | {name} | {' | '.join(cells)} |"


def learning(found: dict[str, Any]) -> Iterator[str]:
    """What learned widths took before they were rounded, and what they cost."""
    yield "| budget | seed | share of the budget before rounding | mean distance to whole bits | processor seconds |"
    yield "|" + "---|" * 5
    for line in found["lines"]:
        if line["policy"] == LEARNED:
            off = fmean(abs(width - round(width)) for width in line["widths"].values())
            told = f"{100 * line['used']:.1f} % | {off:.2f} | {line['cpu_seconds']:.0f}"
            yield f"| {line['budget']} | {line['seed']} | {told} |"


def apart(bits: str, other: str) -> float:
    """Mean absolute difference of two policies' widths."""
    pairs = zip(bits.replace(" ", ""), other.replace(" ", ""), strict=True)
    return fmean(abs(int(mine) - int(its)) for mine, its in pairs)


def spread(values: list[float], digits: int = 2) -> str:
    """Mean, and the standard deviation in brackets."""
    return f"{fmean(values):+.{digits}f}" + (f" ({stdev(values):.{digits}f})" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
