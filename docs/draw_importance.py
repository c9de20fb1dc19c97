"""Draw the two pictures of docs/importance.md from committed figures: python docs/draw_importance.py"""

import json
import math
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from limpq_deploy.report.drawing import LINE, MAIN, OTHER, TEXT, Dot, Drawing, Line, Shape, Text, to_svg

FOLDER = Path(__file__).with_name("pictures")
FIGURES = Path(__file__).parents[1] / "benchmarks/float_nets"
WIDTH = 900
THREE = 1
"""Where 3 bits stand among the candidates 2 to 6."""


def importance_layers() -> Drawing:
    """Weights at 3 bits: what the learned scale and what `kl` says of every layer of the MobileNetV2-like network."""
    records = [json.loads(file.read_text()) for file in sorted(FIGURES.glob("mobilenet-*.indicators.json"))]
    layers = [layer["name"] for layer in records[0]["layers"]]
    alone = depthwise()
    shapes = key(("depthwise", MAIN, False), ("1x1 and others", OTHER, True))
    for top, title, value in (
        (40, "learned scale at 3 bits", lambda layer: layer["weight"][THREE]),
        (240, "kl at 3 bits", lambda layer: layer["measures"]["kl"]["weight"][THREE]),
    ):
        heights = [fmean(value(record["layers"][at]) for record in records) for at in range(len(layers))]
        shapes += panel(top, title, heights, [name in alone for name in layers])
    shapes.append(Text(at=(WIDTH / 2, 440), content="layers, from the input to the output", anchor="middle"))
    label = f"Importance of the weights of {len(layers)} layers at 3 bits, mean of {len(records)} seeds, two measures"
    return Drawing(width=WIDTH, height=450, label=label, shapes=tuple(shapes))


def depthwise() -> set[str]:
    """Names of the depthwise convolutions."""
    sys.path.insert(0, str(FIGURES.parent))
    from float_nets_made import mobilenet

    convolutions = {name: module for name, module in mobilenet().named_modules() if hasattr(module, "groups")}
    return {name for name, module in convolutions.items() if int(str(module.groups)) > 1}


def panel(top: float, title: str, values: list[float], marked: list[bool]) -> list[Shape]:
    """Dots of one measure over a logarithmic axis, 150 pixels high."""
    low, high = math.log(min(values)) - 0.15, math.log(max(values)) + 0.15
    left, floor = 90.0, top + 150
    shapes: list[Shape] = [Text(at=(left, top), content=title, ink=TEXT, bold=True)]
    for tick in ticks(math.exp(low), math.exp(high)):
        y = floor - 130 * (math.log(tick) - low) / (high - low)
        shapes += [
            Line(points=((left, y), (WIDTH - 20, y)), ink=LINE),
            Text(at=(left - 8, y + 4), content=f"{tick:g}", anchor="end"),
        ]
    for at, (value, strong) in enumerate(zip(values, marked, strict=True)):
        x = left + 20 + (WIDTH - 150) * at / (len(values) - 1)
        y = floor - 130 * (math.log(value) - low) / (high - low)
        shapes.append(Dot(at=(x, y), radius=4.5, ink=MAIN if strong else OTHER, hollow=not strong))
    return shapes


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between two values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    return [tick for tick in every if low <= tick <= high]


def key(*entries: tuple[str, Any, bool]) -> list[Shape]:
    """One row of names at the upper edge."""
    shapes: list[Shape] = []
    for place, (name, ink, hollow) in enumerate(entries):
        left = WIDTH - 20 - 130.0 * (len(entries) - place)
        shapes += [
            Dot(at=(left, 20), radius=4.5, ink=ink, hollow=hollow),
            Text(at=(left + 10, 24), content=name),
        ]
    return shapes


def importance_budgets() -> Drawing:
    """Test top-1 after fine-tuning of every policy of the MobileNetV2-like network, by budget: mean and spread."""
    kept = [json.loads(line) for line in (FIGURES / "mobilenet-lines.jsonl").read_text().splitlines()]
    searched = {line["budget"] for line in kept if line["policy"] == "kl"}
    lines = [line for line in kept if line["budget"] in searched]
    budgets = list(dict.fromkeys(line["budget"] for line in sorted(lines, key=costly)))
    policies = sorted({line["policy"].split()[0] for line in lines}, key=ORDER.index)
    low = min(line["test"] for line in lines) - 0.5
    high = max(line["test"] for line in lines) + 0.5
    left, floor, top = 70.0, 330.0, 40.0
    shapes: list[Shape] = []
    for tick in range(math.ceil(low), math.floor(high) + 1):
        y = floor - (floor - top) * (tick - low) / (high - low)
        shapes += [
            Line(points=((left, y), (WIDTH - 20, y)), ink=LINE),
            Text(at=(left - 8, y + 4), content=f"{tick} %", anchor="end"),
        ]
    width = (WIDTH - 20 - left) / len(budgets)
    for place, budget in enumerate(budgets):
        middle = left + width * (place + 0.5)
        shapes.append(Text(at=(middle, floor + 64), content=NAMES.get(budget, budget), ink=TEXT, anchor="middle"))
        for number, policy in enumerate(policies):
            found = tests([line for line in lines if (line["budget"], line["policy"].split()[0]) == (budget, policy)])
            if not found:
                continue
            x = left + width * (place + (number + 1) / (len(policies) + 1))
            mean, spread = fmean(found), stdev(found) if len(found) > 1 else 0.0
            ends = (mean - spread, mean, mean + spread)
            at = [floor - (floor - top) * (value - low) / (high - low) for value in ends]
            plain, said = policy == "uniform", f"{policy} {mean:.2f} %"
            ink = OTHER if plain else MAIN
            shapes += [
                Line(points=((x, at[0]), (x, at[2])), ink=ink, width=1.6),
                Dot(at=(x, at[1]), radius=4.5, ink=ink, hollow=plain, hover=said),
                Text(at=(x + 4, floor + 8), content=policy, size=10.0, anchor="end", upright=True),
            ]
    label = f"Test top-1 after fine-tuning of {len(policies)} kinds of policies at {len(budgets)} budgets"
    return Drawing(width=WIDTH, height=410, label=label, shapes=tuple(shapes))


ORDER = ("uniform", "kl", "scale", "loss", "fisher", "reversed", "random")
NAMES = {"weights3": "3 bits a weight", "7.5": "7.5 BitOps / MAC"}


def tests(lines: list[dict[str, Any]]) -> list[float]:
    """Test top-1 of one kind of policy; of several uniform ones that which is best on held-out images."""
    names = {line["policy"]: fmean(one["held"] for one in lines if one["policy"] == line["policy"]) for line in lines}
    return [line["test"] for line in lines if line["policy"] == max(names, key=lambda name: names[name])]


def costly(line: dict[str, Any]) -> tuple[bool, float]:
    """Budgets of BitOps by their number, those of the size behind them."""
    return line["budget"].startswith("weights"), -line["times_macs"]


PICTURES = (importance_layers, importance_budgets)

if __name__ == "__main__":
    for picture in PICTURES:
        (FOLDER / f"{picture.__name__}.svg").write_text(to_svg(picture()), encoding="utf-8")
