"""How long a certified policy search takes, beside other solvers on the same instances in the same run.

Every figure is wall time from indicators to policy: building the program, solving it and proving the answer.

`resnet50_seconds`: the published ResNet-50 instance (W3A4 at compression ratio 12.2; 52 layers x 25 pairs), which must
give the published objective. `resnet18_seconds`: ResNet-18's size at W3A4 and ratio 10. `front50_seconds`: ResNet-50 at
50 BitOps budgets from 25 to 80 G beside the ratio of 12.2, all together (`front50_alone_seconds`: without the ratio).
`conversions_seconds`: ResNet-50 within W4A4's BitOps and 1.6 ms of a made-up latency table whose conversions between
neighbours of different precision count. `layers10000_seconds`: 10,000 synthetic layers x 25 pairs, W3A4 and ratio 10.5.
`memory_mib`: what a search of that kind allocates at its peak, by number of layers. `load_average`: at the start; with
more running processes than cores every wall time is longer, ratios less so.
`rivals`: {instance: {solver: `seconds` (median), `ratio` to ours, `above` (objective above the proved optimum), `kept`
(its answer keeps the budgets, in exact integers)}}; seconds null where no proved answer came within the limit.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from search_instances import resnet18, resnet50, synthetic, with_conversions
from search_rivals import ALPHA, RIVALS, Pairs

from limpq_deploy.policy.budgets import budgets_from_options, compression_budget, latency_budget
from limpq_deploy.policy.costs import Budget, total_cost
from limpq_deploy.policy.front import parse_range, sweep
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import search_policy

PUBLISHED_OBJECTIVE = 4.61743923
FRONT = "25:80:50"
LIMIT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, and no rivals beyond ResNet-50's size")
    parser.add_argument("--smoke", action="store_true", help="few runs of small instances: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    with talk_on_stderr():
        result = measured(options)
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    if options.smoke:
        rivals = ("own", "highs", "scipy")
        return measure(runs=1, rival_runs=1, deep=False, layers=200, front="25:80:3", rivals=rivals)
    return measure(runs=9 if options.quick else 20, rival_runs=3 if options.quick else 7, deep=not options.quick)


@contextlib.contextmanager
def talk_on_stderr() -> Iterator[None]:
    """Within it what libraries print on standard output (HiGHS its banner) goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def measure(
    *,
    runs: int,
    rival_runs: int,
    deep: bool,
    layers: int = 10_000,
    front: str = FRONT,
    rivals: Sequence[str] = tuple(RIVALS),
) -> dict[str, Any]:
    load = os.getloadavg()
    large = resnet50()
    small = resnet18(large)
    huge = synthetic(layers)
    large_budgets = budgets_from_options(large, like="w3a4", compression_ratio="12.2")
    small_budgets = budgets_from_options(small, like="w3a4", compression_ratio="10")
    large_policy, large_raw = timed(lambda: search_policy(large, large_budgets, alpha=ALPHA), runs)
    small_policy, small_raw = timed(lambda: search_policy(small, small_budgets, alpha=ALPHA), runs)
    for policy in (large_policy, small_policy):
        if policy.solver.status != "optimal":
            raise SystemExit(f"{policy.model}: the answer is not proved optimal: {policy.solver}")
    if abs(large_policy.objective - PUBLISHED_OBJECTIVE) > 1e-8:
        raise SystemExit(f"the objective is {large_policy.objective}, not the published {PUBLISHED_OBJECTIVE}")
    ratio = [compression_budget(large, "12.2")]
    found, found_raw = timed(lambda: sweep(large, parse_range(front), budgets=ratio), min(runs, 3))
    alone, alone_raw = timed(lambda: sweep(large, parse_range(front)), min(runs, 3))
    edged, table = with_conversions(large)
    edged_budgets = (latency_budget(edged, table, "1.6"), *budgets_from_options(edged, like="w4a4"))
    edged_policy, edged_raw = timed(lambda: search_policy(edged, edged_budgets, alpha=ALPHA), min(runs, 5))
    huge_policy, huge_raw = timed(lambda: search_policy(huge, deep_budgets(huge)), min(runs, 3))
    instances = {"resnet50": (large, large_budgets), "resnet18": (small, small_budgets)}
    raced = {name: race(*instance, rival_runs, rivals) for name, instance in instances.items()}
    libraries = [name for name in ("own", "cbc", "highs") if name in rivals]
    raced["conversions"] = race(edged, edged_budgets, rival_runs, libraries)
    if deep:
        middle = synthetic(500)
        raced["layers500"] = race(middle, deep_budgets(middle), 1)
    return {
        "resnet50_seconds": statistics.median(large_raw),
        "resnet18_seconds": statistics.median(small_raw),
        "front50_seconds": statistics.median(found_raw),
        "front50_worst_gap": found.worst_gap,
        "layers10000_seconds": statistics.median(huge_raw),
        "layers10000_gap": huge_policy.solver.gap,
        "conversions_seconds": statistics.median(edged_raw),
        "conversions_gap": edged_policy.solver.gap,
        "conversions_raw_seconds": edged_raw,
        "front50_alone_seconds": statistics.median(alone_raw),
        "front50_alone_worst_gap": alone.worst_gap,
        "resnet50_gap": large_policy.solver.gap,
        "resnet18_gap": small_policy.solver.gap,
        "resnet50_raw_seconds": large_raw,
        "resnet18_raw_seconds": small_raw,
        "front50_raw_seconds": found_raw,
        "layers10000_raw_seconds": huge_raw,
        "memory_mib": {size: memory_mib(size) for size in (layers, 2 * layers, 4 * layers)},
        "rivals": raced,
        "layers": layers,
        "warm_up_runs": 1,
        "load_average": load,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in ("numpy", "pulp", "highspy", "scipy")},
    }


