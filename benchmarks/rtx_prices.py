"""Predicted against rebuilt: what NVIDIA's compiler says that engines move, and what the price table said before.

Each network is priced (`export.timing.pricing`, engines that mix 8 and 16 bits), then 20 other policies are
predicted and built. Weights are fresh and scales nobody's; nothing is run. Batch 8, sm89.

Keys, by network: `engines` that prices come from, `bytes` and `kernels` {`mean_error`, `worst_error`} (relative),
`policies` [{`built_mb`, `predicted_mb`, `built_kernels`, `predicted_kernels`}], `seconds` (None where engines of an
earlier run were at hand). With ``--graphs`` of several numbers, `by_engines` instead: the first three keys for each,
from engines of one sequence, and `beyond`, the policies whose bytes are more than 2 % off. With ``--near``, `near`
besides: for the policies that were furthest off, `own` (error of each before it was built), `before` and `after`
{`mean_error`, `worst_error`, `policies`}: of others that differ from one of them in two layers, predicted before and
after the table knew engines of the policy and around it.

    python benchmarks/rtx_prices.py --json
    python benchmarks/rtx_prices.py --quick --json      ResNet-20 alone
    python benchmarks/rtx_prices.py --quick --near --json
    python benchmarks/rtx_prices.py --quick --graphs 32,64,96,128,160 --json
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from compiler_forms import template_of

from limpq_deploy.calibration.files import cache_folder
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import TENSORRT_RTX
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import compiler_name
from limpq_deploy.export.timing.cost_table import CostTable, Moved
from limpq_deploy.export.timing.predictions import predicted
from limpq_deploy.export.timing.pricing import PricingSettings, built_moved, price
from limpq_deploy.model.edges import layer_edges
from limpq_deploy.model.layers import trace
from limpq_deploy.model.zoo import create_model

NETWORKS = {
    "resnet20": "resnet20",
    "mobilenet_v2": "torchvision/mobilenet_v2",
    "resnet18": "torchvision/resnet18",
    "resnet50": "torchvision/resnet50",
}
PAIRS = ((8, 8), (16, 16))
POLICIES = 20
FURTHEST, TWICE_CHANGED = 3, 6
"""Policies that are built near, and others around each that no table knows."""

BEYOND = 0.02
"""Error of the bytes of a policy that is counted."""


Policy = dict[str, tuple[int, int]]


def measure(model: str, settings: PricingSettings, *, near: bool = False) -> dict[str, Any]:
    """The table of a network against policies that it does not know."""
    started, at_hand = time.perf_counter(), any((cache_folder() / "priced").glob("*"))
    template, placement = template_of(model)
    placement = replace(placement, target=TENSORRT_RTX.name)
    torch.manual_seed(0)
    module, _ = create_model(model)
    edges = [(edge.producer, edge.consumer) for edge in layer_edges(trace(module.eval(), placement.input_shape))]

    def report(done: int, total: int, note: str) -> None:
        print(f"{model}: {done} of {total}, {note}", file=sys.stderr, flush=True)

    def priced(*beside: Policy) -> CostTable:
        return price(template, placement, edges, PAIRS, settings, model_sha256="", report=report, near=beside)

    def moved(policy: Policy) -> Moved:
        return sum(built_moved(template, placement, policy, settings).values(), Moved())

    table = priced()
    rows, policies = [], others(placement)
    for policy in policies:
        built = moved(policy)
        guess = predicted(table, policy)
        rows.append(
            {
                "built_mb": round(built.bytes / 1e6, 3),
                "predicted_mb": round(guess.bytes / 1e6, 3),
                "built_kernels": built.kernels,
                "predicted_kernels": round(guess.kernels, 2),
            }
        )
        print(model, json.dumps(rows[-1]), file=sys.stderr, flush=True)
    own = {}
    if near:
        ranked = sorted(policies, key=lambda policy: -abs(predicted(table, policy).bytes / moved(policy).bytes - 1))
        own["near"] = _near(ranked[:FURTHEST], table, priced, moved)
    return {
        "engines": 2 + len(table.checks),
        "bytes": errors([row["predicted_mb"] / row["built_mb"] - 1 for row in rows]),
        "kernels": errors([row["predicted_kernels"] / row["built_kernels"] - 1 for row in rows]),
        "policies": rows,
        **own,
        "seconds": None if at_hand else round(time.perf_counter() - started, 1),
    }


def _near(
    policies: list[Policy],
    table: CostTable,
    priced: Callable[..., CostTable],
    moved: Callable[[Policy], Moved],
) -> dict[str, Any]:
    """What building policies and some around them does for others around them."""
    generator, before, after = random.Random(7), list[float](), list[float]()
    for policy in policies:
        mended = priced(policy)
        by_unit = {unit: [layer for layer in policy if table.units[layer] == unit] for unit in table.units.values()}
        units = [unit for unit, layers in by_unit.items() if layers]
        for _ in range(TWICE_CHANGED):
            other = dict(policy)
            for unit in generator.sample(units, 2):
                other |= {layer: PAIRS[policy[layer] == PAIRS[0]] for layer in by_unit[unit]}
            built = moved(other).bytes
            before.append(predicted(table, other).bytes / built - 1)
            after.append(predicted(mended, other).bytes / built - 1)
    return {
        "own": [round(abs(predicted(table, policy).bytes / moved(policy).bytes - 1), 4) for policy in policies],
        "before": errors(before) | {"policies": len(before)},
        "after": errors(after) | {"policies": len(after)},
    }


def others(placement: Placement) -> list[Policy]:
    """Policies of shares of 8 bits from few to nearly all; layers that read one tensor have one pair."""
    generator, found = random.Random(2026), []
    for number in range(POLICIES):
        share, by_input = (number + 0.5) / POLICIES, Policy()
        for layer in placement.searched:
            by_input.setdefault(layer.input, PAIRS[generator.random() > share])
        found.append({layer.name: by_input[layer.input] for layer in placement.searched})
    return found


def _errors(found: dict[str, Any]) -> dict[str, Any]:
    beyond = sum(abs(one["predicted_mb"] / one["built_mb"] - 1) > BEYOND for one in found["policies"])
    return {name: found[name] for name in ("engines", "bytes", "kernels")} | {"beyond": beyond}


def errors(values: list[float]) -> dict[str, float]:
    sizes = [abs(value) for value in values]
    return {"mean_error": round(fmean(sizes), 4), "worst_error": round(max(sizes), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-20 alone")
    parser.add_argument("--smoke", action="store_true", help="resnet8 with few engines, that it runs to its end")
    parser.add_argument("--networks", help="some of them, such as resnet20,resnet50")
    parser.add_argument("--graphs", help="engines that mix precisions, such as 32,64 [default: those of profile]")
    parser.add_argument("--near", action="store_true", help="also what building policies and some around them mends")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    names = options.networks.split(",") if options.networks else ["resnet20"] if options.quick else list(NETWORKS)
    models = {"resnet8": "resnet8"} if options.smoke else {name: NETWORKS[name] for name in names}
    settings = PricingSettings(batch=8, graphs=4 if options.smoke else None)
    if options.graphs:
        counts = sorted(map(int, options.graphs.split(",")))
        found: dict[str, Any] = {
            name: {"by_engines": [_errors(measure(model, replace(settings, graphs=count))) for count in counts]}
            for name, model in models.items()
        }
    else:
        found = {name: measure(model, settings, near=options.near) for name, model in models.items()}
    found |= {"compiler": compiler_name(), "batch": settings.batch}
    print(json.dumps(found) if options.json else page(found))


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown tables: of networks, then of numbers of engines."""
    networks = {name: one for name, one in found.items() if isinstance(one, dict)}
    lines = ["| network | engines | MB of the 20 | bytes: error on average, at most | kernels | s |", "|" + "---|" * 6]
    for name, one in networks.items():
        if "policies" in one:
            sizes = [policy["built_mb"] for policy in one["policies"]]
            took = "-" if one["seconds"] is None else f"{one['seconds']:.0f}"
            cells = name, one["engines"], f"{min(sizes):.1f} to {max(sizes):.1f}", *_cells(one), took
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| engines | bytes: error on average, at most | kernels | policies beyond 2 % |", "|" + "---|" * 4]
    for one in networks.values():
        for few in one.get("by_engines", ()):
            lines.append(f"| {few['engines']} | {' | '.join(_cells(few))} | {few['beyond']} |")
    lines += ["", "| two layers from a policy that was furthest off | bytes: error on average, at most | policies |"]
    lines.append("|" + "---|" * 3)
    for name, one in networks.items():
        for when, said in (("before", "before --near"), ("after", "after --near")) if "near" in one else ():
            few = one["near"][when]
            lines.append(f"| {name}, {said} | {_shown(few)} | {few['policies']} |")
    return "\n".join(lines)


def _cells(found: dict[str, Any]) -> list[str]:
    return [_shown(found["bytes"]), _shown(found["kernels"])]


def _shown(part: dict[str, float]) -> str:
    return f"{100 * part['mean_error']:.2f}, {100 * part['worst_error']:.2f} %"


if __name__ == "__main__":
    main()
