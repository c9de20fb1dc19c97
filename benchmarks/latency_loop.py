"""The loop of `build --max-latency-ms` on ResNet-18, ONNX Runtime CPU: profile, search, time, correct, search again.

Layers choose between u8s8 and float32. No training: graphs are stand-ins, and the importance of a layer is the paper's
first scale of its fresh weight. Limits lie between the all-integer and the all-float graph.

Keys: ``prediction_error``: the largest |predicted / measured - 1| of the policies taken; ``first_error``: of the first
rounds, by tables that knew none of these policies; ``rounds``: the most that a limit took; ``unseen_errors``: of the
profile's mixed graphs, each by a table without it; ``bitops_rank_correlation``: executed BitOps with latency over the
study's native sweep, with its interval; ``narrow_spread``: of latency over 2 to 8 bits, relative; ``limits``: one entry
each. With ``--cpu-time`` all figures are the lower decile of CPU time on one thread, which others disturb less.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_bench import SIZE, Model, machine, prepare

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.timing.profile import ProfileSettings, errors, profile, skeleton_of
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.latency.rounds import Timed, go_round
from limpq_deploy.pipeline.stages.rounds import measure_study, time_policy
from limpq_deploy.policy.budgets import latency_budget
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import search_policy
from limpq_deploy.progress import silent

NAME = "torchvision/resnet18"
SHARES = (0.25, 0.5, 0.75)
"""Where the limits lie between the all-integer and the all-float graph."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one limit, shorter runs")
    parser.add_argument(
        "--smoke", action="store_true", help="64 px, one limit, 20 ms for each: that it runs to its end"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--threads", type=int, help="default: the runtime's own choice")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of one thread instead of the clock's")
    parser.add_argument("--model", default=NAME, help=f"default: {NAME}")
    options = parser.parse_args()
    settings = ProfileSettings(
        threads=1 if options.cpu_time else options.threads or "default",
        seconds=0.02 if options.smoke else 1.0 if options.quick else 2.0,
        mixed=2 if options.smoke else 6 if options.quick else 12,
        cpu_time=options.cpu_time,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(options.model, Path(folder), 64 if options.smoke else SIZE)
        result = measure(model, settings, SHARES[1:2] if options.quick or options.smoke else SHARES)
    result |= {"model": options.model, "quick": options.quick, "smoke": options.smoke, **machine()}
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def measure(model: Model, settings: ProfileSettings, shares: tuple[float, ...]) -> dict[str, Any]:
    started = time.perf_counter()
    runtime = runtime_named("onnxruntime")
    say("profile", started)
    table = profile(model.template, model.placement, model.triples, runtime, settings)
    profiled = time.perf_counter() - started
    ends = {one.name: one.measured_ms for one in table.observations}
    fast, slow = ends["uniform w8a8"], ends["uniform w32a32"]
    limits = []
    for share in shares:
        say(f"limit at {share:g}", started)
        limits.append(go(model, table, fast + share * (slow - fast), settings))
    say("study", started)
    found = measure_study(model.template, model.placement, model.indicators, runtime, settings, silent)
    return {
        "prediction_error": max(abs(one["error"]) for one in limits),
        "first_error": max(abs(one["rounds"][0]["error"]) for one in limits),
        "rounds": max(len(one["rounds"]) for one in limits),
        "converged": all(one["converged"] for one in limits),
        "unseen_errors": sorted(abs(error) for error in errors(table)),
        "bitops_rank_correlation": found.realised.value,
        "bitops_rank_interval": [found.realised.low, found.realised.high],
        "bitops_line_r2": found.explained,
        "narrow_spread": found.narrow_spread,
        "study": [[point.name, point.nominal, point.realised, point.ms, point.residual_ms] for point in found.points],
        "uniform_ms": ends,
        "limits": limits,
        "doubts": sorted({doubt for one in table.observations for doubt in one.doubts}),
        "figure": "lower decile of CPU time, one thread"
        if settings.cpu_time
        else f"p50 of a call, threads: {settings.threads}",
        "profile_seconds": round(profiled, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def go(model: Model, table: LatencyTable, limit_ms: float, settings: ProfileSettings) -> dict[str, Any]:
    """One limit, met or not."""
    runtime = runtime_named("onnxruntime")
    measured = tuple(dict.fromkeys((one.weight_bits, one.act_bits) for one in table.times))

    def solve(current: LatencyTable, aim_ms: float) -> Policy:
        budget = latency_budget(model.indicators, current, aim_ms)
        return search_policy(model.indicators, [budget], alpha=1.0, outliers="keep")

    def timed(pairs: Mapping[str, BitPair]) -> Timed:
        return time_policy(model.template, model.placement, pairs, table, runtime, settings)

    _, found = go_round(
        table,
        skeleton_of(model.placement, model.triples, measured),
        limit_ms=limit_ms,
        solve=solve,
        time=timed,
    )
    return {
        "limit_ms": limit_ms,
        "converged": found.converged,
        "why": found.why,
        "error": found.last.error,
        "float_layers": sum(pair == (32, 32) for pair in found.last.pairs.values()),
        "rounds": [
            {
                "predicted_ms": one.predicted_ms,
                "measured_ms": one.measured_ms,
                "error": one.error,
                "speed": one.speed,
                "holds": one.holds,
            }
            for one in found.rounds
        ],
    }


def say(what: str, started: float) -> None:
    print(f"{time.perf_counter() - started:6.0f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
