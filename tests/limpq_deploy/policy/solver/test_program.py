from dataclasses import dataclass, replace

from limpq_deploy.policy.blocks import build_program, limits_of
from limpq_deploy.policy.budgets import compression_budget, like_budget
from limpq_deploy.policy.costs import BitOps, Budget, LayerShape, total_cost
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.solver.program import Program


def layer(name: str, *, group: str | None = None, macs: int = 6, num_weights: int = 10) -> LayerIndicators:
    return LayerIndicators(
        name=name, macs=macs, num_weights=num_weights, weight=(3.0, 1.0), act=(2.0, 0.5), act_group=group
    )


def program_of(*layers: LayerIndicators, budgets: tuple[Budget, ...] = ()) -> Program:
    pinned = (PinnedLayer(name="stem", macs=5, num_weights=10, weight_bits=8, act_bits=8),)
    indicators = Indicators(model="m", bits=(2, 4), layers=layers, pinned=pinned)
    budgets = budgets or (like_budget(indicators, 3, 3), compression_budget(indicators, 4))
    return build_program(indicators, treat_outliers(indicators, "forbid"), budgets, alpha=2.0)


def test_a_layer_is_a_block_with_one_option_per_pair() -> None:
    program = program_of(layer("a"))
    options = [(program.value((number,)), program.pairs((number,))["a"]) for number in program.ranges()[0]]
    assert options == [(2.5, (4, 4)), (4.0, (4, 2)), (6.5, (2, 4)), (8.0, (2, 2))]


def test_an_option_that_costs_no_less_and_is_worth_no_more_is_dropped() -> None:
    indicators = Indicators(model="m", bits=(2, 4), layers=(layer("a"),))
    program = program_of(layer("a"), budgets=(like_budget(indicators, 3, 3),))
    assert program.bits[0][:, 0].tolist() == [[4, 4], [4, 2], [2, 2]]  # (2, 4): BitOps of (4, 2), worse


def test_layers_of_one_group_are_one_block_with_one_activation_width() -> None:
    program = program_of(layer("a", group="x"), layer("b"), layer("c", group="x", num_weights=11))
    assert program.layers == (("a", "c"), ("b",))
    assert all(len(set(acts)) == 1 for acts in program.bits[0][:, :, 1].tolist())
    assert program.value_N[0] == 2 * 1.0 + 2 * 1.0 + 0.5


def test_rows_are_divided_by_their_common_step_and_the_limit_is_floored() -> None:
    program = program_of(layer("a"), layer("b"))
    # BitOps 6*w*a: steps of 24, limit 108; bits 10*w: steps of 20, limit 32*30/4 - 80 = 160, all of which fit
    assert program.steps == (24, 20)
    assert program.limits == (108 // 24, 80 // 20)


def test_the_costs_of_a_choice_are_those_of_its_policy() -> None:
    layers = (layer("a", group="x"), layer("b", macs=9), layer("c", group="x", num_weights=11))
    program = program_of(*layers)
    choice = (1, 2)
    indicators = Indicators(model="m", bits=(2, 4), layers=layers)
    assert program.costs(choice)[0] * program.steps[0] == total_cost(
        BitOps(pinned=False), indicators, program.pairs(choice)
    )


def test_other_limits_leave_the_blocks_alone() -> None:
    layers = (layer("a"), layer("b", macs=9))
    program = program_of(*layers)
    pinned = (PinnedLayer(name="stem", macs=5, num_weights=10, weight_bits=8, act_bits=8),)
    indicators = Indicators(model="m", bits=(2, 4), layers=layers, pinned=pinned)
    tighter = (like_budget(indicators, 2, 3), compression_budget(indicators, 5))
    again = program.with_limits(limits_of(program, indicators, tighter))
    assert again.limits == program_of(*layers, budgets=tighter).limits != program.limits
    assert again.value_N is program.value_N


def test_of_options_equal_in_value_and_cost_the_balanced_one_stays() -> None:
    """Equal BitOps of 3x4, 4x3, 2x6 and 6x2, and nothing else counts: larger min(w, a) first, then larger w."""
    flat = LayerIndicators(name="a", macs=1, num_weights=0, weight=(1.0,) * 4, act=(1.0,) * 4)
    indicators = Indicators(model="m", bits=(2, 3, 4, 6), layers=(flat,))
    importance = treat_outliers(indicators, "keep")
    costs = replace(like_budget(indicators, 3, 4), cost=AtLeast())
    program = build_program(indicators, importance, (costs,), alpha=1.0)
    assert program.bits[0].tolist() == [[[4, 3]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLeast:
    """A cost of 0 for every pair of 12 BitOps or more, so that those are all alike, but for the widest."""

    name: str = "short"
    unit: str = "BitOps"
    pinned: bool = False

    def of_layer(self, layer: LayerShape, weight_bits: int, act_bits: int) -> int:
        return 0 if weight_bits * act_bits == 12 else 1
