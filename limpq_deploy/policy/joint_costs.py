"""What layers cost together becomes joint costs of their blocks: see `costs.Handover`.

Pairs of bits that no handover tells apart are one class. Options of different classes never push each other out, as a
dearer one may spare a conversion. L: layer, K: option.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.policy.costs import Budget, Handover, handovers_of
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.solver.program import MAX_COST, Block, Integers, JointCost, Program

Classes = dict[str, dict[BitPair, int]]
"""By layer that hands over or takes, the class of each of its pairs of bits."""


def handover_classes(indicators: Indicators, budgets: Sequence[Budget]) -> Classes:
    """Classes of all layers that take part in a handover; empty where no budget has one."""
    bits = tuple(product(indicators.bits, indicators.bits))
    parts: dict[str, list[Handover]] = {}
    for budget in budgets:
        for one in handovers_of(budget.cost):
            for layer in one.layers:
                parts.setdefault(layer, []).append(one)
    classes: Classes = {}
    for layer, handovers in parts.items():
        numbers: dict[tuple[object, ...], int] = {}
        classes[layer] = {
            pair: numbers.setdefault(tuple(one.precision(layer, pair) for one in handovers), len(numbers))
            for pair in bits
        }
    return classes


def class_columns(classes: Classes, layers: Sequence[str], bits_KG2: np.ndarray) -> Integers:
    """[K, columns]: equal rows are options of one class; no columns where these layers hand nothing over."""
    columns = [
        [classes[layer][weight_bits, act_bits] for weight_bits, act_bits in bits_KG2[:, place].tolist()]
        for place, layer in enumerate(layers)
        if layer in classes
    ]
    return np.array(columns, np.int64).reshape(len(columns), len(bits_KG2)).T


def with_handovers(blocks: Sequence[Block], classes: Classes, budgets: Sequence[Budget]) -> Program:
    """The program of these blocks with what they cost together; inside a block it is part of its options' cost. Raises
    OverflowError beyond MAX_COST."""
    whole = Program.of(blocks, [0] * len(budgets))
    if not classes:
        return whole
    home = {layer: (at, place) for at, block in enumerate(blocks) for place, layer in enumerate(block.layers)}
    numbered = [_numbered(class_columns(classes, block.layers, block.bits_KG2)) for block in blocks]
    cost_MN = whole.cost_MN.copy()
    tables: dict[tuple[int, tuple[int, ...]], Integers] = {}
    for row, budget in enumerate(budgets):
        for one in handovers_of(budget.cost):
            places = [home[layer] for layer in one.layers]
            at = tuple(sorted({block for block, _ in places}))
            if len(at) == 1:
                options = whole.options_of(at[0])
                bits_KL2 = blocks[at[0]].bits_KG2[:, [place for _, place in places]]
                cost_MN[row, options.start : options.stop] += [one.between(*map(_pair, some)) for some in bits_KL2]
                continue
            examples = [blocks[block].bits_KG2[numbered[block][1]] for block in at]
            cost = np.zeros([len(some) for some in examples], np.int64)
            for classes_B in np.ndindex(cost.shape):
                chosen = dict(zip(at, classes_B, strict=True))
                bits = (examples[at.index(block)][chosen[block], place] for block, place in places)
                cost[classes_B] = one.between(*map(_pair, bits))
            if cost.max() > MAX_COST:
                raise OverflowError
            tables[row, at] = tables[row, at] + cost if (row, at) in tables else cost
    return replace(
        whole,
        cost_MN=cost_MN,
        tables=tuple(
            JointCost(row=row, blocks=at, cost=cost)
            for (row, at), cost in sorted(tables.items(), key=lambda item: item[0])
            if cost.any()
        ),
        class_N=np.concatenate([class_K for class_K, _ in numbered]),
    )


def _numbered(columns_KC: Integers) -> tuple[Integers, Integers]:
    """The class of each option, from 0 without gaps, and an option of each class."""
    if not columns_KC.shape[1]:
        return np.zeros(len(columns_KC), np.int64), np.zeros(1, np.int64)
    _, example_C, class_K = np.unique(columns_KC, axis=0, return_index=True, return_inverse=True)
    return class_K.reshape(-1).astype(np.int64), example_C


def _pair(bits: np.ndarray) -> BitPair:
    return int(bits[0]), int(bits[1])
