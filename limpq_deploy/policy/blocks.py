"""Indicators and budgets become the blocks of the integer program.

    minimise  sum_l alpha * I_w[l][w_l] + I_a[l][a_l]     subject to     sum_l cost_j(l, w_l, a_l) <= limit_j

(Tang et al., Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance, ECCV 2022.)

A block is one layer, or layers that are decided together (`admitted.components`): those of one ``act_group`` have one
activation bit-width, whose indicator counts once; those of one ``tie`` share both. An entry without importance, or a
pair that is not admitted, has no option; an option that another of its block matches or beats in value and in every
row is dropped, unless the two differ in what neighbours pay beside them (`joint_costs`). L: single layer, K: option,
M: row, G: layer of a group.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import fsum

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.policy.admitted import components, nothing_in_common, tie_classes
from limpq_deploy.policy.costs import Budget, pinned_cost
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.joint_costs import Classes, class_columns, handover_classes, with_handovers
from limpq_deploy.policy.outliers import Importance
from limpq_deploy.policy.solver.pareto import undominated
from limpq_deploy.policy.solver.program import MAX_COST, Block, Floats, Integers, Program
from limpq_deploy.policy.units import in_units

MAX_OPTIONS = 20_000
"""Options of one block. A layer has at most (number of bits)^2; only an act_group of many unlike layers gets near."""

CHUNK = 2_000
"""Layers whose options are compared at a time: bounds the memory of the comparison."""


def build_program(
    indicators: Indicators, importance: Importance, budgets: Sequence[Budget], *, alpha: float
) -> Program:
    """The program of these indicators and budgets, in larger units where costs are beyond 64-bit integers. Raises
    SettingError where no bit-widths are left to a layer."""
    try:
        return _build(indicators, importance, budgets, alpha)
    except OverflowError:
        some, sizes = zip(*(in_units(budget, indicators, importance) for budget in budgets), strict=True)
        built = _build(indicators, importance, some, alpha)
        steps = tuple(step * size for step, size in zip(built.steps, sizes, strict=True))
        whole = replace(built, steps=steps, rounded=True)
        return whole.with_limits(limits_of(whole, indicators, budgets))


def _build(indicators: Indicators, importance: Importance, budgets: Sequence[Budget], alpha: float) -> Program:
    """Raises OverflowError where costs are beyond 64-bit integers."""
    groups = components(indicators.layers)
    singles = [layers[0] for layers in groups if len(layers) == 1]
    classes = handover_classes(indicators, budgets)
    made = iter(_single_blocks(singles, indicators.bits, importance, budgets, alpha, classes))
    blocks = [
        next(made) if len(layers) == 1 else _tied_block(layers, indicators.bits, importance, budgets, alpha, classes)
        for layers in groups
    ]
    return _in_steps(with_handovers(blocks, classes, budgets), indicators, budgets)


def limits_of(program: Program, indicators: Indicators, budgets: Sequence[Budget]) -> tuple[int, ...]:
    """Right-hand sides of a built program: the pinned layers' constant taken off, in steps of the rows' costs, rounded
    down, and no larger than the dearest choice."""
    free = [budget.limit - pinned_cost(budget.cost, indicators) for budget in budgets]
    return tuple(min(limit // step, most) for limit, step, most in zip(free, program.steps, program.most, strict=True))


def _in_steps(program: Program, indicators: Indicators, budgets: Sequence[Budget]) -> Program:
    """Every row divided by the common divisor of its costs, and the limits."""
    if any(most > MAX_COST for most in program.most):
        raise OverflowError
    steps = np.gcd.reduce(program.cost_MN, axis=1)
    for one in program.tables:
        steps[one.row] = np.gcd(steps[one.row], np.gcd.reduce(one.cost, axis=None))
    steps = np.maximum(steps, 1)
    stepped = replace(
        program,
        cost_MN=program.cost_MN // steps[:, None],
        steps=tuple(steps.tolist()),
        tables=tuple(replace(one, cost=one.cost // steps[one.row]) for one in program.tables),
    )
    return stepped.with_limits(limits_of(stepped, indicators, budgets))


def _preferred(bits: Sequence[int]) -> list[tuple[int, int]]:
    """(weight_bits, act_bits), the ones preferred among equals first: larger min(w, a), then w, then a."""
    return sorted(product(bits, bits), key=lambda pair: (-min(pair), -pair[0], -pair[1]))


def _single_blocks(
    layers: Sequence[LayerIndicators],
    bits: Sequence[int],
    importance: Importance,
    budgets: Sequence[Budget],
    alpha: float,
    classes: Classes,
) -> list[Block]:
    pairs = _preferred(bits)
    bits_K2 = np.array(pairs, np.int16)
    at = {width: index for index, width in enumerate(bits)}
    weight_K, act_K = np.array([[at[weight], at[act]] for weight, act in pairs]).T
    blocks: list[Block] = []
    for begin in range(0, len(layers), CHUNK):
        chunk = layers[begin : begin + CHUNK]
        weight_LW = _prices([importance.weight[layer.name] for layer in chunk])
        act_LW = _prices([importance.act[layer.name] for layer in chunk])
        value_LK = act_LW[:, act_K] + alpha * weight_LW[:, weight_K]
        value_LK[np.isnan(value_LK)] = np.inf
        for row, layer in enumerate(chunk):
            if layer.name in importance.pairs:
                value_LK[row, [pair not in importance.pairs[layer.name] for pair in pairs]] = np.inf
        cost_MLK = np.array([_costs(chunk, pairs, budget) for budget in budgets]).reshape(len(budgets), *value_LK.shape)
        class_LK = np.zeros(value_LK.shape, np.int64)
        for row, layer in enumerate(chunk):
            if layer.name in classes:
                class_LK[row] = [classes[layer.name][pair] for pair in pairs]
        order_LK = np.lexsort((*cost_MLK[::-1], value_LK), axis=-1)
        value_LK = np.take_along_axis(value_LK, order_LK, axis=-1)
        cost_MLK = np.take_along_axis(cost_MLK, order_LK[None], axis=-1)
        class_LK = np.take_along_axis(class_LK, order_LK, axis=-1)
        kept_LK = _unbeaten(cost_MLK, class_LK) & (value_LK < np.inf)
        for row, layer in enumerate(chunk):
            kept = np.flatnonzero(kept_LK[row])
            if not len(kept):
                raise nothing_in_common([layer])
            blocks.append(
                Block(
                    layers=(layer.name,),
                    value_K=value_LK[row, kept],
                    cost_MK=cost_MLK[:, row, kept],
                    bits_KG2=bits_K2[order_LK[row, kept], None],
                )
            )
    return blocks


def _prices(entries: Sequence[tuple[float | None, ...]]) -> Floats:
    """Not a number where an entry is forbidden."""
    return np.array(entries, np.float64)


def _costs(layers: Sequence[LayerIndicators], pairs: Sequence[tuple[int, int]], budget: Budget) -> Integers:
    """Cost of every layer at every pair, flat. Raises OverflowError beyond MAX_COST."""
    of_layer = budget.cost.of_layer
    costs = np.array([of_layer(layer, *pair) for layer in layers for pair in pairs], np.int64)
    if costs.size and costs.max() > MAX_COST:
        raise OverflowError
    return costs


def _unbeaten(cost_MLK: Integers, class_LK: Integers) -> NDArray[np.bool_]:
    """[L, K]: no earlier option of the layer and of its class costs as little in every row. Options stand by ascending
    value."""
    matched_LKK = class_LK[:, :, None] == class_LK[:, None, :]
    for cost_LK in cost_MLK:
        matched_LKK &= cost_LK[:, :, None] <= cost_LK[:, None, :]
    earlier_KK = np.triu(np.ones(matched_LKK.shape[1:], bool), 1)
    return np.asarray(~(matched_LKK & earlier_KK).any(axis=1))


def _tied_block(
    layers: Sequence[LayerIndicators],
    bits: Sequence[int],
    importance: Importance,
    budgets: Sequence[Budget],
    alpha: float,
    classes: Classes,
) -> Block:
    """Options of layers with one activation width, over all such widths. Inside one width, layers that share their
    weight bits are joined one after another and what is dominated is dropped on the way: partial options of one width
    have the same continuations."""
    units = tie_classes(layers)
    widths = [
        width
        for act_bits, act_value in zip(bits, _act_values(layers, importance), strict=True)
        if act_value is not None
        and (width := _one_width(units, bits, act_bits, act_value, importance, budgets, alpha, classes)) is not None
    ]
    if not widths:
        raise nothing_in_common(layers)
    joined = Block(
        layers=widths[0].layers,
        value_K=np.concatenate([width.value_K for width in widths]),
        cost_MK=np.concatenate([width.cost_MK for width in widths], axis=1),
        bits_KG2=np.concatenate([width.bits_KG2 for width in widths]),
    )
    return _worth_keeping(joined, classes)


def _act_values(layers: Sequence[LayerIndicators], importance: Importance) -> list[float | None]:
    """Activation importance of these layers together, by width; that of an act_group counts once."""
    leaders = {layer.act_group: layer.name for layer in reversed(layers)}
    counts = [layer.act_group is None or leaders[layer.act_group] == layer.name for layer in layers]
    by_width = zip(*(importance.act[layer.name] for layer in layers), strict=True)
    return [
        None if None in values else fsum(value or 0.0 for value, once in zip(values, counts, strict=True) if once)
        for values in by_width
    ]


def _one_width(
    units: Sequence[Sequence[LayerIndicators]],
    bits: Sequence[int],
    act_bits: int,
    act_value: float,
    importance: Importance,
    budgets: Sequence[Budget],
    alpha: float,
    classes: Classes,
) -> Block | None:
    """Options at one activation width; None where a unit has none. Layers of a unit have the same weight bits."""
    joined = Block(
        layers=(),
        value_K=np.array([act_value]),
        cost_MK=np.zeros((len(budgets), 1), np.int64),
        bits_KG2=np.zeros((1, 0, 2), np.int16),
    )
    for unit in units:
        own = _unit_values(unit, bits, act_bits, importance)
        if not own:
            return None
        pairs = [(width, act_bits) for width in own]
        cost_MK = np.array([_together(unit, pairs, budget) for budget in budgets])
        if len(joined.value_K) * len(own) > MAX_OPTIONS * len(bits):
            names = ", ".join(layer.name for some in units for layer in some)
            raise SettingError(f"too many unlike layers share one activation bit-width ({names}); tie fewer")
        pairs_KG2 = np.repeat(np.array(pairs, np.int16)[:, None], len(unit), axis=1)
        before, count = len(joined.value_K), len(own)
        joined = Block(
            layers=(*joined.layers, *(layer.name for layer in unit)),
            value_K=np.add.outer(joined.value_K, alpha * np.array(list(own.values()))).ravel(),
            cost_MK=(joined.cost_MK[:, :, None] + cost_MK[:, None, :]).reshape(len(budgets), -1),
            bits_KG2=np.concatenate(
                [np.repeat(joined.bits_KG2, count, axis=0), np.tile(pairs_KG2, (before, 1, 1))], axis=1
            ),
        )
        if joined.cost_MK.max(initial=0) > MAX_COST:
            raise OverflowError
        joined = _worth_keeping(joined, classes)
    return joined


def _together(unit: Sequence[LayerIndicators], pairs: Sequence[tuple[int, int]], budget: Budget) -> Integers:
    """Cost of all layers of a unit at every pair."""
    cost_LK = _costs(unit, pairs, budget).reshape(len(unit), len(pairs))
    if cost_LK.max(axis=1).sum(dtype=np.float64) > MAX_COST:
        raise OverflowError
    together: Integers = cost_LK.sum(axis=0)
    return together


def _unit_values(
    unit: Sequence[LayerIndicators], bits: Sequence[int], act_bits: int, importance: Importance
) -> dict[int, float]:
    """Weight importance of a unit by the weight bits that all its layers may take beside ``act_bits``."""
    values: dict[int, float] = {}
    for place, width in enumerate(bits):
        entries = [importance.weight[layer.name][place] for layer in unit]
        admitted = [importance.pairs.get(layer.name) for layer in unit]
        if None not in entries and all(pairs is None or (width, act_bits) in pairs for pairs in admitted):
            values[width] = fsum(entry or 0.0 for entry in entries)
    return values


def _worth_keeping(block: Block, classes: Classes) -> Block:
    """The options that no other of their class matches or beats, by ascending value. Of equal ones the preferred stays:
    layer by layer that with the larger min(w, a), then w, then a."""
    weight_GK, act_GK = block.bits_KG2.transpose(2, 1, 0)
    keys = np.stack([-np.minimum(weight_GK, act_GK), -weight_GK, -act_GK], axis=1).reshape(-1, len(block.value_K))
    order = np.lexsort(keys[::-1])
    columns_KC = class_columns(classes, block.layers, block.bits_KG2)
    apart_KM = np.concatenate([block.cost_MK.T, columns_KC, -columns_KC], axis=1)
    kept = order[undominated(block.value_K[order], apart_KM[order])]
    return replace(block, value_K=block.value_K[kept], cost_MK=block.cost_MK[:, kept], bits_KG2=block.bits_KG2[kept])
