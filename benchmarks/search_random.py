"""Random searches beside an independent solver: does any crash, end unproved, or end wrong?

Every instance (`random_instances`) is searched as `limpq-deploy search` does it, under the default time limit, and
judged by SciPy's `milp` on a matrix of its own and by exact integers and fractions (`random_check`).

`instances`; `crashes`: anything but a policy or a refusal of the budgets; `unproved`: policies whose `solver.status` is
not `optimal`, and refusals that say "was found"; `wrong`: a limit broken, an objective misstated, a bound above a
policy that exists, a proved policy above SciPy's, a policy where SciPy's answer shows that none was needed to be
refused; `seeds`: of all those. `infeasible`: refused budgets. `unjudged`: SciPy did not finish, so that only its best
policy could be compared. `found` says in a sentence what is wrong with each seed. `slowest_seconds`, `over_limit`: how
long searches took, and how many took longer than the limit and a tenth.
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback
from fractions import Fraction
from importlib.metadata import version
from typing import Any

from random_check import Judged, faults, gap, judge, objective_of, same_as_stated
from random_instances import Instance, instance

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import TIME_LIMIT_S, search_policy

ABOVE = 1e-9
"""Share of the objective by which a proved policy may lie above SciPy's: sums of doubles."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="20 instances of up to 40 layers")
    parser.add_argument("--smoke", action="store_true", help="3 instances of up to 8 layers")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    count, most_layers = options.instances, 80
    if options.quick:
        count, most_layers = min(count, 20), 40
    if options.smoke:
        count, most_layers = min(count, 3), 8
    seeds = range(options.first_seed, options.first_seed + count)
    result = measure([instance(seed, most_layers=most_layers) for seed in seeds])
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def measure(instances: list[Instance]) -> dict[str, Any]:
    counts = dict.fromkeys(("crashes", "unproved", "wrong", "infeasible", "unjudged", "over_limit"), 0)
    found: dict[int, str] = {}
    seconds: list[float] = []
    judge_seconds: list[float] = []
    solvers: dict[str, int] = {}
    for number, one in enumerate(instances):
        started = time.perf_counter()
        policy, refusal, crash = searched(one)
        seconds.append(time.perf_counter() - started)
        counts["over_limit"] += seconds[-1] > 1.1 * TIME_LIMIT_S
        started = time.perf_counter()
        judged = judge(one, TIME_LIMIT_S, below(one, policy))
        judge_seconds.append(time.perf_counter() - started)
        verdict, words = verdict_of(one, policy, refusal, crash, judged)
        counts["infeasible"] += refusal is not None
        counts["unjudged"] += not judged.finished
        if policy is not None and policy.solver is not None:
            solvers[policy.solver.name] = solvers.get(policy.solver.name, 0) + 1
        if verdict is not None:
            counts[verdict] += 1
            found[one.seed] = f"{verdict}: {words}; {one.title}"
        print(
            f"{number + 1}/{len(instances)} {one.title}: {seconds[-1]:.2f} s, judge {judge_seconds[-1]:.2f} s"
            f" {verdict or 'good'} {words}",
            file=sys.stderr,
        )
    return {
        "instances": len(instances),
        **counts,
        "seeds": list(found),
        "found": found,
        "solvers": solvers,
        "slowest_seconds": max(seconds, default=0.0),
        "median_seconds": sorted(seconds)[len(seconds) // 2] if seconds else 0.0,
        "judge_slowest_seconds": max(judge_seconds, default=0.0),
        "time_limit_seconds": TIME_LIMIT_S,
        "load_average": os.getloadavg(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "pulp")},
    }


def searched(one: Instance) -> tuple[Policy | None, str | None, str | None]:
    """The policy, or what the refusal says, or the last line of a traceback."""
    try:
        return search_policy(one.indicators, one.budgets, alpha=one.alpha, outliers=one.outliers), None, None
    except InfeasiblePolicy as error:
        return None, str(error), None
    except Exception:
        lines = traceback.format_exc().strip().splitlines()
        return None, None, f"{lines[-1]} ({lines[-3].strip()})"


def below(one: Instance, policy: Policy | None) -> Fraction | None:
    """The exact objective of a policy that keeps the limits."""
    if policy is None or faults(one, policy.pairs()):
        return None
    return objective_of(one, policy.pairs())


def verdict_of(
    one: Instance, policy: Policy | None, refusal: str | None, crash: str | None, judged: Judged
) -> tuple[str | None, str]:
    """``crashes``, ``wrong``, ``unproved`` or None, and why."""
    if crash is not None:
        return "crashes", crash
    if policy is None:
        assert refusal is not None
        if judged.pairs is not None:
            return "wrong", f"refused ({refusal:.80}), but SciPy found a policy"
        return ("unproved", refusal[:80]) if "was found" in refusal else (None, "")
    assert policy.solver is not None
    pairs = policy.pairs()
    broken = faults(one, pairs)
    if broken:
        return "wrong", "; ".join(broken)
    exact = objective_of(one, pairs)
    if not same_as_stated(policy.objective, exact):
        return "wrong", f"states the objective {policy.objective}, which is {float(exact)}"
    optimal = policy.solver.status == "optimal"
    if judged.pairs is not None:
        theirs = objective_of(one, judged.pairs)
        if policy.solver.bound > float(theirs) * (1 + ABOVE):
            return "wrong", f"no policy below {policy.solver.bound}, but SciPy's has {float(theirs)}"
        if optimal and gap(exact, theirs) > ABOVE:
            return "wrong", f"called optimal at {float(exact)}, but SciPy's has {float(theirs)}"
    return (None, "") if optimal else ("unproved", f"gap {policy.solver.gap:.1e} by {policy.solver.name}")


if __name__ == "__main__":
    main()
