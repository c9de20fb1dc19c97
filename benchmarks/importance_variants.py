"""Variants of the measures of importance: do pairs, moves around a uniform point or channels beat ``kl`` and ``scale``?

Beside `importance.py`, on its joint networks, images, fine-tuning and seeds, so that lines can be held against its
lines (--beside). The variants, each a policy of the program at the budget:

``pairs``: ``kl``, and of neighbours what they do together beyond that (`importance_pairs`). ``moves 1``, ``moves 2``:
the change of the divergence from float when one tensor leaves the budget's uniform point, by at most so many bits
(`importance_moves`); ``kl of float``: the same from the widest candidate, float being the joint network unquantized.
``norm``, ``energy``: the learned scale times the root of the tensor's size, and that squared;
``channels mean``, ``max``, ``sum``: the noise in the channels of the layer's output (`importance_channels`). ``...,
weights / 4``: a weight's importance counts a quarter, as fine-tuning mends weights sooner than activations.

--rank previews every variant and trains none. Without it the variants of --only are fine-tuned. Measures, previews and
lines are kept in --out and taken from there when the command is given again. The recipe is to be chosen by ``held``.
--judge trains none either: it writes down what every measure thinks of each policy that was fine-tuned.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import importance
import torch
from importance import Pairs
from importance_variants_measures import VARIANTS, Seed, policy_of, read_of, worth
from importance_variants_page import page

from limpq_deploy.importance.preview import preview
from limpq_deploy.policy.importance_names import MEASURES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budgets", nargs="+", default=["w3a3", "weights3"], help="with a uniform point")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, help="variants to train or rank")
    parser.add_argument("--model", default="float_nets_made:mobilenet", help="as of importance.py")
    parser.add_argument("--joint-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=300, help="fine-tuning steps of 64 images")
    parser.add_argument("--images", type=int, default=512, help="that moves and channels are measured on; pairs: half")
    parser.add_argument("--rank", action="store_true", help="preview the variants and train none")
    parser.add_argument("--judge", action="store_true", help="only hold what measures think of lines against them")
    parser.add_argument("--beside", type=Path, help="lines of importance.py to compare with, of the same settings")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps: shows that it runs, and no more")
    parser.add_argument("--smoke", action="store_true", help="two steps, a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what --out holds of these settings")
    parser.add_argument("--out", type=Path, default=Path("limpq-importance"))
    options = parser.parse_args()
    options.start = "float"
    if options.quick:
        options.seeds, options.joint_steps, options.steps, options.images = options.seeds[:1], 10, 10, 64
    if options.smoke:
        options.seeds, options.joint_steps, options.steps, options.images = options.seeds[:1], 2, 2, 16
        options.only, options.budgets = ["pairs", "moves 1"], ["w3a3"]
    options.out.mkdir(parents=True, exist_ok=True)
    kinds = ("variants", "previews", "judged")
    files = {kind: options.out / f"{importance.of_settings(options)}-{kind}.jsonl" for kind in kinds}
    if not options.table:
        run(options, files)
    found = {
        "lines": _read(files["variants"]),
        "previews": _read(files["previews"]),
        "judged": _read(files["judged"]),
        "beside": _beside(options),
        "measures": [
            _told(file) for file in sorted(options.out.glob(f"{importance.of_network(options)}-*.variants.json"))
        ],
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()},
    }
    print(json.dumps(found) if options.json else page(found))


def run(options: argparse.Namespace, files: dict[str, Path]) -> None:
    """Train (or preview) what the files lack, and append it; or judge what there is."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    subject = importance.opened(options.model, options.out, smoke=options.smoke)
    file = files["previews" if options.rank else "variants"]
    done = {(line["seed"], line["budget"], line["policy"]) for line in _read(file)}
    for number in options.seeds:
        indicators, joint = importance.learned(subject, number, options)
        seed = Seed(
            **{"number": number, "subject": subject, "indicators": indicators, "joint": joint},
            **{"images": options.images, "file": _measures(options, number)},
        )
        if options.judge:
            lines = [line for line in _beside(options) if line["seed"] == number]
            _append(files["judged"], judged(seed, lines, options.only, _read(files["judged"])))
            continue
        for budget in options.budgets:
            for name in options.only:
                if (number, budget, name) not in done:
                    pairs = policy_of(seed, budget, name)
                    made = ranked if options.rank else trained
                    _append(file, [made(seed, pairs, budget, name, options)])


def ranked(seed: Seed, pairs: Pairs, budget: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The preview of a policy, with its bits."""
    del options
    data = seed.subject.joint_data
    seen = preview(seed.joint, pairs, train=data.split("train"), held=data.split("val"), seed=seed.number)
    bits = " ".join(f"{weight}{act}" for weight, act in pairs.values())
    return {
        **{"seed": seed.number, "budget": budget, "policy": name, "bits": bits},
        **{"preview": seen.top1, "preview_loss": seen.loss},
    }


def trained(seed: Seed, pairs: Pairs, budget: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One policy, fine-tuned as `importance.trained` does."""
    return asdict(
        importance.trained(seed.subject, seed.joint, seed.indicators, pairs, seed.number, budget, name, options)
    )


def judged(
    seed: Seed, lines: list[dict[str, Any]], variants: list[str], known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What every measure and variant thinks of each fine-tuned policy, but for what is known."""
    done = {tuple(one[key] for key in ("seed", "budget", "policy", "measure")) for one in known}
    names = [layer.name for layer in seed.indicators.layers]
    for line in lines:
        bits = [(int(pair[0]), int(pair[1])) for pair in line["bits"].split()]
        pairs = dict(zip(names, bits, strict=True))
        for name in (*MEASURES, *variants):
            if (seed.number, line["budget"], line["policy"], name) not in done:
                value = worth(read_of(seed, line["budget"], name, reach=False), pairs)
                yield {**{key: line[key] for key in ("seed", "budget", "policy")}, "measure": name, "objective": value}


def _measures(options: argparse.Namespace, seed: int) -> Path:
    return options.out / f"{importance.of_network(options)}-{seed}-{options.images}.variants.json"


def _told(file: Path) -> dict[str, Any]:
    """Of one seed's measures what the page says: seconds, and how many steps of a bit make it worse."""
    found = json.loads(file.read_text())
    told = {name: value for name, value in found.items() if name.endswith(", seconds")}
    for name, curves in found.items():
        if name.startswith(("moves", "kl of float")) and not name.endswith("seconds"):
            moved = [curve for kind in curves.values() for curve in kind.values() if any(curve)]
            steps = [both for curve in moved for both in pairwise(curve)]
            told[f"{name}, steps"] = len(steps)
            told[f"{name}, rising steps"] = sum(left < right for left, right in steps)
    seed, images = file.name.partition(".")[0].split("-")[-2:]
    return {"seed": int(seed), "images": int(images), **told}


def _beside(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Lines of importance.py at these budgets and seeds."""
    lines = [] if options.beside is None else _read(options.beside)
    return [line for line in lines if line["budget"] in options.budgets and line["seed"] in options.seeds]


def _append(file: Path, lines: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    for line in lines:
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    main()
