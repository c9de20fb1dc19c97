"""The ResNet-50 policy that LIMPQ's authors published, found again from their indicators."""

from dataclasses import replace
from pathlib import Path

import pytest

from limpq_deploy.calibration.records import load_record
from limpq_deploy.policy.blocks import build_program
from limpq_deploy.policy.budgets import budgets_from_options
from limpq_deploy.policy.costs import BitOps, total_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.search import search_policy
from limpq_deploy.policy.solver.exact import solve
from limpq_deploy.policy.solver.relaxation import relax
from limpq_deploy.policy.solver.solvers import Solver

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def published() -> Policy:
    return load_record(Policy, GOLDEN / "resnet50_w3a4_cr12.2.policy.json")


def search(macs: str, solver: Solver = "auto") -> tuple[Indicators, Policy]:
    indicators = load_record(Indicators, GOLDEN / f"resnet50_{macs}_macs.indicators.json")
    budgets = budgets_from_options(indicators, like="w3a4", compression_ratio=12.2)
    return indicators, search_policy(indicators, budgets, alpha=2.0, outliers="forbid", solver=solver)


def differing(found: Policy, published: Policy) -> tuple[int, int]:
    """Number of layers whose (weight, activation) bits differ."""
    assert found.bits.keys() == published.bits.keys()
    pairs = [(found.bits[name], published.bits[name]) for name in published.bits]
    return sum(a.weight != b.weight for a, b in pairs), sum(a.act != b.act for a, b in pairs)


def test_published_policy_is_reproduced_layer_by_layer(published: Policy) -> None:
    _, found = search("official")
    assert len(published.bits) == 52
    assert differing(found, published) == (0, 0)
    assert found.objective == pytest.approx(4.61743923, abs=1e-8)
    assert found.solver is not None
    assert found.solver.status == "optimal"
    # the runner-up is 9.9e-6 worse: only a bound much closer than that tells them apart
    assert 0 <= found.solver.gap < 1e-10


@pytest.mark.parametrize("solver", ["own", "cbc", "highs"])
def test_every_solver_ends_at_the_published_policy(solver: Solver, published: Policy) -> None:
    if solver == "highs":
        pytest.importorskip("highspy", reason="HiGHS is an optional extra")
    _, found = search("official", solver)
    assert differing(found, published) == (0, 0)
    assert found.solver is not None
    assert found.solver.status == "optimal"


def test_the_runner_up_is_a_hundred_thousandth_worse_and_gives_way_as_incumbent() -> None:
    """Each choice of the optimum is forbidden in turn: the best of those optima is the runner-up."""
    indicators = load_record(Indicators, GOLDEN / "resnet50_official_macs.indicators.json")
    budgets = budgets_from_options(indicators, like="w3a4", compression_ratio=12.2)
    program = build_program(indicators, treat_outliers(indicators, "forbid"), budgets, alpha=2.0)
    relaxation = relax(program)
    best = solve(program, relaxation)
    assert best.choice is not None
    others = []
    for place in program.places(best.choice):
        value_N = program.value_N.copy()
        value_N[place] += 100.0
        without = replace(program, value_N=value_N)
        other = solve(without, relax(without)).choice
        if other is not None and without.value(other) < 100.0:
            others.append(other)
    runner_up = min(others, key=program.value)
    assert program.value(runner_up) - program.value(best.choice) == pytest.approx(9.93e-6, abs=1e-8)
    assert solve(program, relaxation, incumbent=runner_up) == best


def test_the_two_non_monotone_entries_are_forbidden_as_the_authors_did() -> None:
    _, found = search("official")
    assert found.outliers is not None
    entries = [(entry.layer, entry.tensor, entry.bits, entry.used) for entry in found.outliers.entries]
    assert entries == [("layer4.0.downsample.0", "weight", 5, None), ("layer4.2.conv3", "weight", 5, None)]


def test_true_macs_change_three_weights_and_two_activations(published: Policy) -> None:
    _, found = search("true")
    assert differing(found, published) == (3, 2)


def test_published_policy_exceeds_the_true_budget_by_half_a_percent(published: Policy) -> None:
    indicators, _ = search("true")
    (budget,) = budgets_from_options(indicators, like="w3a4")
    used = total_cost(BitOps(pinned=False), indicators, published.pairs())
    assert used / budget.limit - 1 == pytest.approx(0.00485, abs=5e-6)
