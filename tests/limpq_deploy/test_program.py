from limpq_deploy.costs import BitOps, Budget, compression_budget, like_budget, total_cost
from limpq_deploy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.outliers import treat_outliers
from limpq_deploy.program import Program, build_program


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
    (block,) = program_of(layer("a")).blocks
    assert [(option.value, option.pairs[0]) for option in block.options] == [
        (2.5, (4, 4)),
        (4.0, (4, 2)),
        (6.5, (2, 4)),
        (8.0, (2, 2)),
    ]


def test_an_option_that_costs_no_less_and_is_worth_no_more_is_dropped() -> None:
    indicators = Indicators(model="m", bits=(2, 4), layers=(layer("a"),))
    (block,) = program_of(layer("a"), budgets=(like_budget(indicators, 3, 3),)).blocks
    assert [option.pairs[0] for option in block.options] == [(4, 4), (4, 2), (2, 2)]  # (2, 4): BitOps of (4, 2), worse


def test_layers_of_one_group_are_one_block_with_one_activation_width() -> None:
    program = program_of(layer("a", group="x"), layer("b"), layer("c", group="x", num_weights=11))
    assert [block.layers for block in program.blocks] == [("a", "c"), ("b",)]
    assert all(len({act for _, act in option.pairs}) == 1 for option in program.blocks[0].options)
    widest = program.blocks[0].options[0]
    assert widest.value == 2 * 1.0 + 2 * 1.0 + 0.5


def test_rows_are_divided_by_their_common_step_and_the_limit_is_floored() -> None:
    program = program_of(layer("a"), layer("b"))
    # BitOps 6*w*a: steps of 24, limit 108; bits 10*w: steps of 20, limit 32*30/4 - 80 = 160, all of which fit
    assert program.steps == (24, 20)
    assert program.limits == (108 // 24, 80 // 20)


def test_the_costs_of_a_choice_are_those_of_its_policy() -> None:
    layers = (layer("a", group="x"), layer("b", macs=9), layer("c", group="x", num_weights=11))
    program = program_of(*layers)
    choice = (1, 2)
    pairs: dict[str, tuple[int, int]] = {}
    for block, number in zip(program.blocks, choice, strict=True):
        pairs |= dict(zip(block.layers, block.options[number].pairs, strict=True))
    indicators = Indicators(model="m", bits=(2, 4), layers=layers)
    assert program.costs(choice)[0] * program.steps[0] == total_cost(BitOps(pinned=False), indicators, pairs)