def timed(run: Callable[[], Any], runs: int) -> tuple[Any, list[float]]:
    """The answer and the wall seconds of each run, after one warm-up."""
    answer = run()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - started)
    return answer, seconds


def race(
    indicators: Indicators, budgets: Sequence[Budget], runs: int, names: Sequence[str] = tuple(RIVALS)
) -> dict[str, Any]:
    """Every solver in turn, ``runs`` times, so that a busy moment of the machine hits all of them."""
    importance = treat_outliers(indicators, "forbid")
    best = search_policy(indicators, budgets, alpha=ALPHA)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, Pairs | None] = {}
    for _ in range(runs):
        for name in names:
            if name in answers and answers[name] is None:
                continue  # too slow once: not again
            started = time.perf_counter()
            answers[name] = RIVALS[name](indicators, budgets, LIMIT_S)
            seconds[name].append(time.perf_counter() - started)
    own = statistics.median(seconds["own"])
    found: dict[str, Any] = {"bound": proved(best)}
    for name, pairs in answers.items():
        if pairs is None:
            found[name] = {"seconds": None, "stopped_after": max(seconds[name])}
            continue
        median = statistics.median(seconds[name])
        found[name] = {
            "seconds": median,
            "ratio": median / own,
            "above": objective_of(indicators, importance, pairs, ALPHA, name) - best.objective,
            "kept": all(total_cost(budget.cost, indicators, pairs) <= budget.limit for budget in budgets),
        }
    return found


def proved(policy: Policy) -> float:
    assert policy.solver is not None
    return policy.solver.bound


def deep_budgets(indicators: Indicators) -> tuple[Budget, ...]:
    return budgets_from_options(indicators, like="w3a4", compression_ratio="10.5")


def memory_mib(layers: int) -> float:
    """Peak of what one search allocates, the indicators themselves apart."""
    indicators = synthetic(layers)
    tracemalloc.start()
    search_policy(indicators, deep_budgets(indicators))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def installed(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
