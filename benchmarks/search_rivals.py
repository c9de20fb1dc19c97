"""Ways to solve one policy search: ours, and the libraries', each from indicators to (weight_bits, act_bits) by layer.

Libraries get our program (dominated options dropped, rows divided by their limits, objective scaled, gap 0) without our
proof; `authors_way` is the model as LIMPQ's authors build it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from limpq_deploy.policy.blocks import build_program
from limpq_deploy.policy.costs import Budget, pinned_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.solver.deadline import Deadline
from limpq_deploy.policy.solver.milp import Library, solve_milp
from limpq_deploy.policy.solver.program import Program
from limpq_deploy.policy.solver.relaxation import relax

Pairs = dict[str, tuple[int, int]]
Rival = Callable[[Indicators, Sequence[Budget], float], Pairs | None]
"""Indicators, budgets and a time limit in seconds -> the answer, None where the time was too short."""

FORBIDDEN = 1e8
"""What the authors price a forbidden entry at."""

ALPHA = 2.0


def ours(indicators: Indicators, budgets: Sequence[Budget], limit_s: float) -> Pairs | None:
    return search_policy(indicators, budgets, alpha=ALPHA).pairs()


def cbc(indicators: Indicators, budgets: Sequence[Budget], limit_s: float) -> Pairs | None:
    return _library(indicators, budgets, limit_s, "cbc")


def highs(indicators: Indicators, budgets: Sequence[Budget], limit_s: float) -> Pairs | None:
    return _library(indicators, budgets, limit_s, "highs")


def scipy(indicators: Indicators, budgets: Sequence[Budget], limit_s: float) -> Pairs | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    program = _program(indicators, budgets)
    options = len(program.value_N)
    one_each = csr_array((np.ones(options), (program.block_of, np.arange(options))))
    limit_M = np.maximum(np.array(program.limits, float), 1)
    done = milp(
        program.value_N * 1e4,
        integrality=np.ones(options),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(program.cost_MN / limit_M[:, None], -np.inf, (limit_M + 0.5) / limit_M),
        ],
        options={"mip_rel_gap": 0, "time_limit": limit_s},
    )
    if done.status != 0:
        return None
    ends = zip(program.start_B1, program.start_B1[1:], strict=False)
    return program.pairs(tuple(int(done.x[begin:end].argmax()) for begin, end in ends))


def authors_way(indicators: Indicators, budgets: Sequence[Budget], limit_s: float) -> Pairs | None:
    """One binary per (layer, weight bits, activation bits), forbidden entries priced at 1e8, nothing dropped or scaled,
    CBC with its own defaults."""
    import pulp

    importance = treat_outliers(indicators, "forbid")
    pairs = [(w, a) for w in range(len(indicators.bits)) for a in range(len(indicators.bits))]
    problem = pulp.LpProblem("authors", pulp.LpMinimize)
    picks = {}
    value = []
    for at, layer in enumerate(indicators.layers):
        weight = [FORBIDDEN if entry is None else entry for entry in importance.weight[layer.name]]
        act = [FORBIDDEN if entry is None else entry for entry in importance.act[layer.name]]
        for w, a in pairs:
            picks[at, w, a] = pulp.LpVariable(f"x{at}_{w}_{a}", cat=pulp.LpBinary)
            value.append((picks[at, w, a], ALPHA * weight[w] + act[a]))
    problem += pulp.LpAffineExpression(value)
    for at in range(len(indicators.layers)):
        problem += pulp.lpSum(picks[at, w, a] for w, a in pairs) == 1
    for budget in budgets:
        terms = [
            (pick, budget.cost.of_layer(indicators.layers[at], indicators.bits[w], indicators.bits[a]))
            for (at, w, a), pick in picks.items()
        ]
        problem += pulp.LpAffineExpression(terms) <= budget.limit - pinned_cost(budget.cost, indicators)
    status = problem.solve(pulp.PULP_CBC_CMD(msg=False, threads=1, timeLimit=limit_s))
    if status != pulp.LpStatusOptimal or problem.sol_status != pulp.LpSolutionOptimal:
        return None
    return {
        layer.name: max(
            ((indicators.bits[w], indicators.bits[a]) for w, a in pairs if (picks[at, w, a].value() or 0) > 0.5),
        )
        for at, layer in enumerate(indicators.layers)
    }


RIVALS: dict[str, Rival] = {
    "own": ours,
    "cbc": cbc,
    "highs": highs,
    "scipy": scipy,
    "authors_way": authors_way,
}


def _library(indicators: Indicators, budgets: Sequence[Budget], limit_s: float, library: Library) -> Pairs | None:
    program = _program(indicators, budgets)
    answer = solve_milp(program, relax(program).bound, library, deadline=Deadline.within(limit_s))
    return program.pairs(answer.choice) if answer.choice is not None and answer.finished else None


def _program(indicators: Indicators, budgets: Sequence[Budget]) -> Program:
    return build_program(indicators, treat_outliers(indicators, "forbid"), budgets, alpha=ALPHA)
