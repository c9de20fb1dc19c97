"""Predicted against rebuilt: what NVIDIA's compiler says that engines move, and what the price table said before.

Each network is priced (`export.timing.pricing`, engines that mix its formats), then 20 other policies are predicted
and built, and 20 of a second draw. Weights are fresh and scales nobody's; nothing is run. Batch 8, sm89.

Keys, by network: `formats`; `engines` that prices come from; `groups` {`groups`, `units`, `prices`}: how many there
are, units of the largest, prices of all; `bytes` and `kernels` {`mean_error`, `worst_error`} (relative); `beyond`: the
policies whose bytes are more than 2 % off; `policies` [{`built_mb`, `predicted_mb`, `built_kernels`,
`predicted_kernels`}]; `second`: the last four of the second draw; `pairs_alone`: `bytes`, `kernels` and `beyond` of
both draws by sums over two layers of all that groups are made of; `search_seconds`: CPU time of the longest of some
searches within bytes, importances made up; `seconds` (None where engines of an earlier run were at hand). With
``--graphs`` of several numbers, `by_engines` instead: `engines`, `bytes`, `kernels` and `beyond` for each, from engines
of one sequence. With ``--near``, `near` besides: for the policies that were furthest off, `own` (error of each before
it was built), `before` and `after` {`mean_error`, `worst_error`, `policies`}: of others that differ from one of them in
two layers, predicted before and after the table knew engines of the policy and around it.

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
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from compiler_forms import template_of
from rtx_search_time import longest_search

from limpq_deploy.calibration.files import cache_folder
from limpq_deploy.calibration.numbers.formats import FP8, pair_name
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import TENSORRT_RTX
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import compiler_name
from limpq_deploy.export.timing import price_fit
from limpq_deploy.export.timing.cost_table import CostTable, Moved
from limpq_deploy.export.timing.predictions import predicted
from limpq_deploy.export.timing.pricing import PricingSettings, built_moved, price
from limpq_deploy.model.edges import layer_edges
from limpq_deploy.model.layers import trace
from limpq_deploy.model.zoo import create_model

PAIRS = ((8, 8), (16, 16))
WITH_FP8 = ((8, 8), (FP8, FP8), (16, 16))
NETWORKS = {
    "resnet20": ("resnet20", PAIRS),
    "resnet20_fp8": ("resnet20", WITH_FP8),
    "mobilenet_v2": ("torchvision/mobilenet_v2", PAIRS),
    "resnet18": ("torchvision/resnet18", PAIRS),
    "resnet50": ("torchvision/resnet50", PAIRS),
}
POLICIES = 20
DRAWS = (2026, 7)
"""Seeds of the policies that are predicted."""

FURTHEST, TWICE_CHANGED = 3, 6
"""Policies that are built near, and others around each that no table knows."""

BEYOND = 0.02
"""Error of the bytes of a policy that is counted."""


Policy = dict[str, BitPair]


def measure(model: str, pairs: Sequence[BitPair], settings: PricingSettings, *, near: bool = False) -> dict[str, Any]:
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
        return price(template, placement, edges, pairs, settings, model_sha256="", report=report, near=beside)

    def moved(policy: Policy) -> Moved:
        return sum(built_moved(template, placement, policy, settings).values(), Moved())

    table = priced()
    first, second = (_against(table, others(placement, pairs, seed), moved) for seed in DRAWS)
    most, price_fit.MOST_TUPLES = price_fit.MOST_TUPLES, 1
    try:
        plain = priced()
    finally:
        price_fit.MOST_TUPLES = most
    own = {}
    if near:
        policies = others(placement, pairs, DRAWS[0])
        ranked = sorted(policies, key=lambda policy: -abs(predicted(table, policy).bytes / moved(policy).bytes - 1))
        own["near"] = _near(ranked[:FURTHEST], table, priced, moved)
    return {
        "formats": [pair_name(pair) for pair in pairs],
        "engines": len(pairs) + len(table.checks),
        "groups": {
            "groups": len(table.groups),
            "units": max((len(group.units) for group in table.groups), default=0),
            "prices": sum(len(group.prices) for group in table.groups),
        },
        **first,
        "second": second,
        "pairs_alone": [_few(_against(plain, others(placement, pairs, seed), moved)) for seed in DRAWS],
        "search_seconds": round(longest_search(table, placement, pairs), 2),
        **own,
        "seconds": None if at_hand else round(time.perf_counter() - started, 1),
    }


def _against(table: CostTable, policies: list[Policy], moved: Callable[[Policy], Moved]) -> dict[str, Any]:
    """What a table says of policies, and what their engines move."""
    rows = []
    for policy in policies:
        built, guess = moved(policy), predicted(table, policy)
        rows.append(
            {
                "built_mb": round(built.bytes / 1e6, 3),
                "predicted_mb": round(guess.bytes / 1e6, 3),
                "built_kernels": built.kernels,
                "predicted_kernels": round(guess.kernels, 2),
            }
        )
        print(table.model, json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {
        "bytes": errors([row["predicted_mb"] / row["built_mb"] - 1 for row in rows]),
        "kernels": errors([row["predicted_kernels"] / row["built_kernels"] - 1 for row in rows]),
        "beyond": sum(abs(row["predicted_mb"] / row["built_mb"] - 1) > BEYOND for row in rows),
        "policies": rows,
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


def others(placement: Placement, pairs: Sequence[BitPair], seed: int) -> list[Policy]:
    """Policies of shares of 8 bits from few to nearly all; layers that read one tensor have one pair."""
    generator, found = random.Random(seed), []
    for number in range(POLICIES):
        share, by_input = (number + 0.5) / POLICIES, Policy()
        for layer in placement.searched:
            if len(pairs) == len(PAIRS):
                by_input.setdefault(layer.input, pairs[generator.random() > share])
            else:
                by_input.setdefault(layer.input, generator.choices(pairs, [share, 1 - share, 0.5])[0])
        found.append({layer.name: by_input[layer.input] for layer in placement.searched})
    return found


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
    models = {"resnet8": ("resnet8", PAIRS)} if options.smoke else {name: NETWORKS[name] for name in names}
    settings = PricingSettings(batch=8, graphs=4 if options.smoke else None)
    if options.graphs:
        counts = sorted(map(int, options.graphs.split(",")))
        found: dict[str, Any] = {
            name: {"by_engines": [_few(measure(*model, replace(settings, graphs=count))) for count in counts]}
            for name, model in models.items()
        }
    else:
        found = {name: measure(*model, settings, near=options.near) for name, model in models.items()}
    found |= {"compiler": compiler_name(), "batch": settings.batch}
    print(json.dumps(found) if options.json else page(found))


def _few(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("engines", "bytes", "kernels", "beyond") if name in found}


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown tables: of networks, then of numbers of engines."""
    networks = {name: one for name, one in found.items() if isinstance(one, dict)}
    lines = ["| network, draw | engines | MB of the 20 | bytes: error on average, at most | kernels | beyond 2 % |"]
    lines.append("|" + "---|" * 6)
    for name, one in networks.items():
        for draw, some in ((1, one), (2, one["second"])) if "policies" in one else ():
            sizes = [policy["built_mb"] for policy in some["policies"]]
            cells = f"{name}, {draw}", one["engines"], f"{min(sizes):.1f} to {max(sizes):.1f}", *_cells(some)
            lines.append(f"| {' | '.join(map(str, cells))} | {some['beyond']} |")
    lines += ["", "| pairs of layers alone: network, draw | bytes: error on average, at most | kernels | beyond 2 % |"]
    lines.append("|" + "---|" * 4)
    for name, one in networks.items():
        for draw, some in enumerate(one.get("pairs_alone", ()), start=1):
            lines.append(f"| {name}, {draw} | {' | '.join(_cells(some))} | {some['beyond']} |")
    lines += ["", "| network | formats | groups | units of the largest | prices of groups | longest search, CPU s |"]
    lines.append("|" + "---|" * 6)
    for name, one in networks.items():
        if "policies" in one:
            formats = len(one["formats"])
            lines.append(
                f"| {name} | {formats} | {' | '.join(map(str, one['groups'].values()))} | {one['search_seconds']:.2f} |"
            )
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
